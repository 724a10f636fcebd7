"""Which hostile programs are run in containers, whatever engine makes them.

Those that try what a container engine itself builds are always run; AGENTKERNEL_SECURITY=all adds the others, whose defence (the guest, the
system call filter, the channel) is the same as of the namespaces backend.
"""

from __future__ import annotations

import os

from conformance.roots import ENVIRONMENT
from engines.images import REFERENCE
from security.catalogue import Program, programs

from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec

ALL = os.environ.get("AGENTKERNEL_SECURITY") == "all"
BUILT_BY_THE_ENGINE = {
    "abstract_socket", "agent_memory", "become_root", "change_root", "control_groups", "core_dump", "debug_files", "devices",
    "enter_namespaces", "environment_leak", "find_secret", "fork_bomb", "host_secrets", "host_sockets", "kernel_settings",
    "kill_everything", "leaked_descriptors", "make_device", "masked_files", "memory_anonymous", "memory_tmpfs", "mount_new",
    "open_by_handle", "proc_root", "remount", "set_user_id_file", "sys_files", "unshare_user", "x32",
}  # fmt: skip
# Nothing of the host is in the root of an image: what is overwritten there is the sandbox's own copy.
OF_THE_HOSTS_ROOT = {"overwrite_system"}


def base_spec(digest: str = "") -> SandboxSpec:
    """A sandbox of the tests' image; `digest` where the engine wants to be asked for exactly that one."""
    root = RootFilesystem(kind=RootKind.IMAGE, reference=REFERENCE, digest=digest)
    return SandboxSpec(name="security", profile="moderate", root=root, environment=ENVIRONMENT)


def wanted() -> list[Program]:
    """The programs of this run."""
    return [program for program in programs() if program.name not in OF_THE_HOSTS_ROOT and (ALL or program.name in BUILT_BY_THE_ENGINE)]
