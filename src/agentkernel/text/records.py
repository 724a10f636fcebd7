"""What there is, as JSON: the same for the command line, the HTTP API and MCP.

Every key is always there; times are Unix seconds; a command's id is 16 hexadecimal digits.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict

from agentkernel.errors import InvalidInput
from agentkernel.model.image import ImageRecord
from agentkernel.model.inspection import FileRecord, ProcessRecord, SandboxStatistics
from agentkernel.model.isolation import Feature, Fingerprint, Provision
from agentkernel.model.network import Decision, EgressRules, PublishedPort
from agentkernel.model.record import Event, KernelStatus, LogEntry, SandboxInfo
from agentkernel.model.request import Notice

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def sandbox_record(info: SandboxInfo) -> dict[str, object]:
    """A sandbox."""
    return {
        "id": info.sandbox_id,
        "name": info.name,
        "owner": info.owner,
        "status": info.status.value,
        "backend": info.backend,
        "isolation": info.isolation.label,
        "image": info.image,
        "profile": info.profile,
        "ephemeral": info.ephemeral,
        "labels": dict(info.labels),
        "created_at": info.created_at,
        "started_at": info.started_at,
        "used_at": info.used_at or None,
        "expires_at": info.expires_at,
        "idle_s": info.idle_s,
        "reason": info.reason,
        "network": info.network.value,
        "ports": [port_record(port) for port in info.ports],
    }


def port_record(port: PublishedPort) -> dict[str, object]:
    """A published port as JSON."""
    return {"port": port.port, "host_address": port.host_address, "host_port": port.host_port}


def rules_record(rules: EgressRules) -> dict[str, object]:
    """A sandbox's egress rules as JSON: each rule as it is typed."""
    lists = {"allow": rules.allow, "deny": rules.deny, "private": rules.private}
    return {"default": rules.base.value} | {name: [str(rule) for rule in found] for name, found in lists.items()}


def decision_record(decision: Decision) -> dict[str, object]:
    """An attempt to reach something as JSON."""
    return {
        "at": decision.at,
        "verdict": decision.verdict.value,
        "protocol": decision.protocol,
        "host": decision.host,
        "port": decision.port or None,
        "address": decision.address,
        "rule": decision.rule,
        "reason": decision.reason,
    }


def image_record(record: ImageRecord) -> dict[str, object]:
    """An image as JSON."""
    return {
        "reference": record.reference,
        "digest": record.digest,
        "backend": record.backend,
        "platform": record.platform,
        "size_bytes": record.size_bytes,
        "obtained_at": record.obtained_at or None,
        "used_at": record.used_at or None,
    }


def backend_record(found: Fingerprint) -> dict[str, object]:
    """A backend, and whether it is ready on this host, as JSON."""
    return {
        "name": found.backend,
        "ready": found.ready,
        "isolation": found.level.label,
        "reason": found.reason,
        "remedy": found.remedy,
        "runtimes": [{"name": each.name, "isolation": each.level.label, "features": _provisions(each.features)} for each in found.runtimes],
    }


def features_record(found: Fingerprint) -> dict[str, object]:
    """What a backend can do on this host, feature by feature, and what it found there."""
    return {"features": _provisions(found.features), "details": found.details}


def _provisions(features: Mapping[Feature, Provision]) -> dict[str, object]:
    return {feature.value: asdict(provision) for feature, provision in features.items()}


def process_record(record: ProcessRecord) -> dict[str, object]:
    """A command in a sandbox as JSON; what of its words is no UTF-8 is written as \\xNN."""
    return {
        "exec_id": exec_text(record.exec_id),
        "pid": record.pid,
        "running": record.running,
        "detached": record.detached,
        "terminal": record.terminal,
        "started_at": record.started_unix_ms / 1000,
        "argv": [word.decode("utf-8", "backslashreplace") for word in record.argv],
    }


def log_record(entry: LogEntry) -> dict[str, object]:
    """A piece of recorded output as JSON: text where all of its bytes are UTF-8, else base64."""
    record: dict[str, object] = {
        "at": entry.at,
        "exec_id": exec_text(entry.exec_id),
        "stream": "stdout" if entry.stream == 1 else "stderr",
    }
    if entry.missing:
        return record | {"missing": entry.missing}
    try:
        return record | {"data": entry.data.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return record | {"data": base64.b64encode(entry.data).decode(), "encoding": "base64"}


def event_record(event: Event) -> dict[str, object]:
    """A line of the audit trail as JSON."""
    return {
        "event_id": event.event_id,
        "at": event.at,
        "kind": event.kind,
        "principal": event.principal,
        "sandbox_id": event.sandbox_id,
        "sandbox": event.sandbox,
        "backend": event.backend,
        "isolation": event.isolation,
        "outcome": event.outcome,
        "exec_id": exec_text(event.exec_id) if event.exec_id else "",
        "details": dict(event.details),
    }


def notice_record(notice: Notice) -> dict[str, object]:
    """What there was to say about a request."""
    return {"code": notice.code, "message": notice.message, "hint": notice.hint}


def file_record(record: FileRecord) -> dict[str, object]:
    """An entry of a directory; names that are no UTF-8 have a lone surrogate for each byte, as in paths of Python."""
    return {
        "name": os.fsdecode(record.name),
        "type": _TYPES.get(stat.S_IFMT(record.mode), "other"),
        "mode": stat.S_IMODE(record.mode),
        "size_bytes": record.size_bytes,
        "modified_at": record.modified_ns / 1e9,
        "uid": record.uid,
        "gid": record.gid,
        "links": record.links,
        "target": os.fsdecode(record.target),
    }


def statistics_record(found: SandboxStatistics) -> dict[str, object]:
    """Numbers from inside a sandbox."""
    return {
        "uptime_s": found.uptime_ms / 1000,
        "commands": found.processes,
        "processes": found.total_pids,
        "rss_bytes": found.rss_bytes,
        "cpu_s": found.cpu_us / 1e6,
    }


def status_record(status: KernelStatus) -> dict[str, object]:
    """A daemon at a glance."""
    return {
        "running": True,
        "version": status.version,
        "pid": status.pid,
        "started_at": status.started_at,
        "sandboxes": status.sandboxes,
        "sandboxes_running": status.running,
        "clients": status.clients,
        "busy": status.busy,
        "queued": status.queued,
        "rss_bytes": status.rss_bytes,
        "pools": [
            {
                "backend": pool.backend,
                "image": pool.image,
                "profile": pool.profile,
                "ready": pool.ready,
                "making": pool.making,
                "minimum": pool.minimum,
                "maximum": pool.maximum,
                "hits": pool.hits,
                "misses": pool.misses,
                "reason": pool.reason,
            }
            for pool in status.pools
        ],
    }


def exec_text(exec_id: int) -> str:
    """A command's id as users see it."""
    return f"{exec_id:016x}"


def parse_exec(text: str) -> int:
    """A command's id as `ps` shows it."""
    if not re.fullmatch(r"[0-9a-f]{1,16}", text, re.ASCII) or not int(text, 16):
        raise InvalidInput(f"{text!r} is no command's id", hint="`agentkernel ps NAME` shows them")
    return int(text, 16)
