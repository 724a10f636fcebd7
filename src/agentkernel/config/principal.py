"""Who a uid of this host is, as audit shows it."""

from __future__ import annotations

import pwd


def principal_of(uid: int) -> str:
    """The user's name where the user database knows one, else `uid N`."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
