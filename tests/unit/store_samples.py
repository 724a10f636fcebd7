"""Records and events for tests of stores."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.record import Event, SandboxRecord
from agentkernel.model.spec import Bind, RootFile, RootFilesystem, RootKind, SandboxSpec
from agentkernel.model.status import Status

ROOT = RootFilesystem(
    kind=RootKind.HOST,
    binds=(Bind(source="/usr", target="/usr"),),
    files=(RootFile(path="/etc/passwd", content=b"root:x:0:0::/:/bin/sh\n" * 200),),
)
SPEC = SandboxSpec(name="sample", root=ROOT, profile="moderate", environment=(("LANG", "C.UTF-8"),))


def a_record(name: str = "", **fields: Any) -> SandboxRecord:
    """A stopped sandbox with a random id."""
    sandbox_id = fields.pop("sandbox_id", os.urandom(8).hex())
    record = SandboxRecord(
        sandbox_id=sandbox_id,
        name=name or f"box-{sandbox_id}",
        owner="ada",
        status=Status.STOPPED,
        backend="namespaces",
        isolation=IsolationLevel.CONTAINER,
        spec=SPEC,
        created_at=1000.5,
    )
    return replace(record, **fields)


def an_event(kind: str = "sandbox.created", **fields: Any) -> Event:
    """An event of nobody's sandbox."""
    return replace(Event(kind=kind, at=1000.0, principal="ada"), **fields)
