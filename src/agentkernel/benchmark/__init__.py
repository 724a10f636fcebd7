"""What sandboxes cost, measured through the kernel's door: behind `agentkernel benchmark` and the project's own benchmarks."""
