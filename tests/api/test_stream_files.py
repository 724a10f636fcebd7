"""Files, trees and changes as streams, against a real server; archives that are hostile."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
from collections.abc import Iterator

import httpx
import pytest
from api.stream_world import Served, following, served, told, until

__all__ = ["served"]


@pytest.fixture(scope="module")
def box(served: Served) -> Iterator[str]:
    name = served.create("filebox")
    yield name
    served.remove(name)


def run(served: Served, box: str, script: str) -> str:
    return told(served, box, script).decode("utf-8", "surrogateescape")


def archive(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", size: int = 0, mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size, made.mode = kind, link, size, mode
    return made


def put(served: Served, box: str, path: str, content: bytes) -> dict[str, object]:
    return served.http.put(f"/sandboxes/{box}/archive{path}", content=content).json()  # type: ignore[no-any-return]


# -- files


def test_a_file_goes_in_and_comes_out_as_it_is(served: Served, box: str) -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(64):
            yield bytes((number,)) * 100_000

    data = served.data("PUT", f"/sandboxes/{box}/upload/tmp/new/dir/big.bin?parents=true&mode=600", content=pieces())
    assert data == {"path": "/tmp/new/dir/big.bin", "bytes": 6_400_000}
    assert run(served, box, "stat -c %a /tmp/new/dir/big.bin; ls -A /tmp/new/dir") == "600\nbig.bin\n"
    digest = hashlib.sha256()
    with served.http.stream("GET", f"/sandboxes/{box}/download/tmp/new/dir/big.bin") as answer:
        assert answer.status_code == 200
        for piece in answer.iter_bytes():
            digest.update(piece)
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces())).hexdigest()
    assert answer.headers["content-length"] == "6400000"
    part = served.http.get(f"/sandboxes/{box}/download/tmp/new/dir/big.bin?offset=99999&length=2").content
    assert part == b"\x00\x01"


def test_a_file_whose_length_only_reading_tells(served: Served, box: str) -> None:
    assert served.http.get(f"/sandboxes/{box}/download/proc/self/status").content.startswith(b"Name:")
    run(served, box, ": > /tmp/empty")
    assert served.http.get(f"/sandboxes/{box}/download/tmp/empty").content == b""
    run(served, box, "echo 12345 > /tmp/short")
    assert served.http.get(f"/sandboxes/{box}/download/tmp/short?offset=9").content == b""
    assert served.http.get(f"/sandboxes/{box}/download/tmp/short?offset=3&length=100").content == b"45\n"


def test_a_file_that_shrinks_while_it_is_taken_does_not_pass_for_whole(served: Served, box: str) -> None:
    run(served, box, "truncate -s 100M /tmp/shrinks")
    with served.http.stream("GET", f"/sandboxes/{box}/download/tmp/shrinks") as answer:
        pieces = answer.iter_bytes()
        assert next(pieces)
        run(served, box, "truncate -s 1 /tmp/shrinks")
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in pieces:
                pass


def test_names_are_bytes_and_decoded_once(served: Served, box: str) -> None:
    served.data("PUT", f"/sandboxes/{box}/upload/tmp/a%20%ff%252Fb", content=b"here")
    assert run(served, box, r"cat /tmp/a\ $(printf '\377')%2Fb") == "here"
    nul = served.http.get(f"/sandboxes/{box}/download/tmp/a%00b")
    assert (nul.status_code, nul.json()["code"]) == (400, "invalid_input")


def test_what_cannot_be_read_or_written_is_an_error_answer(served: Served, box: str) -> None:
    for path, status in (("/nowhere", 404), ("/tmp", 400), ("/etc/shadow", 404)):
        assert served.http.get(f"/sandboxes/{box}/download{path}").status_code == status, path
    assert served.http.put(f"/sandboxes/{box}/upload/nowhere/x", content=b"x").status_code == 404
    assert served.http.put(f"/sandboxes/{box}/upload/usr/x", content=b"x").status_code == 403


def test_an_upload_that_breaks_off_leaves_the_old_file(served: Served, box: str) -> None:
    served.data("PUT", f"/sandboxes/{box}/upload/tmp/kept/file?parents=true", content=b"old")
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = f"PUT /sandboxes/{box}/upload/tmp/kept/file HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 300_000)
        until(lambda: run(served, box, "cat /tmp/kept/.agentkernel-* 2> /dev/null | head -c 1"))
    until(lambda: run(served, box, "ls -A /tmp/kept") == "file\n")
    assert run(served, box, "cat /tmp/kept/file") == "old"


def test_a_download_that_nobody_takes_stops(served: Served, box: str) -> None:
    """The reader inside has not read more than the rings, the sockets and the pipes hold, and ends with its client."""
    run(served, box, "head -c 100000000 /dev/zero > /tmp/large")
    with served.raw("GET", f"/sandboxes/{box}/download/tmp/large") as connection:
        assert connection.recv(10)
        assert len(served.http.get(f"/sandboxes/{box}/download/tmp/large?length=5").content) == 5, "others are served"


# -- trees


def test_a_tree_goes_out_and_in_again(served: Served, box: str) -> None:
    run(
        served,
        box,
        "mkdir -p /tmp/tree/deep/er; cd /tmp/tree; echo a > a; chmod 751 deep; ln -s a link; mkfifo fifo; head -c 300000 /dev/urandom > deep/er/r",
    )
    content = served.http.get(f"/sandboxes/{box}/archive/tmp/tree").content
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert sorted(tar.getnames()) == [".", "a", "deep", "deep/er", "deep/er/r", "link"]
    said = put(served, box, "/tmp/copy/of", content)
    assert said["data"] == {
        "path": "/tmp/copy/of", "files": 2, "directories": 2, "symlinks": 1, "bytes": 300_002, "skipped": [], "outward": [],
    }  # fmt: skip
    assert run(served, box, "cd /tmp; rm tree/fifo; diff -r tree copy/of && stat -c %a copy/of/deep && readlink copy/of/link") == "751\na\n"
    assert put(served, box, "/tmp/copy/of", content)["success"], "files that are there are replaced"


def test_one_file_as_an_archive_and_gzip(served: Served, box: str) -> None:
    run(served, box, "echo one > /tmp/one")
    with tarfile.open(fileobj=io.BytesIO(served.http.get(f"/sandboxes/{box}/archive/tmp/one").content)) as tar:
        assert tar.getnames() == ["one"]
    packed = archive((member("z", size=200_000), bytes(200_000)), mode="w:gz")
    assert len(packed) < 2000
    assert put(served, box, "/tmp/unzipped", packed)["success"]
    assert run(served, box, "wc -c < /tmp/unzipped/z") == "200000\n"


OUT = "leads out of the directory"
HOSTILE = {
    "parent": ([(member("../evil", size=1), b"x")], OUT),
    "parent in the middle": ([(member("a/../../evil", size=1), b"x")], OUT),
    "absolute": ([(member("/tmp/evil", size=1), b"x")], OUT),
    "through a symlink": ([(member("s", tarfile.SYMTYPE, link="/tmp"), b""), (member("s/evil", size=1), b"x")], "no directory"),
    "through a chain": (
        [
            (member("t", tarfile.SYMTYPE, link=".."), b""),
            (member("s", tarfile.SYMTYPE, link="t/.."), b""),
            (member("s/evil", size=1), b"x"),
        ],
        "no directory",
    ),
    "directory becomes link": (
        [(member("d", tarfile.DIRTYPE), b""), (member("d", tarfile.SYMTYPE, link="/tmp"), b""), (member("d/evil", size=1), b"x")],
        "is a directory",
    ),
    "link becomes directory": (
        [(member("l", tarfile.SYMTYPE, link="/tmp"), b""), (member("l", tarfile.DIRTYPE, mode=0o777), b"")],
        "no directory",
    ),
    "hard link out": ([(member("h", tarfile.LNKTYPE, link="../../../etc/passwd"), b"")], OUT),
    "hard link absolute": ([(member("h", tarfile.LNKTYPE, link="/etc/passwd"), b"")], OUT),
    "hard link to a symlink": (
        [(member("s", tarfile.SYMTYPE, link="/etc/passwd"), b""), (member("h", tarfile.LNKTYPE, link="s"), b"")],
        "no regular file",
    ),
    "hard link through a symlink": (
        [(member("s", tarfile.SYMTYPE, link="/etc"), b""), (member("h", tarfile.LNKTYPE, link="s/passwd"), b"")],
        "does not come before",
    ),
    "itself": ([(member(".", size=1), b"x")], "the directory itself"),
    "deep": ([(member("d/" * 250 + "f"), b"")], "too long"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_archive_cannot_leave_its_directory(served: Served, box: str, case: str) -> None:
    members, words = HOSTILE[case]
    run(served, box, "rm -rf /tmp/pit")
    said = put(served, box, "/tmp/pit/inner", archive(*members))
    assert said["success"] is False and said["code"] == "invalid_input" and words in str(said["error"]), said
    assert run(served, box, "ls -d /tmp/evil /evil /tmp/pit/evil 2> /dev/null; stat -c %a /tmp") == "1777\n"


def test_what_an_archive_may_not_bring_is_left_out(served: Served, box: str) -> None:
    content = archive(
        (member("su", size=1, mode=0o6755), b"x"),
        (member("null", tarfile.CHRTYPE), b""),
        (member("disk", tarfile.BLKTYPE), b""),
        (member("fifo", tarfile.FIFOTYPE), b""),
        (member("out", tarfile.SYMTYPE, link="../../etc/passwd"), b""),
        (member("twin", tarfile.LNKTYPE, link="su"), b""),
    )
    said = put(served, box, "/tmp/left", content)
    assert said["success"], said
    assert said["data"]["skipped"] == ["null", "disk", "fifo"] and said["data"]["outward"] == ["out"]  # type: ignore[index]
    assert run(served, box, "cd /tmp/left; stat -c '%n %a %F %h' su twin; readlink out; ls -A | wc -l") == (
        "su 755 regular file 1\ntwin 755 regular file 1\n../../etc/passwd\n3\n"
    )


def test_an_old_symlink_in_the_way_is_replaced_and_not_followed(served: Served, box: str) -> None:
    run(served, box, "mkdir -p /tmp/old; echo mine > /tmp/precious; ln -s /tmp/precious /tmp/old/f; ln -s /tmp /tmp/old/d")
    assert put(served, box, "/tmp/old", archive((member("f", size=3), b"new")))["success"]
    large = archive((member("f", size=300_000), bytes(300_000)))
    run(served, box, "ln -sf /tmp/precious /tmp/old/f")
    assert put(served, box, "/tmp/old", large)["success"]
    assert "no directory" in str(put(served, box, "/tmp/old", archive((member("d/evil", size=1), b"x"))))
    assert run(served, box, "cat /tmp/precious; wc -c < /tmp/old/f; ls /tmp/evil 2>&1 | grep -c 'No such'") == "mine\n300000\n1\n"


def damaged() -> dict[str, bytes]:
    whole = archive((member("f", size=1000), bytes(1000)))
    huge = member("huge")
    huge.size = 8 * 2**60
    negative = bytearray(member("n").tobuf(tarfile.GNU_FORMAT))
    negative[124:136] = b"\xff" * 12
    negative[148:156] = b"%06o\0 " % (sum(negative[:148]) + sum(negative[156:]) + 256)
    sparse = member("s", tarfile.GNUTYPE_SPARSE)
    extension = member("x", b"x", size=2**30)
    return {
        "cut in the data": whole[:700],
        "cut in the header": whole[:100],
        "no archive": b"hello" * 1000,
        "wrong checksum": b"x" + whole[1:],
        "eight exabytes": huge.tobuf(tarfile.GNU_FORMAT) + bytes(10_000),
        "negative": bytes(negative),
        "sparse": sparse.tobuf(tarfile.GNU_FORMAT) + bytes(1024),
        "extension of a gigabyte": extension.tobuf(tarfile.GNU_FORMAT) + bytes(1024),
        "pax that lies": member("p", b"x", size=8).tobuf(tarfile.GNU_FORMAT) + b"99 a=b\n\0" + bytes(504),
        "gzip that is none": b"\x1f\x8b" + b"x" * 100,
        "more behind the end": whole + b"x" * (3 * 2**20),
    }


def test_many_small_files_come_as_the_archive_has_them_and_the_last_of_a_name_is_what_stays(served: Served, box: str) -> None:
    members = [(member(f"many/{number % 3}/{number}", size=4), b"%04d" % number) for number in range(60)]
    again = [(member("many/0/0", size=3), b"mid"), (member("many/1/1", size=5), b"other"), (member("many/0/0", size=4), b"last")]
    linked = [(member("hard", tarfile.LNKTYPE, link="many/2/59"), b"")]
    said = put(served, box, "/tmp/many", archive(*members, *again, *linked))
    assert said["data"]["files"] == 64, said  # type: ignore[index]
    assert run(served, box, "cd /tmp/many; cat many/0/0 many/1/1 many/1/4 hard; find . -type f | wc -l") == "lastother0004005961\n"
    blocked = archive(*members[:9], (member("many/0/3/under", size=1), b"x"))
    assert "no directory" in str(put(served, box, "/tmp/blocked", blocked))
    assert run(served, box, "cd /tmp/blocked; find . -type f -size +0 | wc -l") == "9\n"


@pytest.mark.parametrize("case", damaged())
def test_a_damaged_archive_is_an_error_and_no_half_file_stays(served: Served, box: str, case: str) -> None:
    said = put(served, box, f"/tmp/damaged/{case.replace(' ', '-')}", damaged()[case])
    assert said["success"] is False and said["code"] == "invalid_input", said
    left = run(served, box, f"cd /tmp/damaged/{case.replace(' ', '-')} && ls -A")
    assert left == ("f\n" if case == "more behind the end" else "")


def test_every_cut_of_an_archive_is_noticed(served: Served, box: str) -> None:
    whole = archive((member("a", size=600), b"a" * 600), (member("long/" * 30 + "name", size=5), b"12345"))
    end = len(whole.rstrip(b"\0"))
    for cut in range(1, end, 97):
        said = put(served, box, "/tmp/cuts", whole[:cut])
        assert said["success"] is (cut in (1536,)), (cut, said)


# -- changes


def test_changes_of_a_directory_are_told(served: Served, box: str) -> None:
    run(served, box, "mkdir -p /tmp/watched")
    with served.http.stream("GET", f"/sandboxes/{box}/watch/tmp/watched") as answer:
        events = following(answer)
        assert next(events) == ("ready", "", {"path": "/tmp/watched"})
        run(served, box, "echo x > /tmp/watched/new; mkdir /tmp/watched/dir")
        seen: list[object] = []
        for _, _, said in events:
            seen.append((said["name"], said["kinds"]))
            if said["name"] == "dir":
                break
    assert ("new", ["create"]) in seen and seen[-1] == ("dir", ["create", "directory"])
    assert served.http.get(f"/sandboxes/{box}/watch/nowhere").status_code == 404


# -- what happens


def test_events_resume_by_id_without_a_gap(served: Served, box: str) -> None:
    all_of_them = served.http.get("/events", params={"after": 0, "follow": False, "sandbox": box}).text
    run(served, box, "true")
    ids: list[int] = []
    kinds: list[str] = []
    last = ""
    for _ in range(4):
        with served.http.stream(
            "GET", "/events", params={"sandbox": box, "after": 0}, headers={"Last-Event-ID": last} if last else {}
        ) as answer:
            _, last, said = next(following(answer))
        assert last == str(said["event_id"])
        ids.append(said["event_id"])
        kinds.append(said["kind"])
    assert ids == sorted(set(ids)) and kinds[0] == "sandbox.created", all_of_them


def test_events_come_as_they_happen_and_are_filtered(served: Served, box: str) -> None:
    with served.http.stream("GET", "/events", params={"kind": "exec.ended", "sandbox": box}) as answer:
        events = following(answer)
        run(served, box, "exit 5")
        assert next(events)[2]["details"]["exit_code"] == "5"
    bad = served.http.get("/events", headers={"Last-Event-ID": "x"})
    assert (bad.status_code, json.loads(bad.text)["code"]) == (400, "invalid_input")
