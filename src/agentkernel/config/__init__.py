"""Settings: one table (`table`), the files and variables they come from (`load`), and the request that they make (`request`).

The names below are loaded when they are first used: a run without configuration files needs no TOML, one without rules no addresses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkernel.config.document import parse as parse
    from agentkernel.config.elsewhere import parse_elsewhere as parse_elsewhere
    from agentkernel.config.load import users_settings as users_settings
    from agentkernel.config.loosening import loosenings as loosenings
    from agentkernel.config.secrets import read_references as read_references
    from agentkernel.config.secrets import read_secrets as read_secrets
    from agentkernel.config.secrets import write_references as write_references
    from agentkernel.config.trusted import TrustStore as TrustStore
    from agentkernel.model.ports import parse_port as parse_port
    from agentkernel.model.ports import port_text as port_text
    from agentkernel.model.rules import parse_rule as parse_rule

_LATE = {
    "parse": "agentkernel.config.document",
    "parse_elsewhere": "agentkernel.config.elsewhere",
    "users_settings": "agentkernel.config.load",
    "loosenings": "agentkernel.config.loosening",
    "read_references": "agentkernel.config.secrets",
    "read_secrets": "agentkernel.config.secrets",
    "write_references": "agentkernel.config.secrets",
    "TrustStore": "agentkernel.config.trusted",
    "parse_port": "agentkernel.model.ports",
    "port_text": "agentkernel.model.ports",
    "parse_rule": "agentkernel.model.rules",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
