"""What a caller may do: its scopes against the operations of the door. Everything else in the engine relies on this having been asked.

full              everything with its own sandboxes
admin             everything with everybody's
run-only          one command in a sandbox of its own, what is done with that by its id, and what it takes to decide
read-only         looking: lists, descriptions, logs, the audit trail
sandbox:<name>    everything with the one sandbox of that name or id, but making, renaming and removing it
host              nothing by itself; with it a remote caller may name what is on this host (`engine.confine`)
"""

from __future__ import annotations

from agentkernel.abc import Caller
from agentkernel.errors import NotFound, Refused
from agentkernel.model.record import SandboxRecord

DECIDE = frozenset({"fingerprints", "grant", "aftermath", "status"})
IMAGES = frozenset({"images", "image_follow"})
READ = DECIDE | IMAGES | {"sandboxes", "info", "spec", "logs", "events", "network", "ports"}
RUN = DECIDE | IMAGES | {"run"}
CONNECT = frozenset({"network", "change_network", "publish", "unpublish", "ports"})
OF_ITS_RUN = CONNECT | {"info", "spec", "open"}
ONE = CONNECT | {"sandboxes", "info", "spec", "logs", "events", "start", "stop", "open", "visit", "extend", "relabel", "status"}
_SANDBOX = "sandbox:"
_ALL_OF_ITS_OWN = frozenset({"full", "admin", "read-only"})
_BY_SCOPE = {"read-only": READ, "run-only": RUN}


def require(caller: Caller, operation: str, record: SandboxRecord | None = None) -> None:
    """Returns if one of the caller's scopes allows the operation (on that sandbox, if it is one's).

    `operation` is a method of `abc.Kernel`, or `run` for a sandbox that is made for one command.

    Raises:
        Refused: no scope allows it.
        NotFound: it concerns a sandbox of somebody else.
    """
    if record is not None and not sees(caller, record):
        raise not_found(record.name)
    if not any(_allows(scope, operation, record) for scope in caller.scopes):
        scopes = ", ".join(sorted(caller.scopes)) or "none"
        who = f"{caller.principal} (token {caller.via})" if caller.via else caller.principal
        raise Refused(f"{who} may not do this: {operation}", hint=f"its scopes: {scopes}")


def may(caller: Caller, operation: str, record: SandboxRecord) -> bool:
    """Whether `require` would return."""
    return sees(caller, record) and any(_allows(scope, operation, record) for scope in caller.scopes)


def sees(caller: Caller, record: SandboxRecord) -> bool:
    """Whether the sandbox exists for the caller."""
    return "admin" in caller.scopes or record.owner == caller.principal


def finds(caller: Caller, record: SandboxRecord, name: str) -> bool:
    """Whether that name is enough: who may only run commands has the id of what was made for them, and guesses no name of another's."""
    by_name = caller.scopes & _ALL_OF_ITS_OWN or f"{_SANDBOX}{record.name}" in caller.scopes
    return name == record.sandbox_id or not record.ephemeral or bool(by_name)


def narrows(caller: Caller) -> frozenset[str] | None:
    """The names or ids that the caller is confined to; None: one of its scopes lets it see all of its own."""
    if caller.scopes & _ALL_OF_ITS_OWN:
        return None
    return frozenset(scope.removeprefix(_SANDBOX) for scope in caller.scopes if scope.startswith(_SANDBOX))


def not_found(name: str) -> NotFound:
    """There is no such sandbox, as far as the caller may know."""
    return NotFound(f"there is no sandbox {name!r}", hint="`agentkernel list` shows them")


def _allows(scope: str, operation: str, record: SandboxRecord | None) -> bool:
    if scope in ("full", "admin"):
        return True
    if scope.startswith(_SANDBOX):
        return operation in ONE and (record is None or scope.removeprefix(_SANDBOX) in (record.name, record.sandbox_id))
    if scope == "run-only" and operation in OF_ITS_RUN:
        return record is None or record.ephemeral
    return operation in _BY_SCOPE.get(scope, frozenset())
