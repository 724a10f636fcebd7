"""What flows: each module has a `router`."""
