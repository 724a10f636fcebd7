"""The operations of the door: what a client may CALL (docs/door-protocol.md), which method of `abc.Kernel` answers, and with what.

Streams (exec, files, connections to ports, terminals) are no calls; they are the guest protocol passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentkernel.model.image import ImageProgress, ImageRecord, ImageWork
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.network import EgressChange, EgressRules, PortRule, PublishedPort
from agentkernel.model.record import CreateOptions, Event, EventFilter, KernelStatus, Labels, LogEntry, SandboxFilter, SandboxInfo
from agentkernel.model.request import Grant, Notice, SandboxRequest
from agentkernel.model.spec import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation: the Kernel's method, its parameters beside the caller, and its result, as types of `model.codec`."""

    method: str
    parameters: Mapping[str, Any]  # name -> type; those in `optional` may be left out
    result: Any  # None: nothing
    optional: frozenset[str] = frozenset()
    mutates: bool = False  # audited; repeated after a cut only with its idempotency key
    paged: bool = False  # an iterator of the Kernel: answered by pages, followed by asking again


_NAME: Mapping[str, Any] = {"name": str}
_OF_BACKEND: Mapping[str, Any] = {"backend": str}

OPERATIONS: Mapping[str, Operation] = {
    "fingerprints": Operation(method="fingerprints", parameters={}, result=tuple[Fingerprint, ...]),
    "grant": Operation(method="grant", parameters={"request": SandboxRequest}, result=Grant),
    "aftermath": Operation(method="aftermath", parameters={"grant": Grant}, result=tuple[Notice, ...]),
    "create": Operation(
        method="create", parameters={"request": SandboxRequest, "options": CreateOptions}, result=SandboxInfo, mutates=True
    ),
    "start": Operation(
        method="start",
        parameters={"name": str, "secret_values": dict[str, str]},
        optional=frozenset({"secret_values"}),
        result=SandboxInfo,
        mutates=True,
    ),
    "stop": Operation(method="stop", parameters=_NAME, result=SandboxInfo, mutates=True),
    "remove": Operation(method="remove", parameters={"name": str, "force": bool}, optional=frozenset({"force"}), result=None, mutates=True),
    "list": Operation(method="sandboxes", parameters={"wanted": SandboxFilter}, result=tuple[SandboxInfo, ...]),
    "info": Operation(method="info", parameters=_NAME, result=SandboxInfo),
    "spec": Operation(method="spec", parameters=_NAME, result=SandboxSpec),
    "rename": Operation(method="rename", parameters={"name": str, "new_name": str}, result=SandboxInfo, mutates=True),
    "extend": Operation(method="extend", parameters={"name": str, "ttl_s": float | None}, result=SandboxInfo, mutates=True),
    "relabel": Operation(method="relabel", parameters={"name": str, "labels": Labels}, result=SandboxInfo, mutates=True),
    "network": Operation(method="network", parameters=_NAME, result=EgressRules),
    "change_network": Operation(
        method="change_network", parameters={"name": str, "change": EgressChange}, result=EgressRules, mutates=True
    ),
    "publish": Operation(method="publish", parameters={"name": str, "rule": PortRule}, result=PublishedPort, mutates=True),
    "unpublish": Operation(method="unpublish", parameters={"name": str, "port": int}, result=None, mutates=True),
    "ports": Operation(method="ports", parameters=_NAME, result=tuple[PublishedPort, ...]),
    "image_begin": Operation(method="image_begin", parameters={"work": ImageWork}, result=str, mutates=True),
    "image_follow": Operation(
        method="image_follow",
        parameters={"job_id": str, "after": int},
        optional=frozenset({"after"}),
        result=tuple[ImageProgress, ...],
        paged=True,
    ),
    "images": Operation(method="images", parameters=_OF_BACKEND, optional=frozenset({"backend"}), result=tuple[ImageRecord, ...]),
    "image_remove": Operation(
        method="image_remove",
        parameters={"reference": str, **_OF_BACKEND},
        optional=frozenset({"backend"}),
        result=None,
        mutates=True,
    ),
    "image_prune": Operation(
        method="image_prune",
        parameters={"unused_for_s": float, **_OF_BACKEND},
        optional=frozenset({"backend"}),
        result=tuple[str, ...],
        mutates=True,
    ),
    "logs": Operation(
        method="logs",
        parameters={"name": str, "exec_id": int, "since": float},
        optional=frozenset({"exec_id", "since"}),
        result=tuple[LogEntry, ...],
        paged=True,
    ),
    "gc": Operation(
        method="collect_garbage", parameters={"dry_run": bool}, optional=frozenset({"dry_run"}), result=tuple[str, ...], mutates=True
    ),
    "events": Operation(method="events", parameters={"wanted": EventFilter}, result=tuple[Event, ...], paged=True),
    "status": Operation(method="status", parameters={}, result=KernelStatus),
}
