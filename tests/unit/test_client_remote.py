"""The kernel behind the daemon's socket, with a daemon that the test plays: calls, errors, repeats after a cut, and daemons that end."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from unit.door_server import CALL, FAILED, KILL, REPLY, RESUME, RESUMED, SIGNAL, START, Attach, DoorServer, Frame

from agentkernel import __version__
from agentkernel.abc import Caller
from agentkernel.channel import door
from agentkernel.channel.refusal import encode_refusal
from agentkernel.client.remote import RemoteKernel
from agentkernel.errors import (
    AgentKernelError,
    Conflict,
    DaemonUnavailable,
    FileOperationFailed,
    InvalidInput,
    NotFound,
    OutputTooLarge,
    ProtocolViolation,
    Refused,
)
from agentkernel.model.codec import to_json
from agentkernel.model.command import Cause, Command, LimitHit
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.record import CreateOptions, Event, EventFilter, LogEntry, SandboxFilter, SandboxInfo
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec
from agentkernel.model.status import Status

CALLER = Caller(principal="tester")
ID = "0123456789abcdef"
INFO = SandboxInfo(
    sandbox_id=ID,
    name="box",
    owner="tester",
    status=Status.RUNNING,
    backend="namespaces",
    isolation=IsolationLevel.CONTAINER,
    image="host",
    profile="moderate",
    created_at=1.0,
)
SPEC = SandboxSpec(name="box", root=RootFilesystem(kind=RootKind.HOST), profile="moderate", environment=(("PATH", "/bin"),))


@asynccontextmanager
async def _kernel(directory: Path, *scripts: Callable[[Attach], None], **server: object) -> AsyncIterator[RemoteKernel]:
    path = directory / "d.sock"
    with DoorServer(path, *scripts, **server):  # type: ignore[arg-type]
        kernel = RemoteKernel({"AGENTKERNEL_SOCKET": str(path), "AGENTKERNEL_HOME": str(directory)})
        try:
            yield kernel
        finally:
            await kernel.close()


def _next_call(attach: Attach) -> Frame:
    """The next CALL; the greeting, which tells the client's version, is answered on the way."""
    while True:
        call = attach.next(CALL)
        if json.loads(call.payload)["op"] != "hello":
            return call
        attach.send(REPLY, b"{}", ident=call.ident)


def _reply(attach: Attach, value: object) -> dict[str, object]:
    """Answers the next CALL and returns what it said."""
    call = _next_call(attach)
    attach.send(REPLY, json.dumps(to_json(value)).encode(), ident=call.ident)
    return dict(json.loads(call.payload))


def _refuse(attach: Attach, error: AgentKernelError, kind: int = CALL) -> dict[str, object]:
    frame = _next_call(attach) if kind == CALL else attach.next(kind)
    attach.send(FAILED, encode_refusal(error), ident=frame.ident)
    return dict(json.loads(frame.payload)) if kind == CALL else {}


async def test_the_client_tells_its_version(tmp_path: Path) -> None:
    def script(attach: Attach) -> None:
        said.append(dict(json.loads(attach.next(CALL).payload)))
        _reply(attach, INFO)

    said: list[dict[str, object]] = []
    async with _kernel(tmp_path, script) as kernel:
        await kernel.info(CALLER, "box")
    assert said == [{"op": "hello", "version": __version__}]


async def test_a_long_list_comes_in_pages_that_frames_hold(tmp_path: Path) -> None:
    infos = [replace(INFO, sandbox_id=f"{number:016x}") for number in range(150)]
    said: list[dict[str, object]] = []

    def script(attach: Attach) -> None:
        said.append(_reply(attach, tuple(infos[:100])))
        said.append(_reply(attach, tuple(infos[100:])))

    async with _kernel(tmp_path, script) as kernel:
        assert list(await kernel.sandboxes(CALLER, SandboxFilter(limit=1000))) == infos
    assert [entry["wanted"] for entry in said] == [{}, {"after": infos[99].sandbox_id}]


async def test_a_call_names_its_operation_and_its_answer_is_read_by_its_type(tmp_path: Path) -> None:
    said = []
    async with _kernel(tmp_path, lambda attach: said.append(_reply(attach, (INFO,)))) as kernel:
        assert await kernel.sandboxes(CALLER, SandboxFilter(labels=(("a", "b"),))) == [INFO]
    assert said == [{"op": "list", "wanted": {"labels": [["a", "b"]]}}]


@pytest.mark.parametrize("error", [Refused("no", hint="ask"), FileOperationFailed("read", "/x", 2), Conflict("taken"), InvalidInput("bad")])
async def test_an_error_has_the_class_of_its_code_with_message_and_hint(tmp_path: Path, error: AgentKernelError) -> None:
    async with _kernel(tmp_path, lambda attach: _refuse(attach, error)) as kernel:
        with pytest.raises(type(error)) as caught:
            await kernel.status(CALLER)
    assert (caught.value.code, caught.value.message, caught.value.hint) == (error.code, error.message, error.hint)
    if isinstance(error, FileOperationFailed):
        assert isinstance(caught.value, FileOperationFailed) and caught.value.errno == 2


async def test_an_error_of_a_later_version_keeps_its_code(tmp_path: Path) -> None:
    error = AgentKernelError("later")
    error.code = "of_tomorrow"
    async with _kernel(tmp_path, lambda attach: _refuse(attach, error)) as kernel:
        with pytest.raises(AgentKernelError) as caught:
            await kernel.status(CALLER)
    assert (type(caught.value), caught.value.code) == (AgentKernelError, "of_tomorrow")


@pytest.mark.parametrize("answer", [b"not json", b"[]", b'{"sandbox_id": 1}'])
async def test_an_answer_that_is_none_is_an_error_and_nothing_more(tmp_path: Path, answer: bytes) -> None:
    def script(attach: Attach) -> None:
        attach.send(REPLY, answer, ident=_next_call(attach).ident)
        _reply(attach, INFO)

    async with _kernel(tmp_path, script) as kernel:
        with pytest.raises((ProtocolViolation, InvalidInput)):
            await kernel.info(CALLER, "box")
        assert await kernel.info(CALLER, "box") == INFO


async def test_what_a_daemon_did_not_answer_is_asked_again_of_the_next_with_the_same_key(tmp_path: Path) -> None:
    said: list[dict[str, object]] = []

    def cut(attach: Attach) -> None:
        said.append(dict(json.loads(_next_call(attach).payload)))

    async with _kernel(tmp_path, cut, cut, lambda attach: said.append(_reply(attach, INFO))) as kernel:
        assert await kernel.create(CALLER, SandboxRequest(), CreateOptions(name="box")) == INFO
    assert said[0] == said[1] == said[2]
    key = said[0]["key"]
    assert isinstance(key, str) and len(key) == 32
    assert said[0]["options"] == {"name": "box", "request_key": key}


async def test_two_calls_have_two_keys(tmp_path: Path) -> None:
    said: list[dict[str, object]] = []

    def script(attach: Attach) -> None:
        said.extend(_reply(attach, INFO) for _ in range(2))

    async with _kernel(tmp_path, script) as kernel:
        await kernel.start(CALLER, "box")
        await kernel.start(CALLER, "box")
    assert said[0]["key"] != said[1]["key"]


async def test_a_removal_that_the_lost_daemon_had_done_is_done(tmp_path: Path) -> None:
    async with _kernel(tmp_path, lambda attach: None, lambda attach: _refuse(attach, NotFound("there is no sandbox"))) as kernel:
        await kernel.remove(CALLER, "box")


async def test_the_removal_of_what_never_was_is_an_error(tmp_path: Path) -> None:
    async with _kernel(tmp_path, lambda attach: _refuse(attach, NotFound("there is no sandbox"))) as kernel:
        with pytest.raises(NotFound):
            await kernel.remove(CALLER, "box")


async def test_a_renaming_that_the_lost_daemon_had_done_is_done(tmp_path: Path) -> None:
    def second(attach: Attach) -> None:
        _refuse(attach, NotFound("there is no sandbox"))
        assert _reply(attach, INFO)["name"] == "box"

    async with _kernel(tmp_path, lambda attach: None, second) as kernel:
        assert (await kernel.rename(CALLER, "old", "box")).name == "box"


async def test_a_daemon_that_is_draining_is_left_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"

    def draining(attach: Attach) -> None:
        server.state = 0
        attach.until_closed()

    server = DoorServer(path, draining, lambda attach: _reply(attach, INFO), state=door.DRAINING)
    with server:
        kernel = RemoteKernel({"AGENTKERNEL_SOCKET": str(path)})
        assert await kernel.info(CALLER, "box") == INFO
        await kernel.close()


async def test_a_call_that_a_draining_daemon_refuses_is_asked_of_the_next(tmp_path: Path) -> None:
    def draining(attach: Attach) -> None:
        _refuse(attach, DaemonUnavailable("the daemon is ending"))
        attach.until_closed()

    async with _kernel(tmp_path, draining, lambda attach: _reply(attach, INFO)) as kernel:
        assert await kernel.info(CALLER, "box") == INFO


async def test_the_daemon_of_another_store_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"

    def first(attach: Attach) -> None:
        _reply(attach, INFO)
        _next_call(attach)
        server.store = b"t" * 16

    server = DoorServer(path, first, lambda attach: attach.until_closed(), lambda attach: _reply(attach, INFO))
    with server:
        kernel = RemoteKernel({"AGENTKERNEL_SOCKET": str(path)})
        await kernel.info(CALLER, "box")
        with pytest.raises(DaemonUnavailable, match="other sandboxes"):
            await kernel.info(CALLER, "box")
        assert await kernel.info(CALLER, "box") == INFO  # whoever asks again has seen the error
        await kernel.close()


async def test_where_no_daemon_can_be_started_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kernel = RemoteKernel({"AGENTKERNEL_HOME": str(tmp_path / "file"), "AGENTKERNEL_SOCKET": str(tmp_path / "none")})
    with pytest.raises(DaemonUnavailable, match="no daemon can be started"):
        await kernel.status(CALLER)
    await kernel.close()


async def test_a_closed_kernel_is_closed(tmp_path: Path) -> None:
    async with _kernel(tmp_path, lambda attach: None) as kernel:
        await kernel.close()
        with pytest.raises(Conflict, match="closed"):
            await kernel.status(CALLER)


async def test_a_page_that_no_frame_holds_is_asked_for_in_shorter_ones(tmp_path: Path) -> None:
    said: list[dict[str, object]] = []

    def script(attach: Attach) -> None:
        _refuse(attach, OutputTooLarge("the answer takes too many bytes"))
        said.append(_reply(attach, (INFO, INFO)))
        said.append(_reply(attach, (INFO,)))

    async with _kernel(tmp_path, script) as kernel:
        assert await kernel.sandboxes(CALLER, SandboxFilter(limit=4)) == [INFO] * 3
    assert [entry["wanted"] for entry in said] == [{"limit": 2}, {"limit": 2, "after": INFO.sandbox_id}]


async def test_a_request_that_no_frame_holds_is_refused(tmp_path: Path) -> None:
    async with _kernel(tmp_path, lambda attach: attach.until_closed()) as kernel:
        with pytest.raises(InvalidInput, match="at most"):
            await kernel.grant(CALLER, SandboxRequest(environment={"BIG": "x" * 200_000}))


async def test_events_are_asked_for_page_by_page_up_to_the_limit(tmp_path: Path) -> None:
    events = [Event(event_id=number, kind="exec.ended", at=1.0, principal="tester") for number in range(1, 5)]
    said: list[dict[str, object]] = []

    def script(attach: Attach) -> None:
        said.append(_reply(attach, tuple(events[:3])))
        said.append(_reply(attach, tuple(events[3:])))

    async with _kernel(tmp_path, script) as kernel:
        assert [event.event_id async for event in kernel.events(CALLER, EventFilter(limit=4))] == [1, 2, 3, 4]
    assert [entry["wanted"] for entry in said] == [{"limit": 4}, {"limit": 1, "after": 3}]


async def test_logs_are_asked_for_until_there_are_no_more(tmp_path: Path) -> None:
    entries = tuple(LogEntry(at=float(number), exec_id=7, stream=1, data=b"\xff%d" % number) for number in range(3))
    said: list[dict[str, object]] = []

    def script(attach: Attach) -> None:
        for page in (entries[:2], entries[2:], ()):
            said.append(_reply(attach, page))

    async with _kernel(tmp_path, script) as kernel:
        assert tuple([entry async for entry in kernel.logs(CALLER, "box")]) == entries
    assert [entry["since"] for entry in said] == [0.0, 1.0, 2.0]


# -- commands: the first connection is the kernel's, of which the scripted daemon serves one at a time, so it is closed by its script


def _opening(attach: Attach) -> None:
    for _ in range(2):
        call = _next_call(attach)
        answer = INFO if json.loads(call.payload)["op"] == "info" else SPEC
        attach.send(REPLY, json.dumps(to_json(answer)).encode(), ident=call.ident)


def _ended(attach: Attach, *, value: int = 0, limits: int = 0, cause: int = 0) -> None:
    struct_ = struct.pack("<IIIIQQQQQQ", 0, value, 0, 0, attach.sent[1], attach.sent[2], 1, 0, 0, 0)
    attach.send(133, door.encode_exited(struct_, limits, cause))


@asynccontextmanager
async def _opened(directory: Path, *scripts: Callable[[Attach], None]) -> AsyncIterator[object]:
    """A sandbox whose connection (and those after it) the scripts serve; the kernel's own is lost, as it would be with its daemon."""
    async with _kernel(directory, _opening, *scripts) as kernel:
        sandbox = await kernel.open(CALLER, "box")
        await kernel.close()
        yield sandbox
        await sandbox.close()


async def test_a_command_names_its_sandbox_and_ends_with_what_the_daemon_says(tmp_path: Path) -> None:
    fields = []

    def script(attach: Attach) -> None:
        fields.append(attach.started())
        attach.output(b"out")
        attach.output(b"err", 2)
        _ended(attach, value=9, limits=0b101, cause=2)
        attach.until_closed()

    async with _opened(tmp_path, script) as sandbox:
        result = await sandbox.exec(Command(argv=(b"x",)))  # type: ignore[attr-defined]
    assert fields[0][door.SANDBOX] == [ID.encode()]
    assert (result.stdout, result.stderr, result.exit_code) == (b"out", b"err", 9)
    assert result.status.limits_hit == (LimitHit.MEMORY, LimitHit.DISK)
    assert result.status.cause is Cause.KILLED


async def test_output_goes_on_with_the_next_daemon_where_it_stood(tmp_path: Path) -> None:
    resumed = []

    def first(attach: Attach) -> None:
        attach.started()
        attach.output(b"one ")

    def second(attach: Attach) -> None:
        frame = attach.next(RESUME)
        fields = door.decode_request(frame.payload)
        resumed.append((fields[door.SANDBOX], struct.unpack("<QQ", fields[door.INNER][0])))
        attach.exec_id = frame.ident
        attach.send(RESUMED, struct.pack("<IIQQQQ", 0, 3, 0, 0, 0, 0))
        attach.sent[1] = 4
        attach.output(b"two")
        _ended(attach)
        attach.until_closed()

    async with _opened(tmp_path, first, second) as sandbox:
        result = await asyncio.wait_for(sandbox.exec(Command(argv=(b"x",))), 20)  # type: ignore[attr-defined]
    assert result.stdout == b"one two"
    assert resumed == [([ID.encode()], (4, 0))]


async def test_a_start_that_was_not_answered_is_repeated_under_its_id(tmp_path: Path) -> None:
    starts = []

    def second(attach: Attach) -> None:
        attach.started()
        starts.append(attach.exec_id)
        _ended(attach)
        attach.until_closed()

    async with _opened(tmp_path, lambda attach: starts.append(attach.next(START).ident), second) as sandbox:
        await asyncio.wait_for(sandbox.exec(Command(argv=(b"x",))), 20)  # type: ignore[attr-defined]
    assert starts[0] == starts[1]


async def test_a_refused_start_raises_its_error(tmp_path: Path) -> None:
    def script(attach: Attach) -> None:
        _refuse(attach, Conflict("sandbox 'box' is stopped", hint="start it"), START)
        attach.until_closed()

    async with _opened(tmp_path, script) as sandbox:
        with pytest.raises(Conflict, match="stopped"):
            await sandbox.exec(Command(argv=(b"x",)))  # type: ignore[attr-defined]


async def test_signals_are_addressed(tmp_path: Path) -> None:
    signals = []

    def script(attach: Attach) -> None:
        attach.started()
        frame = attach.next(SIGNAL)
        fields = door.decode_request(frame.payload)
        signals.append((fields[door.SANDBOX], struct.unpack("<QII", fields[door.INNER][0])[1:]))
        attach.send(REPLY, ident=frame.ident)
        attach.next(KILL)
        _ended(attach, value=0, cause=2)
        attach.until_closed()

    async with _opened(tmp_path, script) as sandbox:
        process = await sandbox.start(Command(argv=(b"x",)))  # type: ignore[attr-defined]
        await process.signal(15, tree=True)
        await process.kill()
        assert (await process.wait()).cause is Cause.KILLED
    assert signals == [([ID.encode()], (15, 1))]


async def test_an_unknown_process_is_not_found(tmp_path: Path) -> None:
    def script(attach: Attach) -> None:
        attach.send(FAILED, struct.pack("<II", 2, 0), ident=attach.next(RESUME).ident)
        attach.until_closed()

    async with _opened(tmp_path, script) as sandbox:
        with pytest.raises(NotFound, match="0000000000000007"):
            await sandbox.attach(7)  # type: ignore[attr-defined]


async def test_a_sandbox_that_does_not_run_is_not_opened(tmp_path: Path) -> None:
    def script(attach: Attach) -> None:
        for _ in range(2):
            call = _next_call(attach)
            stopped = to_json(INFO) | {"status": "stopped"}
            answer = stopped if json.loads(call.payload)["op"] == "info" else to_json(SPEC)
            attach.send(REPLY, json.dumps(answer).encode(), ident=call.ident)

    async with _kernel(tmp_path, script) as kernel:
        with pytest.raises(Conflict, match="stopped"):
            await kernel.open(CALLER, "box")
