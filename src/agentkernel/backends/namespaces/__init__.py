"""Linux namespaces: the embedded default backend, which needs neither root nor any other program.

plan.py      the launch plan as data: steps, their encoding and descriptions
layout.py    SandboxSpec -> plan, pure
facts.py     what this host allows (kernel, user namespaces, Landlock)
delegation.py where cgroups may be made, and moving there
cgroups.py   limits and what hit them, v1 and v2
ranges.py    leases of user id ranges, for root
configuration.py what the agent is told: filter and resource limits
launch.py    runs `agentkernel-guest enter` on a plan
boundary.py  a launched sandbox: connect, death, limits, stop, destroy
holdings.py  everything on the host that belongs to a sandbox, and releasing it
state.py     the directories by which everything can be found again
kept.py      the files that a stop keeps, and their ids
removal.py   removing hostile trees, as a program without privilege
host.py      what the backend knows of its host
build.py     building a sandbox, each thing recorded before it is made
lasting.py   boot, recover, discard, sweep_owned
backend.py   probe, create, sweep
"""
