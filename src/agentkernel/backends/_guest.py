"""Where the guest binary is: what every backend with an agent runs inside its boundary."""

from __future__ import annotations

import os
from pathlib import Path

import agentkernel
from agentkernel.errors import BackendUnavailable

ENVIRONMENT_NAME = "AGENTKERNEL_GUEST"


def guest_binary() -> Path:
    """Returns the guest binary's absolute path: $AGENTKERNEL_GUEST, else the one that the package carries.

    Raises:
        BackendUnavailable: there is none, or it cannot be executed here.
    """
    override = os.environ.get(ENVIRONMENT_NAME)
    path = Path(override) if override else Path(agentkernel.__file__).parent / "_guest" / "agentkernel-guest"
    if not path.is_file():
        raise BackendUnavailable(
            f"the guest binary {str(path)!r} is missing",
            hint=f"correct ${ENVIRONMENT_NAME}"
            if override
            else "reinstall agentkernel with a C compiler at hand, or set $AGENTKERNEL_GUEST",
        )
    if not os.access(path, os.X_OK):
        raise BackendUnavailable(f"the guest binary {str(path)!r} is not executable", hint=f"chmod a+rx {path}")
    return path.resolve()
