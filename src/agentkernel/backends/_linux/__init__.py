"""What backends share whose sandboxes are processes of this Linux host, started by the launcher `agentkernel-guest enter`.

backend.py   create, boot, recover, discard, sweep: all of a backend but its probe
maker.py     what a backend adds: how a sandbox is built, and taken up again
making.py    what every sandbox holds beside its processes
lasting.py   boot, recover, discard, sweep_owned
plan.py      the launch plan as data: steps, their encoding and descriptions
tree.py      SandboxSpec -> the steps of its file tree, pure
facts.py     what this host allows (kernel, user namespaces, Landlock)
delegation.py where cgroups may be made, and moving there
cgroups.py   limits and what hit them, v1 and v2
watch.py     limits that are sampled
ranges.py    leases of user id ranges, for root
launch.py    runs `agentkernel-guest enter` on a plan
boundary.py  a launched sandbox: connect, death, limits, stop, destroy
holdings.py  everything on the host that belongs to a sandbox, and releasing it
state.py     the directories by which everything can be found again
kept.py      the files that a stop keeps, and their ids
removal.py   removing hostile trees, as a program without privilege
disk.py      the same for the files of a sandbox, and how much they take
processes.py ending what has no process namespace
host.py      what a backend knows of its host
"""
