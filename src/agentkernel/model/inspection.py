"""What can be seen in a sandbox from outside: files, changes of files, processes, numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One directory entry inside a sandbox; names are bytes as they are."""

    name: bytes
    mode: int  # st_mode
    size_bytes: int
    modified_ns: int
    uid: int
    gid: int
    inode: int
    links: int
    target: bytes = b""  # of a symlink


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One inotify event: its mask (IN_CREATE, ...), the cookie that joins the halves of a rename, and the name."""

    mask: int
    cookie: int
    name: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """One process that the agent knows."""

    exec_id: int
    pid: int
    running: bool
    detached: bool
    started_unix_ms: int
    argv: tuple[bytes, ...]
    terminal: bool = False  # it runs on one
    on_files: bool = False  # an operation on files, in place of a program


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStatistics:
    """What the agent counts inside."""

    uptime_ms: int
    processes: int
    records: int
    total_pids: int
    rss_bytes: int
    cpu_us: int
