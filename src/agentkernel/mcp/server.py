"""The server of the official SDK: lists the tools, and answers their calls."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from pydantic import BaseModel, ValidationError

from agentkernel import __version__
from agentkernel.errors import AgentKernelError, InvalidInput, UnknownKey
from agentkernel.mcp.answer import refusal, result_of
from agentkernel.mcp.desk import Desk, Tell
from agentkernel.mcp.tools import TOOLS, listing
from agentkernel.model.names import suggest

INSTRUCTIONS: Final = (
    "Runs commands in isolated sandboxes. sandbox_run is for one command; for work of several steps make a sandbox with sandbox_create, "
    "use it with sandbox_exec and the file tools, and remove it with sandbox_remove. Isolation, profile and network are the operator's "
    "choice: ask for less if less is enough, more is refused."
)
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

Context = ServerRequestContext[Any, Any]


def build(desk_of: Callable[[], Desk]) -> Server[Any]:
    """The server; `desk_of` is asked at each call, within the call's context."""
    tools = listing()

    async def list_tools(_context: Context, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        return await _owned(_called(desk_of(), params, _teller(context)))

    return Server(
        "agentkernel",
        version=__version__,
        title="agentkernel",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _called(desk: Desk, params: types.CallToolRequestParams, tell: Tell) -> types.CallToolResult:
    """One call; whatever goes wrong is the call's result, so that the model reads it."""
    try:
        tool = TOOLS.get(params.name)
        if tool is None:
            raise UnknownKey(f"there is no tool {params.name[:100]!r}", hint=suggest(params.name[:100], TOOLS))
        return result_of(await tool.act(desk, _read(tool.arguments, params.arguments or {}), tell))
    except AgentKernelError as error:
        return refusal(error)
    except Exception:  # noqa: BLE001 - the edge of the process: the server goes on, and its operator finds in the log what happened
        _LOG.exception("the tool %s failed", params.name[:100])
        return refusal(AgentKernelError("agentkernel itself failed", hint="the log of its MCP server (stderr) says how"))


def _read(model: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    """The arguments; raises InvalidInput, UnknownKey with the first thing that is wrong. What was given is not repeated."""
    for name in given:
        if name not in model.model_fields:
            raise UnknownKey(f"there is no argument {name[:100]!r}", hint=suggest(name[:100], model.model_fields))
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part)[:100] for part in first["loc"][:1])
        names_nothing = first["type"] == "literal_error" and isinstance(first["input"], str)  # as any other name that does not exist
        kind = UnknownKey if names_nothing else InvalidInput
        raise kind(f"{place}: {first['msg']}", hint="the tool's input schema says what it takes") from None


def _teller(context: Context) -> Tell:
    """Tells the client's progress callback, where it has one; the number only counts what was told."""
    count = itertools.count(1)

    async def tell(message: str) -> None:
        await context.session.report_progress(next(count), None, message)

    return tell


async def _owned(work: Coroutine[Any, Any, _T]) -> _T:
    """Does the work in a task of its own, which is cancelled once and then waited for.

    The SDK cancels through anyio, which cancels again at every await until the task is gone: what a sandbox's end has to await would never
    be done.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(task, return_exceptions=True)
        raise
