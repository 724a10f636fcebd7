"""The Python SDK: `aio` is the implementation, `sync` the same from threads; both over `abc.Kernel`, in process or behind the daemon."""
