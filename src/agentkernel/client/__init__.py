"""The kernel behind the daemon's socket, and copying of trees between host and sandbox. Blind to the engine."""
