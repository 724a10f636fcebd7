"""The daemon: one engine over the user's store, behind a unix socket (docs/door-protocol.md). Clients start it; it ends when it is idle."""
