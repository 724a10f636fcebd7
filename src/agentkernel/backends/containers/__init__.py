"""Container engines: Docker and Podman, one code path with two dialects."""
