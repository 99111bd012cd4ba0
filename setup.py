"""Maps the top-level folders to the packages they are installed as.

Everything else about the project is declared in pyproject.toml; only this mapping needs code, because each subpackage
of ``copycat/`` is listed by looking, so that a new one can't be forgotten.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        "copycat",
        *(f"copycat.{name}" for name in find_packages("copycat")),
        "copycat.transports",
        "copycat.storage",
        "copycat.examples",
        *(f"copycat.examples.{name}" for name in find_packages("examples")),
    ],
    package_dir={
        "copycat": "copycat",
        "copycat.transports": "transports",
        "copycat.storage": "storage",
        "copycat.examples": "examples",
    },
    package_data={"copycat": ["py.typed"], "copycat.web": ["static/*"]},
)
