"""The sync API: thin classes that run the async ones on a private event loop in a thread of its own."""
