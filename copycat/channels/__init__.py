"""The four channels between a consumer's threads and the engine: bounded queues with a wake-up only where someone sleeps.

On the consumer's side every method may be called from any thread. On the engine's side (methods that say so) everything
comes from one thread and never waits: a channel that is full says so, and the engine goes on with others.

A method that waits has a twin that doesn't: ``ready(listener)`` and its like say whether there is anything to wait for, and if
there is, have ``listener`` called once when that may have changed. :mod:`copycat.aio` is made of these.
"""
