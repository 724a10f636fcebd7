"""Linux namespaces: the embedded default backend, which needs neither root nor any other program.

layout.py    SandboxSpec -> launch plan: the file tree of `_linux.tree`, and the walls; pure
process_level.py the same for isolation level `process`
configuration.py what the agent is told: filter and resource limits
fingerprint.py what is declared about this host
build.py     building a sandbox, each thing recorded before it is made
backend.py   the probe
"""
