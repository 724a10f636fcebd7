"""What uid 0 may here: in a container it often may not give a sandbox ids of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CAP_SETGID: Final = 6
_CAP_SETUID: Final = 7
_CAP_SYS_ADMIN: Final = 21
_NEEDED: Final = (_CAP_SYS_ADMIN, _CAP_SETUID, _CAP_SETGID)


def has_id_ranges() -> bool:
    """Whether this process can give each sandbox a range of ids, and show files to it as that range's."""
    return os.geteuid() == 0 and _owns_all_ids() and _has_capabilities()


def _owns_all_ids() -> bool:
    """True in the initial user namespace (or one that maps every id): only there an id range can be had."""
    try:
        fields = Path("/proc/self/uid_map").read_text().split()
    except FileNotFoundError:  # no user namespaces; a shortage of the moment must not be remembered as that
        return False
    return len(fields) == 3 and int(fields[2]) >= 0xFFFFFFFE


def _has_capabilities() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
            return all(effective >> capability & 1 for capability in _NEEDED)
    return False
