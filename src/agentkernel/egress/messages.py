"""What engine and egress process tell each other on the control socket: JSON, one object a message (docs/egress.md)."""

from __future__ import annotations

import json
from typing import Any, Final

from agentkernel.errors import InvalidInput, ProtocolViolation
from agentkernel.model.codec import to_json
from agentkernel.model.network import Credentials, Decision, EgressLimits, EgressRules

MAX_MESSAGE_BYTES: Final = 65_536
PING: Final = b'{"op":"ping"}'
PONG: Final = b'{"op":"pong"}'
READY: Final = b'{"op":"ready"}'


def configure(upstream: str) -> bytes:
    """The first message: the company's proxy, empty for none."""
    return _encode({"op": "configure", "upstream": upstream})


def join(sandbox_id: str, rules: EgressRules, limits: EgressLimits) -> bytes:
    """A sandbox's stream comes with it. Raises InvalidInput for more rules than fit."""
    return _encode({"op": "join", "sandbox": sandbox_id, "rules": to_json(rules), "limits": to_json(limits)})


def rules_of(sandbox_id: str, rules: EgressRules) -> bytes:
    """From now on these hold. Raises InvalidInput for more rules than fit."""
    return _encode({"op": "rules", "sandbox": sandbox_id, "rules": to_json(rules)})


def secrets_of(sandbox_id: str, credentials: Credentials) -> bytes:
    """What is put into its requests; the certificates that the host trusts come with it, as a file. Raises InvalidInput for too much."""
    return _encode({"op": "secrets", "sandbox": sandbox_id, "credentials": to_json(credentials)})


def decision_of(sandbox_id: str, decision: Decision) -> bytes:
    """One decision."""
    return _encode({"op": "decision", "sandbox": sandbox_id, "decision": to_json(decision)})


def dropped_of(sandbox_id: str, count: int) -> bytes:
    """So many decisions were not told."""
    return _encode({"op": "dropped", "sandbox": sandbox_id, "count": count})


def read(data: bytes) -> dict[str, Any]:
    """A message as an object with a text `op`; raises ProtocolViolation."""
    try:
        message = json.loads(data) if len(data) <= MAX_MESSAGE_BYTES else None
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise ProtocolViolation("a message on the egress process's control socket is malformed")
    return message


def _encode(message: dict[str, Any]) -> bytes:
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidInput(
            "a sandbox has more network rules than can be kept", hint="use `*.domain` and address ranges to say more with fewer"
        )
    return data
