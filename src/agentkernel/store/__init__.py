"""Where sandboxes and events are kept: on disk (`sqlite`), or as long as the process lives (`memory`). Both are an `abc.Store`."""
