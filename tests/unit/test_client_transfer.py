"""Trees between host and sandbox: what arrives, and that a hostile sandbox writes nowhere but beneath the target."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentkernel.client import transfer
from agentkernel.client.hosttree import MAX_DEPTH, checked_name, place_of
from agentkernel.client.transfer import download, upload
from agentkernel.errors import FileOperationFailed, InvalidInput, OutputTooLarge, Refused
from agentkernel.model.inspection import FileRecord


def _record(name: bytes, mode: int, *, size: int = 0, target: bytes = b"") -> FileRecord:
    return FileRecord(name=name, mode=mode, size_bytes=size, modified_ns=0, uid=0, gid=0, inode=1, links=1, target=target)


def directory(name: bytes = b"d", mode: int = 0o755) -> FileRecord:
    return _record(name, stat.S_IFDIR | mode)


def regular(name: bytes = b"f", mode: int = 0o644) -> FileRecord:
    return _record(name, stat.S_IFREG | mode)


def link(name: bytes, target: bytes) -> FileRecord:
    return _record(name, stat.S_IFLNK | 0o777, target=target)


@dataclass
class Liar:
    """Files of a sandbox that says whatever the test wants, by path; each listing and each reading may be another."""

    stats: dict[str, FileRecord]
    listings: dict[str, list[list[FileRecord]]] = field(default_factory=dict)
    content: Callable[[str], list[bytes]] = lambda path: [b"content"]
    on_list: Callable[[str], None] = lambda path: None

    async def stat(self, path: str, *, follow: bool = True) -> FileRecord:
        assert not follow
        return self.stats[path]

    async def list(self, path: str) -> Any:
        self.on_list(path)
        pages = self.listings.get(path, [[]])
        return pages.pop(0) if len(pages) > 1 else pages[0]

    async def read_stream(self, path: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        for piece in self.content(path):
            yield piece


@dataclass
class Disk:
    """Files of an honest sandbox: a directory of the host stands for its root."""

    root: Path

    def _at(self, path: str) -> Path:
        assert path.startswith("/")
        return self.root / path[1:]

    def _fails(self, operation: str, path: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError as error:
            raise FileOperationFailed(operation, path, error.errno or errno.EIO) from error

    async def stat(self, path: str, *, follow: bool = True) -> FileRecord:
        found = self._fails("stat", path, lambda: os.stat(self._at(path), follow_symlinks=follow))
        target = os.fsencode(os.readlink(self._at(path))) if stat.S_ISLNK(found.st_mode) else b""
        return _record(os.fsencode(self._at(path).name), found.st_mode, size=found.st_size, target=target)

    async def list(self, path: str) -> Any:
        return [await self.stat(f"{path}/{name}", follow=False) for name in os.listdir(self._at(path))]

    async def read_stream(self, path: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        yield self._at(path).read_bytes()

    async def write(self, path: str, data: Any, *, mode: int = 0o644, exclusive: bool = False, **_: Any) -> None:
        assert exclusive
        descriptor = self._fails("write", path, lambda: os.open(self._at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        with os.fdopen(descriptor, "wb") as file:
            async for piece in data:
                file.write(piece)
        os.chmod(self._at(path), mode)

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = False) -> None:
        make = (lambda: os.makedirs(self._at(path), exist_ok=True)) if parents else (lambda: os.mkdir(self._at(path), mode))
        self._fails("make directory", path, make)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        self._fails("remove", path, lambda: os.unlink(self._at(path)))

    async def move(self, source: str, target: str) -> None:
        self._fails("move", source, lambda: os.rename(self._at(source), self._at(target)))

    async def symlink(self, target: str, path: str) -> None:
        self._fails("symlink", path, lambda: os.symlink(target, self._at(path)))

    async def change_mode(self, path: str, mode: int) -> None:
        self._fails("change mode", path, lambda: os.chmod(self._at(path), mode))


def _tree(root: Path) -> dict[str, tuple[str, object]]:
    """Every path below, with its mode and content or target."""
    found: dict[str, tuple[str, object]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (stat.filemode(status.st_mode), content)
    return found


def _sample(root: Path) -> Path:
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "data").write_bytes(b"\0\xff" * 300_000)
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o751)
    (root / "secret").write_text("x")
    (root / "secret").chmod(0o400)
    (root / os.fsdecode(b"name \xff\n")).write_text("odd")
    (root / "to-run").symlink_to("deep/../run")
    (root / "away").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../outside")
    (root / "deep" / "closed").mkdir(mode=0o500)
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What must not change: beside the target, with a file that hostile links lead to."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "victim").write_text("untouched")
    return path


# -- honest


async def test_a_tree_comes_back_as_it_went(tmp_path: Path) -> None:
    source = _sample(tmp_path / "source")
    (tmp_path / "root").mkdir()
    files = Disk(tmp_path / "root")
    up = await upload(files, source, "/a/b/copy")  # type: ignore[arg-type]
    down = await download(files, "/a/b/copy", tmp_path / "back")  # type: ignore[arg-type]
    assert _tree(tmp_path / "back") == _tree(source) == _tree(tmp_path / "root/a/b/copy")
    assert (
        (up.files, up.directories, up.symlinks, up.bytes) == (down.files, down.directories, down.symlinks, down.bytes) == (4, 4, 3, 600_014)
    )
    assert sorted(down.outward) == ["away", "up"]


async def test_a_single_file_and_a_single_symlink_are_copied(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    files = Disk(tmp_path / "root")
    (tmp_path / "one").write_text("1")
    (tmp_path / "link").symlink_to("one")
    await upload(files, tmp_path / "one", "/one")  # type: ignore[arg-type]
    await upload(files, tmp_path / "link", "/link")  # type: ignore[arg-type]
    await download(files, "/one", tmp_path / "back")  # type: ignore[arg-type]
    await download(files, "/link", tmp_path / "back-link")  # type: ignore[arg-type]
    assert (tmp_path / "back").read_text() == "1"
    assert os.readlink(tmp_path / "back-link") == os.readlink(tmp_path / "root" / "link") == "one"


async def test_what_is_there_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    source = _sample(tmp_path / "source")
    for place in (tmp_path / "root" / "copy", tmp_path / "back"):
        (place / "deep").mkdir(parents=True)
        (place / "other").write_text("stays")
        (place / "run").write_text("old")
        (place / "secret").symlink_to("other")
        (place / "away").write_text("a file where a link goes")
    files = Disk(tmp_path / "root")
    await upload(files, source, "/copy")  # type: ignore[arg-type]
    await download(files, "/copy", tmp_path / "back")  # type: ignore[arg-type]
    wanted = _tree(source) | {"other": ("-rw-r--r--", b"stays")}
    assert _tree(tmp_path / "root" / "copy") == wanted
    assert {name: what for name, what in _tree(tmp_path / "back").items() if name != "deep"} == {
        name: what for name, what in wanted.items() if name != "deep"
    }


async def test_a_directory_does_not_take_the_place_of_a_file_nor_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "tree").mkdir()
    with pytest.raises(NotADirectoryError):
        await download(Liar({"/d": directory()}), "/d", tmp_path / "file")  # type: ignore[arg-type]
    with pytest.raises(IsADirectoryError):
        await download(Liar({"/f": regular()}), "/f", tmp_path / "tree")  # type: ignore[arg-type]
    assert (tmp_path / "file").read_text() == "x" and list((tmp_path / "tree").iterdir()) == []


async def test_special_files_are_passed_over_and_named(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "source").mkdir()
    os.mkfifo(tmp_path / "source" / "pipe")
    up = await upload(Disk(tmp_path / "root"), tmp_path / "source", "/copy")  # type: ignore[arg-type]
    device, socket = _record(b"dev", stat.S_IFBLK | 0o666), _record(b"sock", stat.S_IFSOCK | 0o666)
    down = await download(Liar({"/d": directory()}, {"/d": [[device, socket]]}), "/d", tmp_path / "back")  # type: ignore[arg-type]
    assert up.skipped == ["pipe"]
    assert sorted(down.skipped) == ["dev", "sock"]
    assert _tree(tmp_path / "back") == {}
    with pytest.raises(InvalidInput):
        await upload(Disk(tmp_path / "root"), tmp_path / "source" / "pipe", "/pipe")  # type: ignore[arg-type]
    with pytest.raises(FileOperationFailed):
        await download(Liar({"/p": _record(b"p", stat.S_IFIFO)}), "/p", tmp_path / "p")  # type: ignore[arg-type]


async def test_what_does_not_exist_on_the_host_is_an_error_of_the_host(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await upload(Disk(tmp_path), tmp_path / "none", "/x")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        await download(Liar({"/f": regular()}), "/f", tmp_path / "no" / "where")  # type: ignore[arg-type]


def test_the_root_and_dots_are_no_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput), place_of("/"):
        pass
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", "", "./", "../here", "../here/."):
        with place_of(path) as place:
            assert place.name == b"here"


# -- hostile


@pytest.mark.parametrize("name", [b"..", b".", b"", b"../victim", b"/etc/passwd", b"a/b", b"a\0b", b"x" * 256])
async def test_a_name_that_is_none_is_refused(tmp_path: Path, outside: Path, name: bytes) -> None:
    with pytest.raises(Refused):
        await download(Liar({"/d": directory()}, {"/d": [[regular(name)]]}), "/d", outside / "copy")  # type: ignore[arg-type]
    assert (outside / "victim").read_text() == "untouched"
    assert _tree(outside) == {"copy": ("drwx------", None), "victim": ("-rw-r--r--", b"untouched")}


async def test_a_symlink_that_becomes_a_directory_is_not_walked_through(tmp_path: Path, outside: Path) -> None:
    """The same name twice: first a link out of the copy, then a directory in it."""
    listing = [link(b"sub", os.fsencode(outside)), directory(b"sub")]
    lies = Liar({"/d": directory()}, {"/d": [listing], "/d/sub": [[regular(b"victim")]]})
    with pytest.raises(NotADirectoryError):
        await download(lies, "/d", tmp_path / "copy")  # type: ignore[arg-type]
    assert (outside / "victim").read_text() == "untouched"


async def test_a_symlink_is_replaced_by_a_file_of_its_name_not_written_through(tmp_path: Path, outside: Path) -> None:
    listing = [link(b"f", os.fsencode(outside / "victim")), regular(b"f")]
    await download(Liar({"/d": directory()}, {"/d": [listing]}), "/d", tmp_path / "copy")  # type: ignore[arg-type]
    assert (outside / "victim").read_text() == "untouched"
    assert not (tmp_path / "copy" / "f").is_symlink()


async def test_a_symlink_that_lies_in_the_place_of_the_target_is_not_followed(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "copy").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        await download(Liar({"/d": directory()}, {"/d": [[regular(b"victim")]]}), "/d", tmp_path / "copy")  # type: ignore[arg-type]
    await download(Liar({"/f": regular()}), "/f", tmp_path / "copy")  # type: ignore[arg-type]
    assert (outside / "victim").read_text() == "untouched"
    assert (tmp_path / "copy").read_text() == "content"


async def test_a_directory_that_is_swapped_while_it_is_filled_leads_nowhere_else(tmp_path: Path, outside: Path) -> None:
    """Somebody on the host (a sandbox that shares the directory) puts a link where the copy just made a directory."""

    def swap(path: str) -> None:
        if path == "/d/sub":
            (tmp_path / "copy" / "sub").rename(tmp_path / "elsewhere")
            (tmp_path / "copy" / "sub").symlink_to(outside)

    lies = Liar({"/d": directory()}, {"/d": [[directory(b"sub")]], "/d/sub": [[regular(b"victim")]]}, on_list=swap)
    await download(lies, "/d", tmp_path / "copy")  # type: ignore[arg-type]
    assert (outside / "victim").read_text() == "untouched"
    assert (tmp_path / "elsewhere" / "victim").read_text() == "content"


async def test_setuid_setgid_and_sticky_bits_do_not_reach_the_host(tmp_path: Path) -> None:
    listing = [regular(b"f", 0o6755), directory(b"s", 0o7777)]
    await download(Liar({"/d": directory()}, {"/d": [listing]}), "/d", tmp_path / "copy")  # type: ignore[arg-type]
    assert _tree(tmp_path / "copy") == {"f": ("-rwxr-xr-x", b"content"), "s": ("drwxrwxrwx", None)}


async def test_an_endless_file_ends_at_the_limit_and_leaves_no_half_of_it(tmp_path: Path) -> None:
    lies = Liar({"/f": regular()}, content=lambda path: [b"\0" * 65_536] * 100)
    with pytest.raises(OutputTooLarge):
        await download(lies, "/f", tmp_path / "copy", limit_bytes=1_000_000)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


async def test_endlessly_nested_directories_end(tmp_path: Path) -> None:
    lies = Liar({"/d": directory()})
    lies.listings = _Endless()  # type: ignore[assignment]
    with pytest.raises(Refused, match="nested"):
        await download(lies, "/d", tmp_path / "copy")  # type: ignore[arg-type]
    depth = max(len(Path(found).parts) for found, _, _ in os.walk(tmp_path / "copy")) - len((tmp_path / "copy").parts)
    assert depth <= MAX_DEPTH


async def test_endlessly_many_entries_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_ENTRIES", 10)
    with pytest.raises(OutputTooLarge, match="entries"):
        await download(  # type: ignore[arg-type]
            Liar({"/d": directory()}, {"/d": [[regular(b"%d" % number) for number in range(100)]]}), "/d", tmp_path / "copy"
        )
    assert len(list((tmp_path / "copy").iterdir())) <= 10


async def test_a_fifo_that_takes_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    """On the host, between the look and the opening."""
    (tmp_path / "root").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with place_of(tmp_path / "pipe") as place, pytest.raises(InvalidInput), place.reading():
        pass


def test_ordinary_names_are_fine() -> None:
    for name in (b"a", b"...", b"..a", b" ", b"\xff", b"-rf", b"x" * 255, b"\n"):
        assert checked_name(name) == name


class _Endless(dict[str, list[list[FileRecord]]]):
    def get(self, path: str, default: Any = None) -> Any:
        return [[directory(b"d")]]
