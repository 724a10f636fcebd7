"""agentkernel runs commands of AI agents in isolated sandboxes.

The names below are the SDK. Each is loaded when it is first used, so that importing the package costs nothing.
"""

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all else that the command line's hot path imports
if TYPE_CHECKING:
    from typing import Any

    from agentkernel.client.transfer import Copied as Copied
    from agentkernel.errors import AgentKernelError as AgentKernelError
    from agentkernel.errors import CommandFailed as CommandFailed
    from agentkernel.model.command import ExitStatus as ExitStatus
    from agentkernel.model.image import ImageProgress as ImageProgress
    from agentkernel.model.image import ImageRecord as ImageRecord
    from agentkernel.model.inspection import FileRecord as FileRecord
    from agentkernel.model.inspection import ProcessRecord as ProcessRecord
    from agentkernel.model.inspection import SandboxStatistics as SandboxStatistics
    from agentkernel.model.inspection import WatchEvent as WatchEvent
    from agentkernel.model.network import Decision as Decision
    from agentkernel.model.network import EgressRules as EgressRules
    from agentkernel.model.network import PublishedPort as PublishedPort
    from agentkernel.model.record import Event as Event
    from agentkernel.model.record import LogEntry as LogEntry
    from agentkernel.model.record import SandboxInfo as SandboxInfo
    from agentkernel.model.status import Status as Status
    from agentkernel.sdk.aio.client import AsyncClient as AsyncClient
    from agentkernel.sdk.aio.files import AsyncFiles as AsyncFiles
    from agentkernel.sdk.aio.images import AsyncImages as AsyncImages
    from agentkernel.sdk.aio.process import AsyncConnection as AsyncConnection
    from agentkernel.sdk.aio.process import AsyncProcess as AsyncProcess
    from agentkernel.sdk.aio.process import AsyncStream as AsyncStream
    from agentkernel.sdk.aio.sandbox import AsyncSandbox as AsyncSandbox
    from agentkernel.sdk.result import Chunk as Chunk
    from agentkernel.sdk.result import Result as Result
    from agentkernel.sdk.sync.client import Client as Client
    from agentkernel.sdk.sync.files import Files as Files
    from agentkernel.sdk.sync.images import Images as Images
    from agentkernel.sdk.sync.process import Connection as Connection
    from agentkernel.sdk.sync.process import Process as Process
    from agentkernel.sdk.sync.process import Stream as Stream
    from agentkernel.sdk.sync.sandbox import Sandbox as Sandbox

__version__ = "0.1.0"

__all__ = [
    "AgentKernelError",
    "AsyncClient",
    "AsyncConnection",
    "AsyncFiles",
    "AsyncImages",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncStream",
    "Chunk",
    "Client",
    "CommandFailed",
    "Connection",
    "Copied",
    "Decision",
    "EgressRules",
    "Event",
    "ExitStatus",
    "FileRecord",
    "Files",
    "ImageProgress",
    "ImageRecord",
    "Images",
    "LogEntry",
    "Process",
    "ProcessRecord",
    "PublishedPort",
    "Result",
    "Sandbox",
    "SandboxInfo",
    "SandboxStatistics",
    "Status",
    "Stream",
    "WatchEvent",
]

_PUBLIC = {
    "AgentKernelError": "errors",
    "AsyncClient": "sdk.aio.client",
    "AsyncConnection": "sdk.aio.process",
    "AsyncFiles": "sdk.aio.files",
    "AsyncImages": "sdk.aio.images",
    "AsyncProcess": "sdk.aio.process",
    "AsyncSandbox": "sdk.aio.sandbox",
    "AsyncStream": "sdk.aio.process",
    "Chunk": "sdk.result",
    "Client": "sdk.sync.client",
    "CommandFailed": "errors",
    "Connection": "sdk.sync.process",
    "Copied": "client.transfer",
    "Decision": "model.network",
    "EgressRules": "model.network",
    "Event": "model.record",
    "ExitStatus": "model.command",
    "FileRecord": "model.inspection",
    "Files": "sdk.sync.files",
    "ImageProgress": "model.image",
    "ImageRecord": "model.image",
    "Images": "sdk.sync.images",
    "LogEntry": "model.record",
    "Process": "sdk.sync.process",
    "ProcessRecord": "model.inspection",
    "PublishedPort": "model.network",
    "Result": "sdk.result",
    "Sandbox": "sdk.sync.sandbox",
    "SandboxInfo": "model.record",
    "SandboxStatistics": "model.inspection",
    "Status": "model.status",
    "Stream": "sdk.sync.process",
    "WatchEvent": "model.inspection",
}


def __getattr__(name: str) -> "Any":
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - when it is needed

    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*_PUBLIC, "__version__"]
