"""The engine: implements `abc.Kernel` in process. It decides nothing (that is policy) and isolates nothing (that is a backend)."""
