"""Layers on top of each other, friendly and hostile: what each one removes and adds, and nothing outside of the root."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_world import digest_of
from unit.images_world import tree
from unit.test_unpack import archive, member, outside

from agentkernel.images import decompress, unpacker, zstd
from agentkernel.images.copying import Copier
from agentkernel.images.decompress import Source
from agentkernel.images.layers import LayerUnpacker
from agentkernel.images.unpack import COPY, main
from agentkernel.tarformat import BadArchiveError

LINK, HARD, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
needs_zstd = pytest.mark.skipif(zstd.decompressor() is None or shutil.which("zstd") is None, reason="needs libzstd and zstd(1)")


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    made = tmp_path / "in" / "rootfs"
    made.mkdir(parents=True)
    return made


def unpack(destination: Path, *layers: bytes, limit_bytes: int = 1 << 30) -> dict[str, str]:
    root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpacker = LayerUnpacker(root, limit_bytes)
        for layer in layers:
            unpacker.unpack(Source(io.BytesIO(layer)))
    finally:
        os.close(root)
    assert outside(destination) == []
    return tree(destination)


def refuse(destination: Path, match: str, *layers: bytes, **more: int) -> None:
    with pytest.raises(BadArchiveError, match=match):
        unpack(destination, *layers, **more)
    assert outside(destination) == []


def test_a_layer_adds_and_replaces(destination: Path) -> None:
    found = unpack(
        destination,
        archive("etc/", ("etc/a", b"1"), ("etc/b", b"1"), member("etc/l", LINK, link="a")),
        archive(("etc/b", b"2"), ("etc/c", b"2"), ("etc/l", b"2")),
    )
    assert found == {"etc": "/", "etc/a": "1", "etc/b": "2", "etc/c": "2", "etc/l": "2"}


def test_a_layer_says_anew_how_a_directory_is_and_keeps_what_is_in_it(destination: Path) -> None:
    unpack(destination, archive("d/", ("d/x", b"1")), archive(member("d", DIRECTORY, mode=0o711)), archive(("d/y", b"3")))
    assert sorted(os.listdir(destination / "d")) == ["x", "y"]
    assert stat.S_IMODE((destination / "d").stat().st_mode) == 0o711


@pytest.mark.parametrize("below", [("gone", b"1"), "gone/", member("gone", LINK, link="/etc")])
def test_a_whiteout_removes_what_is_below(destination: Path, below) -> None:
    assert unpack(destination, archive(below, ("kept", b"1")), archive(".wh.gone")) == {"kept": "1"}


def test_a_whiteout_removes_a_whole_tree(destination: Path) -> None:
    lower = archive("d/", "d/e/", ("d/e/f", b"1"), member("d/closed", DIRECTORY, mode=0), ("other/x", b"1"))
    assert unpack(destination, lower, archive(".wh.d")) == {"other": "/", "other/x": "1"}


def test_a_whiteout_does_not_follow_the_link_that_it_removes(destination: Path) -> None:
    lower = archive("real/", ("real/x", b"1"), member("link", LINK, link="real"))
    assert unpack(destination, lower, archive(".wh.link")) == {"real": "/", "real/x": "1"}


def test_a_whiteout_of_nothing_is_nothing(destination: Path) -> None:
    assert unpack(destination, archive(("a", b"1")), archive(".wh.b", "no/such/.wh.c")) == {"a": "1"}


def test_a_whiteout_does_not_touch_what_its_own_layer_brings(destination: Path) -> None:
    """In whatever order they stand in the layer (OCI image specification, Whiteouts)."""
    lower = archive("d/", ("d/old", b"1"), ("f", b"1"))
    before = archive(".wh.d", ".wh.f", "d/", ("d/new", b"2"), ("f", b"2"))
    after = archive("d/", ("d/new", b"2"), ("f", b"2"), ".wh.d", ".wh.f")
    expected = {"d": "/", "d/new": "2", "f": "2"}
    assert unpack(destination, lower, before) == expected
    shutil.rmtree(destination)
    destination.mkdir()
    assert unpack(destination, lower, after) == expected


@pytest.mark.parametrize("order", [1, -1])
def test_an_opaque_directory_hides_all_below_and_nothing_of_its_own(destination: Path, order: int) -> None:
    lower = archive("d/", ("d/old", b"1"), "d/sub/", ("d/sub/old", b"1"), ("d/both", b"1"))
    upper = [("d/sub/new", b"2"), ("d/both", b"2"), "d/.wh..wh..opq"][::order]
    found = unpack(destination, lower, archive("d/", *upper))
    assert found == {"d": "/", "d/sub": "/", "d/sub/new": "2", "d/both": "2"}


def test_an_opaque_directory_that_is_new_is_just_a_directory(destination: Path) -> None:
    assert unpack(destination, archive("d/", "d/.wh..wh..opq", ("d/x", b"1"))) == {"d": "/", "d/x": "1"}


def test_an_opaque_root_hides_everything(destination: Path) -> None:
    assert unpack(destination, archive("a/", ("a/b", b"1")), archive(".wh..wh..opq", ("c", b"2"))) == {"c": "2"}


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh...", "a/.wh."])
def test_a_whiteout_of_no_name_is_refused(destination: Path, name: str) -> None:
    refuse(destination, "which is no name", archive("a/", ("a/b", b"1")), archive(name))
    assert (destination / "a/b").exists()


def test_a_whiteout_with_dot_dot_is_refused(destination: Path) -> None:
    refuse(destination, "outside of its root", archive("a/../../.wh.in"))


def test_nothing_lies_beneath_a_whiteout(destination: Path) -> None:
    refuse(destination, "a mark of what is removed", archive(".wh.d/x"))


def test_what_aufs_notes_for_itself_is_passed_over(destination: Path) -> None:
    assert unpack(destination, archive(".wh..wh.aufs", ".wh..wh.plnk/", (".wh..wh.plnk/1.2", b"x"), ("a", b"1"))) == {"a": "1"}


def test_a_file_replaces_a_filled_directory_of_a_layer_below(destination: Path) -> None:
    lower = archive("d/", "d/e/", ("d/e/f", b"1"))
    assert unpack(destination, lower, archive(("d", b"2"))) == {"d": "2"}
    shutil.rmtree(destination)
    destination.mkdir()
    assert unpack(destination, lower, archive(member("d", LINK, link="/x"))) == {"d": "-> /x"}


def test_but_not_of_its_own_layer(destination: Path) -> None:
    refuse(destination, "which has entries", archive("d/", ("d/x", b"1"), ("d", b"2")))


def test_a_directory_replaces_a_link_of_a_layer_below(destination: Path) -> None:
    lower = archive("usr/lib/", ("usr/lib/a", b"1"), member("lib", LINK, link="usr/lib"))
    assert unpack(destination, lower, archive("lib/", ("lib/b", b"2"))) == {
        "usr": "/",
        "usr/lib": "/",
        "usr/lib/a": "1",
        "lib": "/",
        "lib/b": "2",
    }


def test_entries_beneath_a_link_go_where_it_leads(destination: Path) -> None:
    """A base image with merged /usr, and layers of programs that do not know of it (bazel, `COPY --link`)."""
    lower = archive("usr/lib/", member("lib", LINK, link="usr/lib"), member("var/run", LINK, link="/run"), "run/")
    found = unpack(destination, lower, archive(("lib/a", b"2"), ("var/run/pid", b"2"), ("lib/x/y", b"2")))
    assert (found["usr/lib/a"], found["run/pid"], found["usr/lib/x/y"]) == ("2", "2", "2")
    assert found["lib"] == "-> usr/lib"


def test_whiteouts_beneath_a_link_hide_where_it_leads(destination: Path) -> None:
    lower = archive(("usr/lib/a", b"1"), ("usr/lib/b", b"1"), member("lib", LINK, link="usr/lib"))
    found = unpack(destination, lower, archive("lib/.wh.a", ("usr/lib/b", b"2"), "lib/.wh.b"))
    assert found == {"usr": "/", "usr/lib": "/", "usr/lib/b": "2", "lib": "-> usr/lib"}


@pytest.mark.parametrize("target", ["/", "..", "../..", "../../../../../..", "/..", "a/../../..", "/proc/self/root", "//"])
def test_links_lead_nowhere_out_of_the_root(destination: Path, target: str) -> None:
    found = unpack(destination, archive("a/", member("link", LINK, link=target)), archive(("link/planted/file", b"2"), "link/.wh.a"))
    assert [name for name in found if name.endswith("planted/file")]
    assert not os.path.lexists("/planted")


@pytest.mark.parametrize(
    "lower",
    [
        [member("a", LINK, link="b"), member("b", LINK, link="a")],
        [member("a", LINK, link="a")],
        [member("a", LINK, link="x0"), *(member(f"x{n}", LINK, link=f"x{n + 1}") for n in range(50))],
        [("a", b"a file")],
    ],
)
def test_links_that_lead_to_no_directory_are_refused(destination: Path, lower: list) -> None:
    refuse(destination, "no directory in it", archive(*lower), archive(("a/file", b"2")))


def test_links_do_not_help_to_build_what_is_too_deep(destination: Path) -> None:
    deep = "/".join(["d"] * 120)
    refuse(destination, "no directory in it", archive((f"{deep}/x", b"1"), member("a", LINK, link=deep)), archive((f"a/{deep}/x", b"2")))


def test_a_hard_link_leads_to_a_layer_below_and_beneath_links(destination: Path) -> None:
    lower = archive(("usr/bin/a", b"1"), member("bin", LINK, link="usr/bin"))
    unpack(destination, lower, archive(member("b", HARD, link="bin/a")))
    assert (destination / "b").samefile(destination / "usr/bin/a")


def test_replacing_one_name_of_a_file_leaves_the_other(destination: Path) -> None:
    lower = archive(("a", b"1"), member("b", HARD, link="a"))
    assert unpack(destination, lower, archive(("a", b"2"))) == {"a": "2", "b": "1"}


def test_a_hard_link_to_what_is_removed_is_refused(destination: Path) -> None:
    refuse(destination, "not in the archive", archive(("a", b"1")), archive(".wh.a", member("b", HARD, link="a")))


def test_a_hard_link_to_itself_by_another_name_is_refused(destination: Path) -> None:
    lower = archive(("usr/a", b"1"), member("u", LINK, link="usr"))
    refuse(destination, "not in the archive", lower, archive(member("u/a", HARD, link="usr/a")))


def test_devices_and_set_id_bits_stay_behind(destination: Path) -> None:
    whiteout_of_overlayfs = member("hidden", tarfile.CHRTYPE)
    found = unpack(destination, archive(("hidden", b"1"), (member("su", mode=0o4755), b"x")), archive(whiteout_of_overlayfs))
    assert found == {"hidden": "1", "su": "x"}
    assert stat.S_IMODE((destination / "su").stat().st_mode) == 0o755


def test_extended_attributes_are_not_taken_over(destination: Path) -> None:
    info = member("d", DIRECTORY, mode=0o755)
    info.pax_headers = {"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.security.capability": "x"}
    unpack(destination, archive(info))
    assert os.listxattr(destination / "d") == []


def test_limits_count_all_layers_together(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [archive((f"f{n}", b"x" * 600)) for n in range(3)]
    refuse(destination, "more than 1000 bytes", *layers, limit_bytes=1000)
    monkeypatch.setattr(unpacker, "MAX_ENTRIES", 2)
    shutil.rmtree(destination)
    destination.mkdir()
    refuse(destination, "more than 2 entries", *layers)


def test_an_empty_layer_is_one(destination: Path) -> None:
    assert unpack(destination, archive(("a", b"1")), bytes(1024), gzip.compress(bytes(1024)), archive(".wh.a")) == {}


def test_what_follows_a_layer_without_end_is_refused(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "MAX_TRAILING_BYTES", 100_000)
    assert unpack(destination, archive(("a", b"1")) + bytes(90_000)) == {"a": "1"}
    refuse(destination, "bytes follow the archive", gzip.compress(archive(("a", b"1")) + bytes(200_000)))


@pytest.fixture
def own_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


# -- the program ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_umask")
def test_the_program_compares_each_layer_with_its_digest(destination: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = [archive(("a", b"1")), archive(("b", b"2")) + bytes(40_000)]
    paths = []
    for number, data in enumerate(plain):
        (tmp_path / "in" / f"{number}").write_bytes(gzip.compress(data))
        paths.append(str(tmp_path / "in" / f"{number}"))
    digests = [word for data in plain for word in ("--diff-id", digest_of(data))]
    assert main(["--layers", *digests, *paths, str(destination)]) == 0
    assert tree(destination) == {"a": "1", "b": "2"}
    assert main(["--layers", *digests[2:], *digests[:2], *paths, str(destination)]) == 1
    assert "layer 1 of the image is not what" in capsys.readouterr().err
    assert main(["--layers", *digests[2:], *paths, str(destination)]) == 1
    assert "tells the digests of 1" in capsys.readouterr().err


@pytest.mark.usefixtures("own_umask")
def test_the_program_copies_a_directory(destination: Path, tmp_path: Path) -> None:
    source = tmp_path / "in" / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/file").write_text("1")
    os.link(source / "d/file", source / "same")
    (source / "link").symlink_to("/etc/passwd")
    (source / "su").write_text("x")
    (source / "su").chmod(0o6755)
    os.mkfifo(source / "pipe")
    (source / "d").chmod(0o1777)
    assert main([COPY, str(source), str(destination)]) == 0
    assert tree(destination) == {"d": "/", "d/file": "1", "same": "1", "link": "-> /etc/passwd", "su": "x"}
    assert (destination / "same").samefile(destination / "d/file")
    assert stat.S_IMODE((destination / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((destination / "d").stat().st_mode) == 0o1777


def test_a_copy_is_bounded_too(destination: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in" / "source"
    (source / "a/b/c").mkdir(parents=True)
    (source / "big").write_bytes(bytes(2000))
    root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(BadArchiveError, match="more than 1000 bytes"):
        Copier(root, 1000).copy(str(source))
    monkeypatch.setattr("agentkernel.images.copying.MAX_DEPTH", 1)
    with pytest.raises(BadArchiveError, match="too deep"):
        Copier(os.open(tmp_path / "in", os.O_RDONLY)).copy(str(source))
    os.close(root)


# -- zstd -------------------------------------------------------------------------------------------------------------------------------


def zstd_of(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, capture_output=True, check=True).stdout


@needs_zstd
@pytest.mark.parametrize("options", [(), ("-19",), ("--no-check",), ("-T2", "-B100KiB")])
def test_layers_of_zstd_are_read(destination: Path, options: tuple[str, ...]) -> None:
    noise = random.Random(1).randbytes(1_000_000)
    unpack_bytes = archive(("noise", noise), ("zeros", bytes(3_000_000)))
    root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    LayerUnpacker(root).unpack(Source(io.BytesIO(zstd_of(unpack_bytes, *options))))
    os.close(root)
    assert (destination / "noise").read_bytes() == noise
    assert (destination / "zeros").read_bytes() == bytes(3_000_000)


@needs_zstd
def test_several_frames_and_skipped_ones_are_one_stream(destination: Path) -> None:
    """`zstd:chunked` (podman) ends with a skipped frame, and pzstd begins with one."""
    data = archive(("a", b"1" * 100_000))
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    stream = skipped + zstd_of(data[:5000]) + zstd_of(data[5000:]) + skipped
    assert unpack(destination, stream) == {"a": "1" * 100_000}


@needs_zstd
@pytest.mark.parametrize("cut", [5, 300, 3000, -1])
def test_a_cut_stream_of_zstd_is_refused(destination: Path, cut: int) -> None:
    refuse(destination, "cut short", zstd_of(archive(("noise", random.Random(2).randbytes(50_000))))[:cut])


@needs_zstd
def test_a_damaged_stream_of_zstd_is_refused(destination: Path) -> None:
    data = bytearray(zstd_of(archive(("noise", b"0123456789" * 50_000))))
    for place in range(20, len(data) - 4, 7):
        data[place] ^= 0xFF
    refuse(destination, "zstd stream is damaged", bytes(data))


@needs_zstd
def test_a_bomb_of_zstd_ends_at_the_ratio(destination: Path) -> None:
    refuse(destination, "decompression bomb", zstd_of(member("zeros", size=80 << 20).tobuf() + bytes(80 << 20), "-19"))


@needs_zstd
def test_a_stream_of_zstd_that_wants_very_much_memory_is_refused(destination: Path) -> None:
    data = zstd_of(archive(("x", bytes(1000))), "--long=27")
    header = bytes([*data[:4], 0x00, (31 - 10) << 3])  # a frame whose window is 2 GiB
    refuse(destination, "zstd stream is damaged", header + data[6:])


# -- any layers at all ------------------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    ["a", "b", "c", "a/b", "a/b/c", "b/a", "c/a/b", "a/.wh.b", ".wh.a", "b/.wh..wh..opq", ".wh..wh..opq", "a/..", "./a/./c"]
)
_TARGETS = st.sampled_from(["a", "b", "/", "..", "/a/b", "../../c", "c/a", "/etc/passwd", "."])
_MEMBERS = st.one_of(
    st.tuples(_NAMES, st.binary(max_size=4)),
    st.builds(lambda name: member(name, DIRECTORY, mode=0o700), _NAMES),
    st.builds(lambda name, target: member(name, LINK, link=target), _NAMES, _TARGETS),
    st.builds(lambda name, target: member(name, HARD, link=target), _NAMES, _TARGETS),
)


@settings(max_examples=300, deadline=None)
@given(layers=st.lists(st.lists(_MEMBERS, max_size=8), min_size=1, max_size=3))
def test_whatever_layers_say_nothing_outside_is_touched(layers: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("any")
    destination = base / "in" / "rootfs"
    destination.mkdir(parents=True)
    (base / "in" / "victim").write_text("untouched")
    root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    try:
        unpacker = LayerUnpacker(root, 1 << 20)
        for layer in layers:
            unpacker.unpack(Source(io.BytesIO(archive(*layer))))
    except BadArchiveError:
        pass
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left open"
    os.close(root)
    assert [path.name for path in base.rglob("*") if destination not in (path, *path.parents)] == ["in", "victim"]
    assert (base / "in" / "victim").read_text() == "untouched"
    assert not any(name.split("/")[-1].startswith(".wh.") for name in _names(destination))


def _names(directory: Path) -> list[str]:
    return [os.path.join(path, name) for path, directories, files in os.walk(directory) for name in (*directories, *files)]
