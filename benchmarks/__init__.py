"""The benchmarks behind the promises: `python -m benchmarks --help`. They use an installed agentkernel and real tools beside it."""
