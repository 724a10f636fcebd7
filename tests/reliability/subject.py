"""An engine over a durable store in a process that may be killed, asked over a socket: what the daemon is, without its door."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

from reliability.operations import Operations, Subject

from agentkernel.abc import Caller
from agentkernel.assembly import build_host
from agentkernel.engine.reserve import PoolSettings
from agentkernel.errors import AgentKernelError

CALLER = Caller(principal="campaign", scopes=frozenset({"full", "admin"}))
POOL = PoolSettings(minimum=1, maximum=2, settle_s=0.0)


def main(backend: str, image: str, cwd: str, pooled: str, descriptor: int) -> int:
    """Serves JSON lines `{"id", "op", "with"}` until the socket is closed, then lets go of everything."""
    asyncio.run(_serve(Subject(backend=backend, image=image, cwd=cwd), bool(pooled), socket.socket(fileno=descriptor)))
    return 0


async def _serve(subject: Subject, pooled: bool, connection: socket.socket) -> None:
    host = build_host(os.environ, backends=(subject.backend,), pool=POOL if pooled else None)
    await host.recover()
    operations = Operations(host, CALLER, subject)
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 24)
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        asked = json.loads(line)
        act = host.settled if asked["op"] == "settled" else getattr(operations, asked["op"])  # type: ignore[attr-defined]
        task = asyncio.create_task(_answer(writer, asked, act))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await host.close()


async def _answer(writer: asyncio.StreamWriter, asked: dict[str, Any], act: Any) -> None:
    answer: dict[str, Any] = {"id": asked["id"]}
    try:
        answer["result"] = await act(**asked["with"])
    except AgentKernelError as error:
        answer["error"] = [error.code, error.message]
    except Exception as error:  # what no user should ever see: the campaign reports it
        answer["error"] = [f"unexpected {type(error).__name__}", repr(error)]
        raise
    finally:
        if len(answer) > 1:
            writer.write(json.dumps(answer).encode() + b"\n")
