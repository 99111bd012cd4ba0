"""A server that speaks the protocol of Redis over one replicated structure: docs/redis-server.md says what it can do."""
