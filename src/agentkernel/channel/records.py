"""The records that the builtins stat, list and watch print (docs/guest-protocol.md, section 4).

They come through a process of the workload's user, so a malformed one spoils that operation only.
"""

from __future__ import annotations

import struct
from typing import Final

from agentkernel.model.inspection import FileRecord, WatchEvent

_FILE = struct.Struct("<IIQqIIQIHH")
_WATCH = struct.Struct("<IIIHH")
_MAX_WATCH_RECORD: Final = 4096  # a name has at most 255 bytes


class RecordError(ValueError):
    """The bytes are no record."""


def parse_file_records(data: bytes) -> list[FileRecord]:
    """Reads the whole output of stat or list; raises RecordError."""
    records = []
    position = 0
    while position < len(data):
        if len(data) - position < _FILE.size:
            raise RecordError
        length, mode, size, modified, uid, gid, inode, links, name_length, target_length = _FILE.unpack_from(data, position)
        name_at = position + _FILE.size
        target_at = name_at + name_length
        if length < _FILE.size + name_length + target_length or length > len(data) - position:
            raise RecordError
        records.append(
            FileRecord(
                name=data[name_at:target_at],
                mode=mode,
                size_bytes=size,
                modified_ns=modified,
                uid=uid,
                gid=gid,
                inode=inode,
                links=links,
                target=data[target_at : target_at + target_length],
            )
        )
        position += length
    return records


def parse_file_record(data: bytes) -> FileRecord:
    """Reads exactly one record; raises RecordError."""
    records = parse_file_records(data)
    if len(records) != 1:
        raise RecordError
    return records[0]


class WatchRecords:
    """Reads watch's output in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[WatchEvent]:
        """The events that are complete now; raises RecordError."""
        data = self._rest + data
        events = []
        position = 0
        while len(data) - position >= _WATCH.size:
            length, mask, cookie, name_length, _ = _WATCH.unpack_from(data, position)
            if not _WATCH.size + name_length <= length <= _MAX_WATCH_RECORD:
                raise RecordError
            if length > len(data) - position:
                break
            start = position + _WATCH.size
            events.append(WatchEvent(mask=mask, cookie=cookie, name=data[start : start + name_length]))
            position += length
        self._rest = data[position:]
        return events
