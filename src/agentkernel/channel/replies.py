"""The longer replies (docs/guest-protocol.md, section 2): what the agent lists and counts. `parse_*` raise ProtocolViolation."""

from __future__ import annotations

import struct

from agentkernel.channel.messages import Builtin, Payload, StartFlag, reply_values
from agentkernel.errors import ProtocolViolation
from agentkernel.model.inspection import ProcessRecord, SandboxStatistics

_PROCESS = struct.Struct("<QIIIIQ")
_STATISTICS = struct.Struct("<QIIQQQ")
_ON_TERMINAL = 1
_BUILTIN_AT = 8
_REPLY_PROCESS, _REPLY_STATISTICS = 1, 2
_OF_FILES = frozenset(Builtin) - {Builtin.CONNECT, Builtin.WATCH}


def parse_processes(payload: Payload) -> list[ProcessRecord]:
    """Reads the reply to LIST."""
    records = []
    for value in reply_values(payload, _REPLY_PROCESS):
        if len(value) < _PROCESS.size:
            raise ProtocolViolation("malformed PROCESS field")
        ident, pid, state, flags, kind, started = _PROCESS.unpack_from(value)
        records.append(
            ProcessRecord(
                exec_id=ident,
                pid=pid,
                running=state == 0,
                detached=bool(flags & StartFlag.DETACHED),
                terminal=bool(kind & _ON_TERMINAL),
                on_files=(kind >> _BUILTIN_AT & 0xFF) in _OF_FILES,
                started_unix_ms=started,
                argv=tuple(value[_PROCESS.size :].split(b"\0")),
            )
        )
    return records


def parse_statistics(payload: Payload) -> SandboxStatistics:
    """Reads the reply to STATS."""
    for value in reply_values(payload, _REPLY_STATISTICS):
        if len(value) != _STATISTICS.size:
            break
        uptime, processes, records, pids, rss, cpu = _STATISTICS.unpack(value)
        return SandboxStatistics(uptime_ms=uptime, processes=processes, records=records, total_pids=pids, rss_bytes=rss, cpu_us=cpu)
    raise ProtocolViolation("a reply to STATS without its numbers")
