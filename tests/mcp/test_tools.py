"""The tools, through the official client and a server process that it starts."""

from __future__ import annotations

import asyncio
import base64
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from e2e.host import processes_named

pytestmark = pytest.mark.asyncio(loop_scope="module")
BOUND = 16 * 1024 + 200


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_command_is_run_in_a_sandbox_of_its_own(servers: Any, mode: str) -> None:
    async with servers.stdio(mode=mode) as model:
        ran = await model("sandbox_run", command="echo out; echo err >&2; exit 3")
        assert (ran["stdout"], ran["stderr"], ran["exit_code"], ran["timed_out"]) == ("out\n", "err\n", 3, False)
        assert "exit code 3" in ran.text and "out\n" in ran.text
        assert ran["backend"] == "namespaces"
        words = await model(
            "sandbox_run", command=["sh", "-c", 'cat; echo "$A $0"; pwd', "$(id)"], env={"A": "b c"}, stdin="in ", workdir="/tmp"
        )
        assert words["stdout"] == "in b c $(id)\n/tmp\n"
        listed = await model("sandbox_list")
        assert listed["sandboxes"] == []


async def test_every_tool_has_schemas_and_says_what_it_does(model: Any) -> None:
    assert model.client.server_info.name == "agentkernel"
    tools = (await model.client.list_tools()).tools
    assert {"sandbox_run", "sandbox_create", "sandbox_exec", "sandbox_file_read", "sandbox_network"} <= {tool.name for tool in tools}
    for tool in tools:
        assert tool.description and tool.annotations is not None
        assert tool.input_schema["additionalProperties"] is False, tool.name
        assert tool.output_schema is not None and tool.output_schema["type"] == "object", tool.name
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        forbidden = {"mounts", "dir", "directory", "backend", "user", "secrets", "runtime", "storage", "cwd", "pass_env"}
        assert not forbidden & tool.input_schema["properties"].keys(), tool.name


async def test_a_sandbox_lives_from_its_making_to_its_removal(model: Any) -> None:
    made = await model("sandbox_create", name="box2", labels={"job": "7"}, network=False)
    assert (made["name"], made["status"], made["network"], made["labels"]["job"]) == ("box2", "running", "none", "7")
    await model("sandbox_exec", name="box2", command="echo kept > ~/file")
    assert (await model("sandbox_create", name="box2")).error == "conflict"
    assert "box2" in [box["name"] for box in (await model("sandbox_list"))["sandboxes"]]
    by_id = await model("sandbox_info", name=made["id"])
    assert by_id["name"] == "box2"
    assert (await model("sandbox_extend_ttl", name="box2", by="2h"))["expires_at"] > made["created_at"]
    assert (await model("sandbox_ports", name="box2"))["ports"] == []
    assert (await model("sandbox_remove", name="box2"))["done"] == "removed"
    assert (await model("sandbox_info", name="box2")).error == "not_found"


async def test_files_are_written_and_read_as_they_are(model: Any) -> None:
    await model("sandbox_create", name="box3")
    base = "/home/user/work"
    assert (await model("sandbox_file_write", name="box3", path=f"{base}/a.txt", content="grün\n"))["bytes"] == 6
    await model("sandbox_file_write", name="box3", path=f"{base}/a.txt", content="more", append=True)
    read = await model("sandbox_file_read", name="box3", path=f"{base}/a.txt")
    assert (read["content"], read["encoding"], read["truncated"]) == ("grün\nmore", "utf8", False)
    data = bytes(range(256))
    await model("sandbox_file_write", name="box3", path=f"{base}/b", content=base64.b64encode(data).decode(), encoding="base64")
    binary = await model("sandbox_file_read", name="box3", path=f"{base}/b")
    assert base64.b64decode(binary["content"]) == data
    assert binary.text.startswith("[binary file, 256 bytes, base64 encoded]\n")
    await model("sandbox_write_files", name="box3", files={f"{base}/c/{n}": str(n) for n in range(3)})
    entries = (await model("sandbox_file_list", name="box3", path=base))["entries"]
    assert [(entry["name"], entry["kind"]) for entry in entries] == [("a.txt", "file"), ("b", "file"), ("c", "directory")]
    await model("sandbox_file_move", name="box3", path=f"{base}/c/2", target=f"{base}/d")
    assert (await model("sandbox_file_stat", name="box3", path=f"{base}/d"))["size_bytes"] == 1
    await model("sandbox_make_directory", name="box3", path=f"{base}/e/f")
    assert (await model("sandbox_file_remove", name="box3", path=f"{base}/c")).error == "file_operation"
    await model("sandbox_file_remove", name="box3", path=f"{base}/c", recursive=True)
    left = await model("sandbox_exec", name="box3", command=["ls", base])
    assert left["stdout"].split() == ["a.txt", "b", "d", "e"]
    assert (await model("sandbox_file_read", name="box3", path=f"{base}/none")).error == "file_operation"
    for content in ("?", "é", "AAE=\n"):
        not_base64 = await model("sandbox_file_write", name="box3", path=f"{base}/x", content=content, encoding="base64")
        assert not_base64.error == "invalid_input"


async def test_a_long_file_is_read_in_pieces_that_end_between_characters(model: Any) -> None:
    text = "aä€😀" * 50
    await model("sandbox_create", name="box4")
    await model("sandbox_file_write", name="box4", path="/tmp/long", content=text)
    pieces, offset = [], 0
    while offset is not None:
        piece = await model("sandbox_file_read", name="box4", path="/tmp/long", offset=offset, limit_bytes=101)
        assert piece["encoding"] == "utf8"
        pieces.append(piece["content"])
        offset = piece["next_offset"]
    assert "".join(pieces) == text


async def test_an_image_comes_as_an_image(model: Any) -> None:
    header = b"\x00\x00\x00\x0dIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00"
    png = b"\x89PNG\r\n\x1a\n" + header + zlib.crc32(header[4:]).to_bytes(4, "big")
    jpeg = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 300
    await model("sandbox_create", name="box5")
    for name, data, kind in (("a.bin", png, "image/png"), ("b.txt", jpeg, "image/jpeg")):
        encoded = base64.b64encode(data).decode()
        await model("sandbox_file_write", name="box5", path=f"/tmp/{name}", content=encoded, encoding="base64")
        shown = await model("sandbox_file_read", name="box5", path=f"/tmp/{name}")
        image = shown.result.content[0]
        assert (image.type, image.mime_type) == ("image", kind)
        assert base64.b64decode(image.data) == data
        assert (shown["encoding"], shown["size_bytes"]) == ("image", len(data))


async def test_long_output_is_cut_in_the_middle_and_says_so(model: Any) -> None:
    ran = await model("sandbox_run", command="seq 100000; seq 50000 >&2")
    assert ran["truncated"] and ran["stdout_bytes"] == 588895
    for text, last in ((ran["stdout"], "100000\n"), (ran["stderr"], "50000\n")):
        assert text.startswith("1\n2\n3\n") and text.endswith(last)
        assert len(text) < BOUND
        assert re.search(r"\n\[\.\.\. \d+ bytes left out \.\.\.\]\n", text)
    assert len(ran.text) < BOUND


async def test_output_is_told_while_the_command_runs_and_calls_go_on_beside_it(model: Any) -> None:
    await model("sandbox_create", name="box7")
    begun = asyncio.Event()

    def heard(message: str) -> None:
        if message == "ready":
            begun.set()

    waiting = asyncio.create_task(
        model("sandbox_exec", name="box7", command="mkfifo /tmp/f; echo ready; cat /tmp/f; printf '\\033[31mend'", on_progress=heard)
    )
    await begun.wait()
    await model("sandbox_exec", name="box7", command="echo go > /tmp/f")
    ended = await waiting
    assert ended["stdout"] == "ready\ngo\n\x1b[31mend"
    assert "ready" in ended.told and not any("\x1b" in message for message in ended.told)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_call_that_is_cancelled_ends_its_command_and_its_sandbox(servers: Any, until: Callable[..., None], mode: str) -> None:
    async with servers.stdio(mode=mode) as model:
        await model("sandbox_create", name="box")
        for number, (tool, more) in enumerate((("sandbox_run", {}), ("sandbox_exec", {"name": "box"}))):
            begun = asyncio.Event()
            marker = f"98765.{number}{mode == 'auto':d}4321"

            def heard(message: str, begun: asyncio.Event = begun) -> None:
                if message == "begun":
                    begun.set()

            call = asyncio.create_task(model(tool, command=f"echo begun; sleep {marker}; echo over", on_progress=heard, **more))
            await begun.wait()
            await asyncio.to_thread(until, lambda marker=marker: processes_named(marker))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(until, lambda marker=marker: not processes_named(marker))
        still = await model("sandbox_exec", name="box", command="echo fine")
        assert still["stdout"] == "fine\n"


async def test_a_background_command_is_started_read_and_ended(model: Any) -> None:
    await model("sandbox_create", name="box8")
    first = await model("sandbox_exec_detach", name="box8", command="echo out; echo err >&2; exit 4")
    second = await model("sandbox_exec_detach", name="box8", command=["sleep", "1000"])
    while (status := await model("sandbox_exec_status", name="box8", id=first["id"]))["running"] or status["exit_code"] is None:
        await asyncio.sleep(0.02)
    assert (status["exit_code"], status["cause"]) == (4, "itself")
    assert (await model("sandbox_exec_logs", name="box8", id=first["id"], stream="stdout"))["output"] == "out\n"
    assert (await model("sandbox_exec_logs", name="box8", id=first["id"], stream="stderr"))["output"] == "err\n"
    listed = (await model("sandbox_exec_list", name="box8"))["commands"]
    assert {command["id"]: command["running"] for command in listed} == {first["id"]: False, second["id"]: True}
    await model("sandbox_exec_kill", name="box8", id=second["id"])
    while (ended := await model("sandbox_exec_status", name="box8", id=second["id"]))["running"] or ended["exit_code"] is None:
        await asyncio.sleep(0.02)
    assert ended["exit_code"] == 137
    for tool in ("sandbox_exec_status", "sandbox_exec_logs", "sandbox_exec_kill"):
        unknown = await model(tool, name="box8", id="00000000000000ff")
        assert unknown.error == "not_found" and "sandbox_exec_list" in unknown.text, tool


async def test_a_signal_to_a_background_command_goes_to_all_that_it_started(model: Any, until: Callable[..., None]) -> None:
    await model("sandbox_create", name="box9")
    started = await model("sandbox_exec_detach", name="box9", command="sleep 86421.91 & sleep 86421.91; wait")
    await asyncio.to_thread(until, lambda: len(processes_named("86421.91")) == 2)
    await model("sandbox_exec_kill", name="box9", id=started["id"], signal=15)
    await asyncio.to_thread(until, lambda: not processes_named("86421.91"))
    await model("sandbox_stop", name="box9")
    stopped = await model("sandbox_file_read", name="box9", path="/etc/passwd")
    assert stopped.error == "conflict" and "sandbox_start" in stopped.text


async def test_a_command_whose_time_is_up_is_a_result(model: Any) -> None:
    ran = await model("sandbox_run", command=["sleep", "1000"], timeout_s=0.2)
    assert (ran["timed_out"], ran["exit_code"]) == (True, 124)
    await model("sandbox_create", name="box10")
    started = await model("sandbox_exec_detach", name="box10", command=["sleep", "1000"], timeout_s=0.2)
    while (ended := await model("sandbox_exec_status", name="box10", id=started["id"]))["exit_code"] is None:
        await asyncio.sleep(0.02)
    assert (ended["running"], ended["exit_code"], ended["cause"]) == (False, 124, "timeout")
    assert "its time was up" in ran.text


async def test_a_directory_is_shown_as_a_private_copy(servers: Any, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "file").write_text("of the host")
    for profile in ("moderate", "permissive"):
        async with servers.stdio("--dir", str(project), "--profile", profile) as model:
            ran = await model("sandbox_run", command="cat /workspace/file; echo changed > /workspace/file; cat /workspace/file")
            assert ran["stdout"] == "of the hostchanged\n"
    assert (project / "file").read_text() == "of the host"
