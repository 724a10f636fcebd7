"""gVisor: a kernel in user space, by its `runsc` and a bundle of our own, without any container engine.

runtime.py   which runsc there is, what its release can do, and what is remembered of it
bundle.py    SandboxSpec -> the OCI bundle's config.json, pure
layout.py    SandboxSpec -> launch plan: the file tree of `_linux.tree` beside what runsc needs, pure
configuration.py what the agent is told: filter and resource limits
memory.py    how much memory the processes of a sandbox use
fingerprint.py what is declared about this host
build.py     building a sandbox, each thing recorded before it is made
backend.py   the probe: which platform runs a program
"""
