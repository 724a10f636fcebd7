"""What streams are made of, alone: text and its cuts, archives in any pieces."""

from __future__ import annotations

import asyncio
import base64
import io
import tarfile
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentkernel.api.seats import Seats
from agentkernel.api.streams.recorded import recorded
from agentkernel.api.streams.sse import Texts, event
from agentkernel.api.streams.tarread import Intake, members
from agentkernel.errors import Conflict, InvalidInput
from agentkernel.model.record import Event, LogEntry


def told(texts: Texts, pieces: list[tuple[int, bytes]]) -> list[tuple[int, dict[str, Any]]]:
    ends = [0, 0, 0]
    found = []
    for stream, data in pieces:
        if (said := texts.told(stream, ends[stream], data)) is not None:
            found.append((stream, said))
        ends[stream] += len(data)
    return found + [(stream, said) for stream in (1, 2) if (said := texts.rest(stream)) is not None]


def joined(found: list[tuple[int, dict[str, Any]]], stream: int) -> bytes:
    return b"".join(
        said["data"].encode() if "data" in said else base64.b64decode(said["base64"]) for number, said in found if number == stream
    )


PIECES = st.lists(st.tuples(st.sampled_from((1, 2)), st.binary(min_size=1, max_size=9) | st.text("aä€𝄞", min_size=1).map(str.encode)))


@settings(deadline=None)
@given(PIECES)
def test_no_byte_is_lost_or_changed_on_the_way_to_text(pieces: list[tuple[int, bytes]]) -> None:
    texts = Texts((0, 0))
    found = told(texts, pieces)
    whole = [b"".join(data for number, data in pieces if number == stream) for stream in (1, 2)]
    assert [joined(found, 1), joined(found, 2)] == whole
    assert texts.ends == f"{len(whole[0])},{len(whole[1])}"


@settings(deadline=None)
@given(st.text("aä€𝄞"), st.data())
def test_text_that_is_cut_anywhere_stays_text(text: str, data: st.DataObject) -> None:
    raw, pieces, begin = text.encode(), [], 0
    while begin < len(raw):
        end = data.draw(st.integers(begin + 1, len(raw)))
        pieces.append((1, raw[begin:end]))
        begin = end
    found = told(Texts((0, 0)), pieces)
    assert all("data" in said for _, said in found) and "".join(said["data"] for _, said in found) == text


def test_output_that_is_gone_is_counted() -> None:
    texts = Texts((10, 0))
    assert texts.told(1, 15, b"x") == {"data": "x", "lost_bytes": 5}
    assert texts.told(1, 16, b"\xe2\x82") is None and texts.ends == "16,0"
    assert texts.told(1, 30, b"y") == {"data": "y", "lost_bytes": 14} and texts.ends == "31,0"


class Recording:
    """A kernel that knows one command, which has ended."""

    def __init__(self, *entries: LogEntry) -> None:
        self._entries = entries

    async def info(self, *_: object) -> Any:
        return SimpleNamespace(sandbox_id="id")

    async def open(self, *_: object) -> Any:
        raise Conflict("it does not run")

    async def events(self, *_: object, follow: bool) -> AsyncIterator[Event]:
        yield Event(kind="exec.ended", at=9.0, principal="ann", event_id=1, exec_id=7, details=(("exit_code", "3"),))

    async def logs(self, *_: object, exec_id: int, since: float, follow: bool) -> AsyncIterator[LogEntry]:
        for entry in self._entries:
            if entry.at > since:
                yield entry


async def course_of(offset: int, *entries: LogEntry) -> list[tuple[int, int, bytes]]:
    door: Any = SimpleNamespace(kernel=Recording(*entries), caller=None, seats=Seats(1))
    async with recorded(door, "box", 7, (offset, 0)) as course:
        found = [tuple(piece) async for piece in course.output()]
        assert (await course.end())["exit_code"] == 3
    return found


def test_a_recording_goes_on_behind_any_byte_and_says_what_it_lacks() -> None:
    entries = (
        LogEntry(at=1.0, exec_id=7, stream=1, data=b"abcd"),
        LogEntry(at=2.0, exec_id=7, stream=1, data=b"", offset=4, missing=6),
        LogEntry(at=3.0, exec_id=7, stream=1, data=b"kl", offset=10),
        LogEntry(at=4.0, exec_id=7, stream=1, data=b"", offset=12, missing=8),
    )
    assert asyncio.run(course_of(0, *entries)) == [(1, 0, b"abcd"), (1, 10, b""), (1, 10, b"kl"), (1, 20, b"")]
    assert asyncio.run(course_of(3, *entries)) == [(1, 3, b"d"), (1, 10, b""), (1, 10, b"kl"), (1, 20, b"")]
    assert asyncio.run(course_of(11, *entries)) == [(1, 11, b"l"), (1, 20, b"")]
    assert asyncio.run(course_of(25, *entries)) == []
    assert asyncio.run(course_of(0, entries[2])) == [(1, 10, b"kl")], "what is before it was dropped"


def test_an_event_is_one_line_of_json_whatever_it_holds() -> None:
    assert event({"data": "a\r\n\u2028b"}, name="stdout", ident="3,0") == b'event: stdout\nid: 3,0\ndata: {"data":"a\\r\\n\\u2028b"}\n\n'


async def cut(content: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


async def read(content: bytes, size: int) -> list[tuple[str, bytes, int, bytes]]:
    found = []
    intake = Intake(cut(content, size))
    async for member in members(intake):
        found.append((member.kind.name, member.name, member.mode, await intake.exactly(member.size)))
    await intake.finish()
    return found


NAMES = st.text("aä/€ .", min_size=1, max_size=200).filter(lambda name: not name.endswith("/"))


@settings(deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=4),
    st.sampled_from((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)),
    st.sampled_from(("w", "w:gz")),
    st.integers(1, 3000),
)
def test_archives_are_read_the_same_in_any_pieces(files: list[tuple[str, bytes]], kind: int, mode: str, size: int) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode, format=kind) as tar:  # type: ignore[call-overload]
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(made.getvalue())) as tar:
        expected = [("DIRECTORY" if each.isdir() else "FILE", each.name.rstrip("/"), each.mode) for each in tar]
    found = asyncio.run(read(made.getvalue(), size))
    assert [(kind_, name.decode().rstrip("/"), mode_) for kind_, name, mode_, _ in found] == expected
    assert [data for kind_, _, _, data in found if kind_ == "FILE"] == [
        data for (kind_, _, _), (_, data) in zip(expected, files, strict=True) if kind_ == "FILE"
    ]


def test_a_file_called_like_a_directory_is_one_and_its_data_is_passed_over() -> None:
    member = tarfile.TarInfo("d/")
    member.size = 700
    content = member.tobuf(tarfile.GNU_FORMAT) + bytes(1024) + tarfile.TarInfo("f").tobuf(tarfile.GNU_FORMAT)
    assert [(kind, name) for kind, name, _, _ in asyncio.run(read(content, 512))] == [("DIRECTORY", b"d/"), ("FILE", b"f")]


@settings(deadline=None)
@given(st.binary(max_size=3000))
@example(b"\x1f\x8b")
def test_what_is_no_archive_is_refused_or_empty(content: bytes) -> None:
    try:
        assert asyncio.run(read(content, 700)) == []
    except InvalidInput:
        return
    assert not content.strip(b"\0")


def test_a_compressed_bomb_is_not_unpacked_further_than_it_is_taken() -> None:
    """64 MiB of zeros are one block of the end, and behind that more than may be there."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        tar.fileobj.write(bytes(64 * 2**20))  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match="behind the end"):
        asyncio.run(read(made.getvalue(), 65536))
