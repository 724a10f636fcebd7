"""The async API: every class that the SDK has, over `abc.Kernel`."""
