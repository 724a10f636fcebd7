"""What is asked and answered: each module has a `router`."""
