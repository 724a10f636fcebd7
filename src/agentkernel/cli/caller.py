"""Who the command line speaks for."""

from __future__ import annotations

import os
import pwd

from agentkernel.abc import Caller


def local_caller() -> Caller:
    """The user who runs this process, by name where the user database knows one."""
    uid = os.getuid()
    try:
        return Caller(principal=pwd.getpwuid(uid).pw_name)
    except KeyError:
        return Caller(principal=f"uid {uid}")
