"""SandboxSpec to the OCI bundle of a sandbox: config.json (github.com/opencontainers/runtime-spec). Pure.

The root is the whole file tree that the launch plan has put together. Mounts of their own are only what the sandbox's kernel must treat in
another way than the rest: what it would hide behind file systems of its own, what other programs may change on the host, and what must not
be executed, for a mount that forbids that on the host forbids it to the host's kernel alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agentkernel.model.spec import NetworkMode, SandboxSpec, WorkspaceMode

GUEST_DIRECTORY = "/.agentkernel"
GUEST = f"{GUEST_DIRECTORY}/bin/agentkernel-guest"
# What the agent needs of its kernel: to switch to the workload's user, to end its processes, to own a terminal, to drop the rest.
CAPABILITIES = ("CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID")
OPEN_FILES = 20_000  # of the agent, at least: its connections
_PRIVATE = (("/tmp", ""), ("/dev/shm", "noexec"))  # noqa: S108 - the sandbox's own, whose file systems gVisor would make itself


def config(spec: SandboxSpec, *, root: str, open_files: int, sealed: tuple[str, ...] = ()) -> bytes:
    """The bundle's config.json.

    `root`: where the file tree is, for the processes of runsc; `open_files`: what the host allows; `sealed`: the protected paths of a
    writable workspace that are there. The host's kernel protects them, and gVisor's must know it, or it would say that a change was made.
    """
    kinds = ["pid", "ipc", "uts", "mount"]
    if spec.network is not NetworkMode.HOST:
        kinds.append("network")
    limit = min(max(OPEN_FILES, spec.resources.open_files), open_files)
    document: dict[str, Any] = {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [GUEST, "agent", "--stream", "0"],
            "env": [],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "inheritable", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": limit, "soft": min(1024, limit)}],
        },
        "root": {"path": root, "readonly": False},
        "hostname": spec.hostname,
        "mounts": [_kernel_mount("proc", "/proc"), _kernel_mount("sysfs", "/sys", "ro"), *_mounts(spec, root, sealed)],
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }
    return json.dumps(document).encode()


def _kernel_mount(kind: str, target: str, *options: str) -> dict[str, Any]:
    return {"type": kind, "source": kind, "destination": target, "options": ["nosuid", "nodev", "noexec", *options]}


def _bind(root: str, target: str, *options: str) -> dict[str, Any]:
    return {"type": "bind", "source": f"{root}{target}", "destination": target, "options": ["rbind", "nosuid", "nodev", *options]}


def _mounts(spec: SandboxSpec, root: str, sealed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for target, option in _PRIVATE:
        yield _bind(root, target, *filter(None, (option,)))
    if spec.home_source:
        yield _bind(root, spec.user.home, "ro")
    if spec.workspace.mode is WorkspaceMode.WRITABLE:
        yield _bind(root, spec.workspace.target)
        for path in sealed:
            yield _bind(root, f"{spec.workspace.target}/{path}", "ro")
    for bind in spec.mounts:
        options = [] if bind.writable else ["ro"]
        if not bind.executable:
            options.append("noexec")
        yield _bind(root, bind.target, *options)
