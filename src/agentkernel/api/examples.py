"""One example for each operation: what is sent and what is answered, by operation id. The tests hold each against its schema."""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Example(NamedTuple):
    """The body that is sent (None: there is none) and the `data` of the answer (None: an answer that is no JSON, or shown by its route)."""

    sent: Any
    answered: Any


SANDBOX_ID: Final = "9f3c0a5be1d27764"
EXEC_ID: Final = "3f6891c05b7d8e46"
_AT: Final = 1767225601.5
_PORT: Final = {"port": 8000, "host_address": "127.0.0.1", "host_port": 18000}
_RULES: Final = {"default": "public", "allow": ["db.example.com:5432"], "deny": [], "private": []}
_NOTICE: Final = {"code": "limits-emulated", "message": "backend 'namespaces' only emulates disk-storage here", "hint": ""}
_SILENT: Final = {"stderr": "", "stdout_truncated": False, "stderr_truncated": False, "timed_out": False}
_BOX: Final = {
    "id": SANDBOX_ID,
    "name": "box",
    "owner": "ann",
    "status": "running",
    "backend": "namespaces",
    "isolation": "container",
    "image": "host",
    "profile": "moderate",
    "ephemeral": False,
    "labels": {"job": "7"},
    "created_at": _AT,
    "started_at": _AT,
    "used_at": _AT,
    "expires_at": None,
    "idle_s": None,
    "reason": "",
    "network": "filtered",
    "ports": [],
}
_FULL: Final = {**_BOX, "vcpus": 1.0, "memory_mb": 512, "disk_mb": 1024, "pids": 512, "rules": _RULES}
_ENDED: Final = {
    "output": "2\n",
    "stdout": "2\n",
    "stderr": "",
    "stdout_truncated": False,
    "stderr_truncated": False,
    "exit_code": 0,
    "timed_out": False,
    "cause": "itself",
    "limits": [],
    "survivors": False,
    "output_lost": False,
    "wall_s": 0.0161,
    "user_cpu_s": 0.011,
    "system_cpu_s": 0.004,
    "max_rss_bytes": 9_437_184,
    "backend": "namespaces",
    "isolation": "container",
    "notices": [],
    "durations": {"create_ms": 3.1, "exec_ms": 16.1, "total_ms": 19.9},
}
_PYTHON: Final = {"command": ["python3", "-c", "print(1+1)"]}
_STARTED: Final = {
    "id": EXEC_ID,
    "sandbox": "box",
    "command": ["make", "test"],
    "pid": 7,
    "status": "running",
    "exit_code": None,
    "started_at": _AT,
}
_PROCESS: Final = {
    "exec_id": EXEC_ID,
    "pid": 7,
    "running": True,
    "detached": True,
    "terminal": False,
    "started_at": _AT,
    "argv": ["make", "test"],
}
_FILE: Final = {
    "name": "notes.txt",
    "type": "file",
    "mode": 0o644,
    "size_bytes": 5,
    "modified_at": _AT,
    "uid": 1000,
    "gid": 1000,
    "links": 1,
    "target": "",
}
_IMAGE: Final = {
    "reference": "docker.io/library/python:3.13-slim",
    "digest": "sha256:" + "0e71744e" * 8,
    "backend": "",
    "platform": "linux/amd64",
    "size_bytes": 45_088_768,
    "obtained_at": _AT,
    "used_at": None,
}
_JOB: Final = {
    "id": "b7d8e463f6891c05",
    "stage": "done",
    "item": "",
    "done_bytes": 0,
    "total_bytes": 0,
    "image": _IMAGE,
    "error": "",
    "code": "",
    "hint": "",
}
_EVENT: Final = {
    "event_id": 13,
    "at": _AT,
    "kind": "exec.started",
    "principal": "ann",
    "sandbox_id": SANDBOX_ID,
    "sandbox": "box",
    "backend": "namespaces",
    "isolation": "container",
    "outcome": "ok",
    "exec_id": EXEC_ID,
    "details": {"argv": "make test"},
}
_BACKEND: Final = {
    "name": "namespaces",
    "ready": True,
    "isolation": "container",
    "reason": "",
    "remedy": "",
    "runtimes": [],
    "features": {"exec": {"support": "native", "reason": "", "remedy": ""}},
    "details": {"kernel": "6.12"},
}
_AGENT: Final = {
    "id": "codex",
    "name": "Codex",
    "aliases": ["openai-codex"],
    "command": "codex",
    "installed": True,
    "api_key": "OPENAI_API_KEY",
    "api_key_set": True,
    "status": "ready",
    "install": "npm install -g @openai/codex",
}
_STATUS: Final = {
    "running": True,
    "version": "0.1.0",
    "pid": 4711,
    "started_at": _AT,
    "sandboxes": 2,
    "sandboxes_running": 1,
    "clients": 1,
    "busy": 0,
    "queued": 0,
    "rss_bytes": 48_234_496,
    "pools": [],
}

EXAMPLES: Final[dict[str, Example]] = {
    "health": Example(None, "ok"),
    "version": Example(None, {"version": "0.1.0"}),
    "run": Example({**_PYTHON, "profile": "restrictive"}, _ENDED),
    "run_stream": Example({**_PYTHON, "profile": "restrictive"}, None),
    "batch_run": Example(
        {"commands": [{"command": ["echo", "1"]}, {"command": ["false"]}]},
        {
            "results": [
                {"output": "1\n", "error": None, "code": "", "hint": "", "exit_code": 0, "stdout": "1\n", **_SILENT},
                {"output": "", "error": None, "code": "", "hint": "", "exit_code": 1, "stdout": "", **_SILENT},
            ]
        },
    ),
    "sandbox_list": Example(None, [_BOX]),
    "sandbox_create": Example(
        {"name": "box", "memory_mb": 512, "labels": {"job": "7"}, "allow_hosts": ["db.example.com:5432"]}, {**_FULL, "notices": [_NOTICE]}
    ),
    "sandbox_info": Example(None, _FULL),
    "sandbox_patch": Example({"labels": {"job": "8"}}, {**_BOX, "labels": {"job": "8"}}),
    "sandbox_remove": Example(None, "Sandbox removed"),
    "sandbox_start": Example({"secrets": {"API_KEY": "the-value-of-it"}}, _BOX),
    "sandbox_stop": Example(None, {**_BOX, "status": "stopped"}),
    "sandbox_extend": Example({"by": "1h"}, {**_BOX, "expires_at": _AT + 3600}),
    "exec": Example(_PYTHON, _ENDED),
    "exec_stream": Example(_PYTHON, None),
    "exec_detach": Example({"command": ["make", "test"]}, _STARTED),
    "exec_detached_list": Example(None, [_STARTED]),
    "exec_detached_info": Example(None, {**_STARTED, "status": "completed", "exit_code": 0}),
    "exec_detached_logs": Example(None, {"stdout": "all passed\n", "stderr": "", "truncated": False}),
    "exec_detached_kill": Example(None, "Command killed"),
    "sandbox_logs": Example(
        None,
        {
            "entries": [{"at": _AT, "exec_id": EXEC_ID, "stream": "stdout", "data": "all passed\n", "encoding": "utf-8"}],
            "next_since": None,
        },
    ),
    "process_list": Example(None, [_PROCESS]),
    "process_signal": Example({"signal": 15}, "Command signalled"),
    "process_kill_all": Example(None, "Commands killed"),
    "sandbox_statistics": Example(None, {"uptime_s": 12.5, "commands": 1, "processes": 3, "rss_bytes": 4_194_304, "cpu_s": 0.8}),
    "file_read": Example(None, {"content": "hello", "encoding": "utf8", "size": 5}),
    "file_write": Example({"content": "hello"}, "Wrote 5 bytes to /workspace/notes.txt"),
    "file_remove": Example(None, "Deleted /workspace/notes.txt"),
    "file_write_many": Example(
        {"files": {"/workspace/a.txt": "hello", "/workspace/run.sh": {"content": "IyEvYmluL3NoCg==", "encoding": "base64", "mode": "755"}}},
        {"written": 2},
    ),
    "file_stat": Example(None, _FILE),
    "file_list": Example(None, [_FILE]),
    "file_move": Example({"source": "/workspace/a.txt", "target": "/workspace/b.txt"}, "Moved /workspace/a.txt to /workspace/b.txt"),
    "file_mkdir": Example({"path": "/workspace/deep/er", "parents": True}, "Made /workspace/deep/er"),
    "file_upload": Example(None, {"path": "/workspace/big.bin", "bytes": 1_073_741_824}),
    "archive_upload": Example(
        None,
        {
            "path": "/workspace/src",
            "files": 12,
            "directories": 3,
            "symlinks": 1,
            "bytes": 48_213,
            "skipped": [],
            "outward": [],
        },
    ),
    "network_rules": Example(None, _RULES),
    "network_change": Example({"allow": ["db.example.com:5432"]}, _RULES),
    "network_log": Example(
        None,
        {
            "attempts": [
                {
                    "at": _AT,
                    "verdict": "denied",
                    "protocol": "connect",
                    "host": "tracker.example",
                    "port": 443,
                    "address": "",
                    "rule": "none",
                    "reason": "no rule allows it",
                }
            ],
            "next_after": None,
        },
    ),
    "port_list": Example(None, [_PORT]),
    "port_publish": Example({"port": 8000, "host_port": 18000}, _PORT),
    "port_unpublish": Example(None, "Port unpublished"),
    "image_list": Example(None, [_IMAGE]),
    "image_pull": Example({"image": "python:3.13-slim"}, _JOB),
    "image_job": Example(None, _JOB),
    "image_prune": Example({"unused_for_s": 604800}, ["removed docker.io/library/python:3.13-slim"]),
    "image_remove": Example(None, "Image removed"),
    "backends": Example(None, {"default_backend": "namespaces", "backends": [_BACKEND]}),
    "agents": Example(None, [_AGENT]),
    "status": Example(None, _STATUS),
    "gc": Example({"dry_run": True}, ["would remove the sandbox old: it expired"]),
    "audit": Example(None, {"events": [_EVENT], "next_after": None}),
}
