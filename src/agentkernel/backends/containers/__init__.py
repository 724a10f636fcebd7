"""Container engines: Docker and Podman, one code path with two dialects.

endpoint.py, contexts.py   where an engine is, and streams to it
api.py, calls.py           calls of its HTTP interface, and what is done with containers
dialect.py                 what differs between engines; docker.py, podman.py: the two; podman_makers.py: Podman's runtimes
plan.py, shown.py          SandboxSpec -> container, in no engine's words, pure; profile.py: its system call filter
mounting.py                what of the host is shown: mounts of ours, binds, copies; archive.py: tar streams
guest_volume.py            the guest binary inside an engine
stdio.py                   the agent's stream through the engine
configuration.py           what the agent is told: filter and resource limits
host.py                    what the backend knows of its engine and host
build.py, boundary.py      building a sandbox, and a built one: connect, death, limits, stop, destroy
holdings.py, lasting.py    everything that belongs to a sandbox; boot, recover, discard, sweep_owned
keeper.py                  the engine's images, by image_calls.py, with ledger.py of those that agentkernel obtained
runtimes.py                how much each runtime isolates
fingerprint.py             what is declared
backend.py                 probe, create, sweep
"""
