"""Suites that any transport or storage must pass; subclass one in a test module (needs the ``test`` extra)."""
