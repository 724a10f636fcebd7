"""Unpacking archives, friendly and hostile: nothing outside the destination is ever touched."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from agentkernel import tarformat
from agentkernel.images import tarstream
from agentkernel.images.decompress import Source
from agentkernel.images.unpack import arguments
from agentkernel.images.unpacker import Tally, Unpacker
from agentkernel.tarformat import BadArchiveError


def member(name, kind=tarfile.REGTYPE, *, link="", mode=0o644, size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, size
    return info


def archive(*members, format=tarfile.PAX_FORMAT):
    """An archive of (TarInfo or name, data) pairs, TarInfos or names; a name that ends in / is a directory."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            if isinstance(info, str):
                info = member(info.rstrip("/"), tarfile.DIRTYPE, mode=0o755) if info.endswith("/") else member(info)
            if data:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    made = tmp_path / "in" / "rootfs"
    made.mkdir(parents=True)
    return made


def unpack(data: bytes, destination: Path, *, limit_bytes: int = 1 << 30) -> Tally:
    root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return Unpacker(root, limit_bytes).unpack(Source(io.BytesIO(data)))
    finally:
        os.close(root)


def outside(destination: Path) -> list[str]:
    """All that is beside the destination; each test ends with nothing there."""
    return sorted(
        str(path)
        for path in destination.parent.parent.rglob("*")
        if destination not in (path, *path.parents) and path != destination.parent
    )


def refuse(data: bytes, destination: Path, message: str, *, limit_bytes: int = 1 << 30) -> None:
    with pytest.raises(BadArchiveError, match=message):
        unpack(data, destination, limit_bytes=limit_bytes)
    assert outside(destination) == []


def test_files_directories_and_links_come_out_as_they_went_in(destination: Path) -> None:
    data = archive(
        "etc/",
        ("etc/passwd", b"root:x:0:0\n"),
        (member("bin/tool", mode=0o755), b"#!/bin/sh\n"),
        member("etc/link", tarfile.SYMTYPE, link="/etc/passwd"),
        member("bin/same", tarfile.LNKTYPE, link="bin/tool"),
    )
    tally = unpack(data, destination)
    assert (destination / "etc/passwd").read_bytes() == b"root:x:0:0\n"
    assert stat.S_IMODE((destination / "bin/tool").stat().st_mode) == 0o755
    assert os.readlink(destination / "etc/link") == "/etc/passwd"
    assert (destination / "bin/same").samefile(destination / "bin/tool")
    assert tally.entries == 5


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_compressed_archives_are_read(destination: Path, compress) -> None:
    noise = random.Random(1).randbytes(700_000)
    unpack(compress(archive(("noise", noise))), destination)
    assert (destination / "noise").read_bytes() == noise


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_an_archive_of_several_streams_is_read_as_one(destination: Path, compress) -> None:
    data = archive(("noise", bytes(300_000)), ("more", b"x" * 70_000))
    unpack(compress(data[:100_001]) + compress(data[100_001:]), destination)
    assert (destination / "more").read_bytes() == b"x" * 70_000


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_a_cut_archive_is_refused(destination: Path, compress) -> None:
    whole = compress(archive(("noise", random.Random(2).randbytes(100_000))))
    refuse(whole[: len(whole) // 2], destination, "cut short")


def test_a_damaged_stream_is_refused(destination: Path) -> None:
    whole = bytearray(gzip.compress(archive(("noise", random.Random(2).randbytes(100_000)))))
    whole[5000:5100] = bytes(100)
    with pytest.raises(BadArchiveError):
        unpack(bytes(whole), destination)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_long_names_and_targets_are_kept_whole(destination: Path, format) -> None:
    name = "/".join(["d" * 90] * 20) + "/file"
    target = "t" * 600
    unpack(archive((name, b"x"), member("link", tarfile.SYMTYPE, link=target), format=format), destination)
    assert (destination / name).read_bytes() == b"x"
    assert os.readlink(destination / "link") == target


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_a_long_name_whose_header_ends_with_a_slash_is_a_files(destination: Path, format) -> None:
    name = "/".join(["d"] * 120)
    unpack(archive((f"{name}/x", b"x"), format=format), destination)
    assert (destination / name / "x").read_bytes() == b"x"


def test_a_file_whose_name_ends_with_a_slash_is_a_directory(destination: Path) -> None:
    """As tar wrote them before there was a type for directories."""
    unpack(member("old/").tobuf(tarfile.USTAR_FORMAT) + bytes(1024), destination)
    assert (destination / "old").is_dir()


def test_names_that_are_not_utf8_are_kept_byte_by_byte(destination: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    unpack(archive((name, b"x"), format=tarfile.GNU_FORMAT), destination)
    assert os.listdir(os.fsencode(destination)) == [b"caf\xe9"]


@pytest.mark.parametrize("name", ["../escape", "a/../../escape", "a/..", "..", "/../escape"])
def test_a_name_with_dot_dot_ends_the_import(destination: Path, name: str) -> None:
    refuse(archive((name, b"x")), destination, "outside of its root")


def test_an_absolute_name_is_taken_from_the_root_of_the_archive(destination: Path) -> None:
    unpack(archive(("/etc/hosts", b"x")), destination)
    assert (destination / "etc/hosts").read_bytes() == b"x"


@pytest.mark.parametrize("target", ["/tmp", "..", "../..", "/", ".", "real"])
def test_nothing_is_written_through_a_symbolic_link(destination: Path, target: str) -> None:
    data = archive("real/", member("link", tarfile.SYMTYPE, link=target), ("link/escape", b"x"))
    refuse(data, destination, "beneath 'link', which is no directory")
    assert not (destination / "real/escape").exists()


def test_a_chain_of_links_that_outgrows_path_max_leads_nowhere(destination: Path) -> None:
    """CVE-2025-4517: realpath gives up beyond PATH_MAX, so that a check by string passes and the write leaves the destination."""
    component = "d" * 247
    members, step = [], ""
    for letter in "abcdefghijklmnop":
        members += [f"{step}{component}/", member(f"{step}{letter}", tarfile.SYMTYPE, link=component)]
        step += f"{letter}/"
    long_link = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    members += [
        member(long_link, tarfile.SYMTYPE, link="../" * 16),
        member("escape", tarfile.SYMTYPE, link=long_link + "/../../../escaped"),
    ]
    members += [member("flag", tarfile.LNKTYPE, link="escape"), ("flag", b"x")]
    refuse(archive(*members), destination, "which is no directory")


def test_a_file_replaces_a_symbolic_link_instead_of_following_it(destination: Path) -> None:
    victim = destination.parent.parent / "victim"
    victim.write_text("untouched")
    unpack(archive(member("file", tarfile.SYMTYPE, link=str(victim)), ("file", b"new")), destination)
    assert victim.read_text() == "untouched"
    assert (destination / "file").read_bytes() == b"new"
    assert not (destination / "file").is_symlink()


def test_a_hard_link_to_a_symbolic_link_never_touches_its_target(destination: Path) -> None:
    victim = destination.parent.parent / "victim"
    victim.write_text("untouched")
    unpack(
        archive(member("link", tarfile.SYMTYPE, link=str(victim)), member("hard", tarfile.LNKTYPE, link="link"), ("hard", b"new")),
        destination,
    )
    assert victim.read_text() == "untouched"
    assert victim.stat().st_nlink == 1
    assert os.readlink(destination / "link") == str(victim)


@pytest.mark.parametrize("target", ["/etc/passwd", "missing", "dir/missing"])
def test_a_hard_link_leads_only_to_what_the_archive_brought(destination: Path, target: str) -> None:
    refuse(archive("dir/", member("hard", tarfile.LNKTYPE, link=target)), destination, "not in the archive before it")


@pytest.mark.parametrize("target", ["../victim", "a/../../victim"])
def test_a_hard_link_with_dot_dot_ends_the_import(destination: Path, target: str) -> None:
    refuse(archive(member("hard", tarfile.LNKTYPE, link=target)), destination, "outside of its root")


def test_a_hard_link_through_a_symbolic_link_is_refused(destination: Path) -> None:
    refuse(archive(member("up", tarfile.SYMTYPE, link=".."), member("hard", tarfile.LNKTYPE, link="up/x")), destination, "no directory")


def test_a_hard_link_to_itself_or_a_directory_is_refused(destination: Path) -> None:
    refuse(archive(("a", b"x"), member("a", tarfile.LNKTYPE, link="a")), destination, "leads to itself")
    refuse(archive("dir/", member("b", tarfile.LNKTYPE, link="dir")), destination, "does not lead to a file")


def test_a_directory_that_becomes_a_link_cannot_be_written_through(destination: Path) -> None:
    """The parent is kept open between entries: swapping it must not leave a way out, nor a stale descriptor."""
    refuse(archive("dir/", member("dir", tarfile.SYMTYPE, link="/tmp"), ("dir/escape", b"x")), destination, "no directory")


def test_a_later_entry_wins_but_does_not_remove_a_filled_directory(destination: Path) -> None:
    unpack(archive(("name", b"old"), "name/", ("name/inner", b"x")), destination)
    assert (destination / "name/inner").read_bytes() == b"x"
    refuse(archive("full/", ("full/inner", b"x"), ("full", b"y")), destination, "which has entries")


def test_special_files_are_skipped_and_counted(destination: Path) -> None:
    tally = unpack(
        archive(member("null", tarfile.CHRTYPE), member("sda", tarfile.BLKTYPE), member("pipe", tarfile.FIFOTYPE), ("file", b"x")),
        destination,
    )
    assert tally.devices_skipped == 3
    assert os.listdir(destination) == ["file"]


def test_set_id_bits_are_dropped_and_the_sticky_bit_of_directories_is_kept(destination: Path) -> None:
    tally = unpack(
        archive((member("su", mode=0o6755), b"x"), member("tmp", tarfile.DIRTYPE, mode=0o1777), member("g", tarfile.DIRTYPE, mode=0o2755)),
        destination,
    )
    assert stat.S_IMODE((destination / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((destination / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((destination / "g").stat().st_mode) == 0o755
    assert tally.set_id_dropped == 1


def test_what_lies_in_a_closed_directory_comes_out_and_stays_removable(destination: Path) -> None:
    unpack(archive(member("closed", tarfile.DIRTYPE, mode=0), (member("closed/in", mode=0), b"x")), destination)
    assert stat.S_IMODE((destination / "closed").stat().st_mode) == 0o700
    assert stat.S_IMODE((destination / "closed/in").stat().st_mode) == 0o400
    assert (destination / "closed/in").read_bytes() == b"x"


def test_missing_parents_are_made_and_a_later_entry_sets_their_mode(destination: Path) -> None:
    unpack(archive(("a/b/file", b"x"), member("a", tarfile.DIRTYPE, mode=0o711)), destination)
    assert stat.S_IMODE((destination / "a").stat().st_mode) == 0o711
    assert stat.S_IMODE((destination / "a/b").stat().st_mode) == 0o755


@pytest.mark.parametrize("sparse_format", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_files_of_gnu_tar_are_read(destination: Path, tmp_path: Path, sparse_format: str) -> None:
    source = tmp_path / "in" / "sparse"
    with source.open("wb") as file:
        for index in range(30):  # more parts than the old format's first header holds
            file.seek(index * 1_000_000)
            file.write(b"%07d" % index * 1000)
        file.truncate(40_000_000)
    option = ["--format=gnu"] if sparse_format == "gnu" else ["--format=pax", f"--sparse-version={sparse_format}"]
    made = subprocess.run(["tar", "-C", source.parent, "-cSf", "-", *option, "sparse"], capture_output=True, check=True).stdout
    assert len(made) < 5_000_000, "tar made no sparse entry"
    unpack(made, destination)
    assert (destination / "sparse").read_bytes() == source.read_bytes()
    assert (destination / "sparse").stat().st_blocks * 512 < 5_000_000


def test_a_huge_sparse_file_counts_with_the_size_that_it_claims(destination: Path) -> None:
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "huge", "GNU.sparse.realsize": str(1 << 40)}
    info = member("GNUSparseFile.0/huge")
    info.pax_headers = pax
    refuse(archive((info, b"1\n0\n0\n".ljust(512, b"\0"))), destination, "more than")


@pytest.mark.parametrize("text", [b"1\n5\n", b"9999999\n", b"1\n-1\n5\n", b"2\n100\n5\n50\n5\n", b"1\n0\n99999999\n"])
def test_a_lying_sparse_map_is_refused(destination: Path, text: bytes) -> None:
    info = member("x")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000"}
    with pytest.raises(BadArchiveError):
        unpack(archive((info, text.ljust(512, b"\0") + b"datas")), destination)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_a_decompression_bomb_ends_at_the_ratio(destination: Path, compress) -> None:
    info = member("zeros", size=80 << 20)
    bomb = compress(info.tobuf() + bytes(80 << 20))
    refuse(bomb, destination, "decompression bomb")


def test_more_bytes_than_the_limit_are_refused_before_they_are_written(destination: Path) -> None:
    refuse(archive(("a", b"x" * 600), ("b", b"x" * 600)), destination, "more than 1000 bytes", limit_bytes=1000)
    assert not (destination / "b").exists()


def test_names_that_are_too_long_or_too_deep_are_refused(destination: Path) -> None:
    refuse(archive(("n" * 300, b"")), destination, "too long or too deep")
    refuse(archive(("/".join("d" * 200), b"")), destination, "too long or too deep")


def test_too_many_entries_are_refused(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkernel.images.unpacker.MAX_ENTRIES", 10)
    refuse(archive(*[f"f{index}" for index in range(11)]), destination, "more than 10 entries")


def test_a_giant_extended_header_is_not_read_into_memory(destination: Path) -> None:
    info = member("x", tarfile.XHDTYPE, size=8 << 30)
    refuse(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024), destination, "extended header")


@pytest.mark.parametrize("record", [b"999 path=x\n", b"5 a=b\n", b"0 path=x\n", b"path=x\n", b"10 path=xyz", b"-5 path=x\n"])
def test_a_pax_record_whose_length_is_untrue_is_refused(record: bytes) -> None:
    with pytest.raises(BadArchiveError):
        tarformat.parse_pax(record)


def test_a_pax_header_of_very_many_records_is_read_in_linear_time(destination: Path) -> None:
    data = b"6 a=b\n" * 170_000
    info = member("PaxHeader", tarfile.XHDTYPE, size=len(data))
    padded = data + bytes(-len(data) % 512)
    unpack(info.tobuf(tarfile.USTAR_FORMAT) + padded + archive(("file", b"x")), destination)
    assert (destination / "file").read_bytes() == b"x"


def test_what_is_no_archive_is_said_to_be_none(destination: Path) -> None:
    """Whatever its bytes would be as numbers."""
    for junk in (b"\xff" * 5000, b"\x80" * 5000, b"hello world" * 500, bytes(range(256)) * 20):
        refuse(junk, destination, "this is not a tar archive")


@pytest.mark.parametrize("junk", [b"hello world" * 200, bytes(range(256)) * 8, b"\x1f\x8b" + b"junk" * 200, b"BZh9" + b"junk" * 200])
def test_what_is_no_archive_is_refused(destination: Path, junk: bytes) -> None:
    with pytest.raises(BadArchiveError):
        unpack(junk, destination)


def test_zstd_and_zip_are_named(destination: Path) -> None:
    refuse(b"\x28\xb5\x2f\xfd" + bytes(100), destination, "zstd")
    refuse(b"PK\x03\x04" + bytes(100), destination, "zip")


def test_an_empty_archive_is_refused(destination: Path) -> None:
    refuse(bytes(10240), destination, "empty")
    refuse(b"", destination, "empty")


@pytest.mark.parametrize("names", [["manifest.json", "repositories", "abc/layer.tar"], ["oci-layout", "index.json", "blobs/"]])
def test_an_archive_of_layers_is_recognised(destination: Path, names: list[str]) -> None:
    with pytest.raises(BadArchiveError, match="image layers") as caught:
        unpack(archive(*names), destination)
    assert "agentkernel image import" in caught.value.hint


def test_a_root_file_system_with_a_manifest_is_none_of_that(destination: Path) -> None:
    unpack(archive("etc/", "usr/", "manifest.json"), destination)
    assert (destination / "manifest.json").exists()


def test_random_damage_never_escapes_and_never_raises_anything_else(destination: Path) -> None:
    whole = archive(
        "etc/",
        ("etc/passwd", b"x" * 3000),
        member("link", tarfile.SYMTYPE, link="../../escape"),
        ("n" * 150, b"long"),
        member("hard", tarfile.LNKTYPE, link="etc/passwd"),
    )
    chance = random.Random(7)
    for round_number in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(whole))
            damaged[place] = chance.randrange(256)
        for header in range(0, len(damaged) - 512, 512):  # let some of the damage past the checksum
            if chance.random() < 0.5 and damaged[header + 257 : header + 262] == b"ustar":
                block = bytes(damaged[header : header + 148]) + b" " * 8 + bytes(damaged[header + 156 : header + 512])
                damaged[header + 148 : header + 156] = b"%06o\0 " % sum(block)
        target = destination / str(round_number)
        target.mkdir()
        try:
            unpack(bytes(damaged), target, limit_bytes=1 << 20)
        except (BadArchiveError, OSError):
            continue
    assert outside(destination) == []


def test_the_program_prints_one_line_of_json(destination: Path, tmp_path: Path) -> None:
    path = tmp_path / "in" / "image.tar"
    path.write_bytes(archive(("etc/hosts", b"x" * 10)))
    environment = {"PYTHONPATH": str(Path(tarstream.__file__).parents[2])}
    command = [sys.executable, *arguments(str(path), str(destination), 1000)]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "ok": True,
        "entries": 1,
        "bytes": 10,
        "devices_skipped": 0,
        "others_skipped": 0,
        "set_id_dropped": 0,
    }

    with path.open("rb") as file:
        refused = subprocess.run(
            [sys.executable, *arguments("-", str(destination), 5)],
            env=environment,
            cwd="/",
            stdin=file,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["ok"] is False
    assert refused.stderr == "the archive unpacks to more than 5 bytes\n"
