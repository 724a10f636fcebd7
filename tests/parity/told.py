"""What fronts that are no Python tell in JSON, as scenarios look at it: with the names and kinds of the client's own records."""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from agentkernel import errors
from agentkernel.errors import AgentKernelError, FileOperationFailed, TimedOut
from agentkernel.model.network import Base, Verdict

_KINDS: Final = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}
_STREAMS: Final = {"stdout": 1, "stderr": 2}


def _classes(kind: type[AgentKernelError]) -> Iterator[type[AgentKernelError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _classes(child)


def error_of(code: str, message: str) -> AgentKernelError:
    """The error with that code, which must be one of the tree; of a file operation the errno is what the message ends with."""
    kind = next(each for each in _classes(AgentKernelError) if each.code == code and each.__module__ == errors.__name__)
    if kind is not FileOperationFailed:
        return kind(message)
    number = next(each for each in errno.errorcode if message.endswith(f": {os.strerror(each)}"))
    return FileOperationFailed(message, "", number)


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    stdout: bytes
    stderr: bytes
    exit_code: int

    @property
    def text(self) -> str:
        """As `Result.text`."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """As `Result.error_text`."""
        return self.stderr.decode("utf-8", "replace")


def ran(told: Mapping[str, Any]) -> Ran:
    """A command that ended; raises what the client raises where it did not start, or its time was up."""
    if told.get("code"):
        raise error_of(told["code"], told["error"])
    if told.get("timed_out") or told.get("cause") == "timeout":
        assert told["exit_code"] in (124, 137)
        raise TimedOut("its time was up")
    return Ran(_output(told, "stdout"), _output(told, "stderr"), told["exit_code"])


def _output(told: Mapping[str, Any], name: str) -> bytes:
    if f"{name}_base64" in told:
        return base64.b64decode(told[f"{name}_base64"])
    return decoded(told[name], told.get(f"{name}_encoding", "utf-8"))


def decoded(text: str, encoding: str) -> bytes:
    """What was written as text, or in base64."""
    return base64.b64decode(text) if encoding == "base64" else text.encode()


def sandbox(told: Mapping[str, Any]) -> SimpleNamespace:
    """As `SandboxInfo`."""
    return SimpleNamespace(**{**told, "labels": tuple(sorted(told["labels"].items())), "ports": tuple(map(port, told["ports"]))})


def port(told: Mapping[str, Any]) -> SimpleNamespace:
    """As `PublishedPort`."""
    return SimpleNamespace(**told)


def rules(told: Mapping[str, Any]) -> SimpleNamespace:
    """As `EgressRules`."""
    return SimpleNamespace(base=Base(told["default"]), allow=told["allow"], deny=told["deny"])


def decision(told: Mapping[str, Any]) -> SimpleNamespace:
    """As `Decision`."""
    return SimpleNamespace(**{**told, "verdict": Verdict(told["verdict"])})


def process(told: Mapping[str, Any]) -> SimpleNamespace:
    """As `ProcessRecord`; MCP calls the id `id`."""
    return SimpleNamespace(exec_id=int(told.get("exec_id") or told["id"], 16), running=told["running"])


def log(told: Mapping[str, Any]) -> SimpleNamespace:
    """As `LogEntry`."""
    return SimpleNamespace(stream=_STREAMS[told["stream"]], data=decoded(told["data"], told["encoding"]))


def file(told: Mapping[str, Any]) -> SimpleNamespace:
    """As `FileRecord`; MCP writes the mode in octal."""
    mode = int(told["mode"], 8) if isinstance(told["mode"], str) else told["mode"]
    kind = _KINDS[told.get("type") or told["kind"]]
    return SimpleNamespace(name=os.fsencode(told["name"]), size_bytes=told["size_bytes"], mode=kind | mode)
