"""Linux namespaces: the embedded default backend, which needs neither root nor any other program.

plan.py      the launch plan as data: steps, their encoding and descriptions
layout.py    SandboxSpec -> plan, pure
sources.py   where the host paths of a spec really are
facts.py     what this host allows (kernel, user namespaces, Landlock)
delegation.py where cgroups may be made, and moving there
cgroups.py   limits and what hit them, v1 and v2
ranges.py    leases of user id ranges, for root
launch.py    runs `agentkernel-guest enter` on a plan
boundary.py  a launched sandbox: connect, death, limits, destroy
state.py     the directories by which everything can be found again
backend.py   probe, create, sweep
"""
