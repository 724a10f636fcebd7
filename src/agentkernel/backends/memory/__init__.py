"""A backend that isolates nothing: the real guest agent as a plain process, for tests of what stands above a backend."""
