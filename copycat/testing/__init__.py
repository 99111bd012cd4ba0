"""What others may test with: contract suites for transports and storages, and a simulation of the whole library.

:mod:`copycat.testing.contracts` holds what every transport and every storage must pass. :mod:`copycat.testing.simulation`
runs real engines in virtual time, over a simulated network, disks and clocks, from one seed::

    from copycat.testing.scenario import draw
    from copycat.testing.simulation import run

    report = run(draw(seed=42))
    assert report.failure is None

docs/simulation.md says what is simulated, what is checked, and what is not.
"""
