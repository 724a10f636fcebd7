"""What every front does alike: the engine in process, the daemon's socket and the door of a server elsewhere through the client's classes,
the HTTP API, the command line and MCP."""

from __future__ import annotations

import asyncio
import errno
import signal
from pathlib import Path
from typing import Any, Final

from parity.listed import fails, lasting, printed, run, runs, scenario, until
from parity.network_scenarios import LISTENER, THROUGH_PROXY, ask, written
from parity.operations import No

from agentkernel.model.network import Base, Verdict

_NAMES: Final = ("-rf", "quote'\"`$(id);&| $HOME", "new\nline\ttab \x1b[31m...", "per%2Fcent%00?#&=+ colon:and\\back grün 𝄞")
_TEXTS: Final = No("a model is given text: bytes that are none are shown as U+FFFD")


@scenario("run")
async def a_command_has_a_sandbox_of_its_own(client: Any, directory: Path) -> None:
    script = 'cat; echo "$WORD"; echo failed >&2; exit 3'
    result = await run(client, "sh", "-c", script, stdin="grün\n", environment={"WORD": "a  b'c"})
    assert (result.text, result.error_text, result.exit_code) == ("grün\na  b'c\n", "failed\n", 3)
    assert (await run(client, "printf", "%s", "$(id) \"x\" 'y'")).text == "$(id) \"x\" 'y'"
    assert (await run(client, "sh", "-c", "kill -9 $$")).exit_code == 137
    assert (await run(client, "pwd", cwd="/usr/lib")).text == "/usr/lib\n"
    assert await client.list() == []


@scenario("run")
async def a_run_that_cannot_be_says_why(client: Any, directory: Path) -> None:
    for code, argv, options in (
        ("command_not_found", ("no-such-program",), {}),
        ("command_not_executable", ("/etc/passwd",), {}),
        ("command_not_started", ("true",), {"cwd": "/no/such/directory"}),
        ("invalid_input", ("true",), {"cwd": "relative"}),
        ("timed_out", ("sh", "-c", "sleep 1000 & sleep 1000"), {"timeout": 0.3}),
    ):
        with fails(code):
            await run(client, *argv, **options)
    assert await client.list() == []


@scenario("create", "list", "info", "start", "stop", "exec", "remove")
async def a_sandbox_lives_until_it_is_removed(client: Any, directory: Path) -> None:
    async with lasting(client, name="keeper") as box:
        assert (await client.get("keeper")).id == box.id == (await client.get(box.id)).id
        assert [each.name for each in await client.list()] == ["keeper"]
        assert (await box.exec("sh", "-c", "echo kept > ~/file; echo gone > /tmp/file")).exit_code == 0
        for _ in range(2):
            assert (await box.stop()).status == "stopped"
        for start in (box.exec, box.spawn):
            with fails("conflict"):
                await start("true")
        for _ in range(2):
            assert (await box.start()).status == "running"
        assert (await box.exec("sh", "-c", "cat ~/file")).text == "kept\n"
    for operation in (box.info, box.start, box.stop, box.remove, lambda: box.exec("true")):
        with fails("not_found"):
            await operation()
    assert await client.list() == []


@scenario("create", "remove", "list", mcp=No("what it removes goes, running or not: there is nobody to ask twice"))
async def a_sandbox_that_runs_is_removed_only_by_force(client: Any, directory: Path) -> None:
    async with lasting(client, name="busy") as box:
        with fails("conflict"):
            await box.remove(force=False)
        assert (await box.exec("true")).exit_code == 0
    assert await client.list() == []


@scenario("create", "list", "info", "extend")
async def labels_and_the_time_to_live_are_kept(client: Any, directory: Path) -> None:
    async with lasting(client, name="labelled", labels={"job": "7", "of": "a b=c"}, ttl=3600) as box:
        info = await box.info()
        assert dict(info.labels).items() >= {"job": "7", "of": "a b=c"}.items()
        assert info.expires_at is not None and 3590 < info.expires_at - info.created_at < 3700
        later = await box.extend("2h")
        assert later.expires_at is not None and later.expires_at > info.expires_at + 3000
        with fails("conflict"):
            await client.create(name="labelled")
        for wrong in ("a name", "../up", "x" * 64, "grün"):
            with fails("invalid_input"):
                await client.create(name=wrong)
        assert [each.name for each in await client.list()] == ["labelled"]


@scenario("create", "rename", "info")
async def a_sandbox_has_another_name(client: Any, directory: Path) -> None:
    async with lasting(client, name="old", start=False) as one, lasting(client, name="taken", start=False):
        with fails("conflict"):
            await one.rename("taken")
        assert (await one.rename("new")).name == "new" == (await one.info()).name
        with fails("not_found"):
            await client.get("old")


@scenario("create", "relabel", "list")
async def a_sandbox_has_other_labels(client: Any, directory: Path) -> None:
    async with lasting(client, name="one", labels={"a": "1"}, start=False) as one:
        assert (await one.relabel({"z": "9"})).labels == (("z", "9"),)
        assert [each.name for each in await client.list(labels={"z": "9"})] == ["one"]
        assert await client.list(labels={"a": "1"}) == []


@scenario("create", "exec")
async def commands_end_as_they_end(client: Any, directory: Path) -> None:
    async with lasting(client, name="codes") as box:
        for code in (0, 126, 127, 255):
            assert (await box.exec("sh", "-c", f"exit {code}")).exit_code == code
        assert (await box.exec("sh", "-c", "kill -15 $$")).exit_code == 143
        with fails("command_not_found"):
            await box.exec("no-such-program")
        with fails("command_not_executable"):
            await box.exec("/etc/passwd")
        with fails("command_not_started"):
            await box.exec("true", cwd="/no/such/directory")
        with fails("timed_out"):
            await box.exec("sh", "-c", "sleep 1000 & sleep 1000", timeout=0.3)
        assert "sleep" not in (await box.exec("ps", "-e")).text
        result = await box.exec("sh", "-c", "echo $A; pwd", environment={"A": "é"}, cwd="/tmp")
        assert (result.text, result.error_text, result.exit_code) == ("é\n/tmp\n", "", 0)
        with fails("invalid_input"):
            await box.exec("true", environment={"": "x"})


@scenario("create", "exec", mcp=_TEXTS)
async def what_goes_in_and_out_is_bytes(client: Any, directory: Path) -> None:
    data = bytes(range(256)) * 1000
    async with lasting(client, name="bytes") as box:
        assert (await box.exec("cat", stdin=data)).stdout == data
        result = await box.exec("sh", "-c", r"printf 'out\0\377'; printf 'err\200' >&2; exit 3")
        assert (result.stdout, result.stderr, result.exit_code) == (b"out\0\xff", b"err\x80", 3)
        assert (result.text, result.error_text) == ("out\0�", "err�")


@scenario("create", "exec")
async def what_is_no_text_is_shown_so(client: Any, directory: Path) -> None:
    async with lasting(client, name="texts") as box:
        result = await box.exec("sh", "-c", r"printf 'é\377é'; printf 'err\200' >&2")
        assert (result.text, result.error_text) == ("é�é", "err�")


@scenario("create", "detach", "logs", "processes", "kill")
async def a_background_command_is_watched_and_killed(client: Any, directory: Path) -> None:
    async with lasting(client, name="behind") as box:
        process = await box.spawn("sh", "-c", "echo out; echo err >&2; sleep 1000")

        async def has_printed() -> bool:
            return await printed(box, process.exec_id) == {1: b"out\n", 2: b"err\n"}

        await until(has_printed)
        assert await runs(box, process)
        await process.kill()

        async def has_ended() -> bool:
            return not await runs(box, process) and "sleep" not in (await box.exec("ps", "-e")).text

        await until(has_ended)
        assert await has_printed()
        with fails("command_not_found"):
            await box.spawn("no-such-program")


@scenario("create", "detach", "logs", "processes", "signal")
async def a_background_command_is_signalled(client: Any, directory: Path) -> None:
    async with lasting(client, name="gentle") as box:
        process = await box.spawn("sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done")

        async def is_ready() -> bool:
            return (await printed(box, process.exec_id)).get(1) == b"ready\n"

        await until(is_ready)
        await process.signal(signal.SIGTERM)

        async def has_said_bye() -> bool:
            return not await runs(box, process) and (await printed(box, process.exec_id))[1] == b"ready\nbye\n"

        await until(has_said_bye)


@scenario("create", "detach", "processes", "kill_all")
async def all_commands_are_killed_at_once(client: Any, directory: Path) -> None:
    async with lasting(client, name="many") as box:
        processes = [await box.spawn("sleep", "1000") for _ in range(2)]
        await box.kill_commands()

        async def all_ended() -> bool:
            return not any([await runs(box, process) for process in processes])

        await until(all_ended)


@scenario("create", "file_read", "file_write", "exec")
async def files_have_any_name_and_hold_any_bytes(client: Any, directory: Path) -> None:
    async with lasting(client, name="files") as box:
        await box.exec("mkdir", "/tmp/names")
        for number, name in enumerate(_NAMES):
            await box.files.write(f"/tmp/names/{name}", f"{number}: {name}".encode())
        found = await box.exec(
            "python3", "-c", "import os; print(sorted(os.listdir('/tmp/names')) == sorted(eval(input())))", stdin=repr(_NAMES)
        )
        assert found.text == "True\n"
        for number, name in enumerate(_NAMES):
            assert await box.files.read(f"/tmp/names/{name}") == f"{number}: {name}".encode()
        data = bytes(range(256)) * 200
        await box.files.write("/tmp/data", data)
        assert await box.files.read("/tmp/data") == data
        await box.files.write("/tmp/data", b"")
        assert await box.files.read("/tmp/data") == b""


@scenario("create", "file_read", "file_write", "exec")
async def paths_are_the_sandboxs_own(client: Any, directory: Path) -> None:
    (directory / "secret").write_text("of the host")
    async with lasting(client, name="paths") as box:
        await box.exec("sh", "-c", f"ln -s / /tmp/root; ln -s {directory} /tmp/outside; ln -s none /tmp/dangling")
        await box.files.write("/tmp/root/tmp/through", b"a link")
        assert await box.files.read("/tmp/through") == b"a link"
        for gone in ("/tmp/none", "/tmp/outside/secret", f"/tmp/root{directory}/secret", f"{directory}/secret"):
            with fails("file_operation", errno.ENOENT):
                await box.files.read(gone)
        with fails("file_operation", errno.EROFS):
            await box.files.write("/usr/bin/new", b"x")
        await box.stop()
        with fails("not_found"):
            await (await client.get("nowhere")).files.read("/tmp/through")


@scenario("create", "file_write", "file_read", "file_stat", "file_list", "file_mkdir", "file_move", "file_remove")
async def files_are_listed_moved_and_removed(client: Any, directory: Path) -> None:
    async with lasting(client, name="tree") as box:
        files = box.files
        await files.make_directory("/tmp/x/y", parents=True)
        await files.write("/tmp/x/f", b"12")
        record = await files.stat("/tmp/x/f")
        assert (record.name, record.size_bytes, record.mode & 0o7777) == (b"f", 2, 0o644)
        await files.move("/tmp/x/f", "/tmp/x/grün")
        assert [record.name for record in await files.list("/tmp/x")] == ["grün".encode(), b"y"]
        with fails("file_operation", errno.ENOTEMPTY):
            await files.remove("/tmp/x")
        await files.remove("/tmp/x", recursive=True)
        for operation in (files.stat, files.list, files.remove, files.read):
            with fails("file_operation", errno.ENOENT):
                await operation("/tmp/x")
        with fails("file_operation", errno.ENOENT):
            await files.move("/tmp/x", "/tmp/y")


@scenario("create", "network", "network_allow", "network_deny", "exec")
async def rules_are_shown_changed_and_kept_to(client: Any, directory: Path) -> None:
    async with lasting(client, name="rules") as box:
        assert written(await box.network()) == (Base.PUBLIC, [], [])
        assert written(await box.allow("b.example:8443")) == (Base.PUBLIC, ["b.example:8443"], [])
        after = written(await box.deny("Example.com", "*.bad.example:443"))
        assert after == (Base.PUBLIC, ["b.example:8443"], ["example.com", "*.bad.example:443"]) == written(await box.network())
        result = await box.exec("python3", "-c", THROUGH_PROXY, "example.com:443")
        assert result.text == "403 "
        for change in (box.allow, box.deny):
            with fails("invalid_input"):
                await change("http://example.com/")
        assert written(await box.network()) == after


@scenario("create", "network_deny", "network_forget", "network_log", "exec")
async def rules_are_dropped_and_attempts_told(client: Any, directory: Path) -> None:
    async with lasting(client, name="attempts") as box:
        await box.deny("example.com", "other.example")
        await box.exec("python3", "-c", THROUGH_PROXY, "example.com:443")
        told = [(each.verdict, each.host, each.port) async for each in box.network_log()]
        assert told == [(Verdict.DENIED, "example.com", 443)]
        assert written(await box.forget("other.example", "unknown.example")) == (Base.PUBLIC, [], ["example.com"])


@scenario("create", "network", "network_deny")
async def without_network_there_are_no_rules(client: Any, directory: Path) -> None:
    async with lasting(client, name="alone", network=False) as box:
        for call in (box.network, lambda: box.deny("example.com")):
            with fails("unsupported"):
                await call()


@scenario("create", "ports", "publish", "unpublish", "detach", "logs")
async def a_port_is_published_and_unpublished(client: Any, directory: Path) -> None:
    async with lasting(client, name="web", network=False) as box:
        server = await box.spawn("python3", "-c", LISTENER)

        async def listens() -> bool:
            return await printed(box, server.exec_id) == {1: b"ready\n"}

        await until(listens)
        assert list(await box.ports()) == []
        published = await box.publish(8000)
        assert (published.port, published.host_address, published.host_port > 0) == (8000, "127.0.0.1", True)
        texts = [str(number).encode() * 100_000 for number in range(8)]
        assert await asyncio.gather(ask(published), *(ask(published, text) for text in texts)) == [b"TEXT", *texts]
        assert [(each.port, each.host_port) for each in await box.ports()] == [(8000, published.host_port)]
        async with lasting(client, name="web2", network=False) as other:
            with fails("conflict"):
                await other.publish(8000, published.host_port)
        await box.unpublish(8000)
        await box.unpublish(8000)
        assert list(await box.ports()) == []
        await box.stop()
        with fails("conflict"):
            await box.publish(8000)


@scenario("create", "list")
async def what_cannot_be_had_is_refused_before_anything_is_done(client: Any, directory: Path) -> None:
    for code, options in (
        ("unsupported", {"min_isolation": "vm"}),
        ("unknown_key", {"profile": "lenient"}),
        ("unknown_key", {"min_isolation": "much"}),
        ("unknown_key", {"storage": "tape"}),
        ("invalid_input", {"image": "Two Words"}),
    ):
        with fails(code):
            await client.create(**options)
    assert await client.list() == []


@scenario("create", "stop", "remove", "exec", "audit")
async def what_happens_is_in_the_trail(client: Any, directory: Path) -> None:
    async with lasting(client, name="seen") as box:
        await box.exec("true")
        await box.exec("false")
        await box.stop()
    kinds = [event.kind async for event in client.events(sandbox=box.id)]
    assert kinds[0] == "sandbox.created" and kinds[-1] == "sandbox.removed"
    assert kinds.count("exec.ended") == 2 and "sandbox.stopped" in kinds
    assert [event.kind async for event in client.events(sandbox=box.id, kinds=["exec."])] == [
        kind for kind in kinds if kind.startswith("exec.")
    ]


@scenario("create", "status", "backends", "gc")
async def the_kernel_tells_about_itself(client: Any, directory: Path) -> None:
    assert {found.backend: found.ready for found in await client.fingerprints()}["namespaces"]
    before = await client.status()
    async with lasting(client, name="counted"):
        during = await client.status()
        assert (during.sandboxes, during.running) == (before.sandboxes + 1, before.running + 1)
    assert list(await client.collect_garbage(dry_run=True)) == []
