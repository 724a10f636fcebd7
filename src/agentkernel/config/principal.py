"""Who a uid of this host is, as audit shows it and as sandboxes belong to it."""

from __future__ import annotations

import os
import pwd
from functools import cache

_DATABASE = "/etc/passwd"


@cache
def principal_of(uid: int) -> str:
    """The user's name where the user database knows one, else `uid N`; the same for the life of the process.

    Raises OSError when the database cannot be read: a process out of descriptors must not take a user for somebody else.
    """
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # which is also what it says when it could not open anything
        if os.path.lexists(_DATABASE):
            os.close(os.open(_DATABASE, os.O_RDONLY | os.O_CLOEXEC))
        return f"uid {uid}"
