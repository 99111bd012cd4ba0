"""Keys, and what is done with them: who may connect, who may speak as whom, and how gossip is sealed.

Nothing here is loaded before a node is given keys, but for :mod:`copycat.security.guard`, which then finds none. The
threat model is in docs/security.md.
"""
