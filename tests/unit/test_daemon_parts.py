"""The daemon's log, socket and words, each by itself."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from agentkernel.channel import door
from agentkernel.daemon import log as log_module
from agentkernel.daemon import words
from agentkernel.daemon.listening import listen, passed, peer_of
from agentkernel.daemon.log import Log
from agentkernel.errors import DaemonUnavailable, InvalidInput


def test_the_log_has_a_line_for_each_event_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 1000)
    path = tmp_path / "daemon.log"
    log = Log(str(path))
    for number in range(100):
        log(f"event {number}\nof two lines \x1b[31m")
    lines = (path.with_name("daemon.log.1").read_text() + (path.read_text() if path.exists() else "")).splitlines()
    assert lines[-1].endswith("event 99 | of two lines ?[31m")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2400
    assert stat.S_IMODE(path.with_name("daemon.log.1").stat().st_mode) == 0o600


def test_a_log_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Log(str(tmp_path / "file" / "daemon.log"))("lost")
    (tmp_path / "link").symlink_to("/etc/shadow-of-nobody")
    Log(str(tmp_path / "link"))("lost")
    assert not Path("/etc/shadow-of-nobody").exists()


def test_the_socket_is_the_user_s_alone_and_replaces_one_that_nobody_serves(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "daemon.sock")
    listen(path).socket.close()  # as a daemon that was killed
    listener = listen(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        accepted, _ = listener.socket.accept()
        assert peer_of(accepted) == os.getuid()
        accepted.close()
    assert os.listdir(tmp_path / "run") == ["daemon.sock"]
    listener.close()
    assert os.listdir(tmp_path / "run") == []


def test_a_directory_that_was_chosen_for_the_socket_stays_as_open_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    listen(str(tmp_path / "daemon.sock")).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError):
        listen(str(tmp_path / "daemon.sock"))


def test_a_daemon_that_ends_leaves_its_successor_s_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "daemon.sock")
    first, second = listen(path), listen(path)
    first.close()
    assert os.path.exists(path)
    second.close()


def test_only_what_is_passed_to_this_process_is_taken() -> None:
    assert passed({}) is None
    assert passed({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) is None
    assert passed({"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid())}) is None


async def test_words_keep_bytes_that_are_no_text(tmp_path: Path) -> None:
    typed = [b"exec", b"box", b"printf", b"\xff\xfe"]
    payload = door.encode_words(typed, b"/tmp", [b"HOME=%b" % os.fsencode(tmp_path), b"TERM=\xff"], 15, (30, 90))
    found = await words.read(door.decode_request(payload))
    assert found.invocation.command.argv == (b"printf", b"\xff\xfe")
    assert found.invocation.command.terminal is not None
    assert (found.invocation.command.terminal.rows, found.invocation.command.terminal.columns) == (30, 90)
    assert found.console.terminals == (True, True, True)
    assert found.console.has_input
    assert not found.console.whole


@pytest.mark.parametrize("variable", [b"no equals sign", b"=value", b"A=\0"])
async def test_variables_that_are_none_are_refused(variable: bytes) -> None:
    with pytest.raises(InvalidInput):
        await words.read(door.decode_request(door.encode_words([b"exec", b"box", b"true"], b"/", [variable], 0, None)))


async def test_words_that_take_the_full_path_say_so(tmp_path: Path) -> None:
    environment = [b"HOME=%b" % os.fsencode(tmp_path)]
    for option in (b"--json", b"--keep"):
        with pytest.raises(DaemonUnavailable):
            await words.read(door.decode_request(door.encode_words([b"run", option, b"--", b"true"], b"/", environment, 0, (0, 0))))
