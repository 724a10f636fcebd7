"""`agentkernel run` as users have it, on real sandboxes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from e2e.conftest import DEADLINE_S, AgentKernel
from e2e.host import processes_named, wait_until
from unit.cli_harness import OnTerminal

ALL_BYTES = bytes(range(256)) * 4096


def _marker() -> str:
    """An argument of `sleep` that no other process has."""
    return f"987.{random.randrange(10**12):012d}"


@pytest.fixture(params=["in-process", "behind-a-daemon"])
def agentkernel(request: pytest.FixtureRequest) -> AgentKernel:
    """Every promise of `run` is kept both ways."""
    name = "agentkernel_in_process" if request.param == "in-process" else "behind_daemon"
    found: AgentKernel = request.getfixturevalue(name)
    return found


def test_hello(agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "--quiet", "echo", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")


def test_python_runs_without_any_set_up(agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "python3", "-c", "print('Hello from sandbox!')")
    assert (done.returncode, done.stdout) == (0, b"Hello from sandbox!\n")


def test_the_workload_is_an_unprivileged_user_that_sees_none_of_the_hosts_files(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / "secret").write_text("host")
    script = 'id -u; ls /root /home/*/.ssh 2>/dev/null; cat "$1" 2>/dev/null; grep -c . /proc/net/dev; test -w / && echo writable; grep CapEff /proc/self/status'
    done = agentkernel("run", "sh", "-c", script, "sh", str(agentkernel.directory / "secret"))
    lines = done.stdout.split()
    assert lines[0] == b"1000"
    assert b"host" not in lines
    assert b"writable" not in lines
    assert lines[-1] == b"0000000000000000"


@pytest.mark.parametrize("code", [0, 1, 3, 42, 124, 125, 126, 127, 255])
def test_the_exit_code_is_the_commands(code: int, agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "--quiet", "sh", "-c", f"exit {code}")
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT, signal.SIGPIPE])
def test_a_signal_is_128_and_its_number(number: signal.Signals, agentkernel: AgentKernel) -> None:
    assert agentkernel("run", "sh", "-c", f"kill -{number:d} $$").returncode == 128 + number


def test_a_missing_command_is_127_and_a_plain_file_126(agentkernel: AgentKernel) -> None:
    missing = agentkernel("run", "no-such-command-here")
    assert (missing.returncode, missing.stderr.startswith(b"error: ")) == (127, True)
    inside = agentkernel("run", "sh", "-c", "no-such-command-here")
    assert inside.returncode == 127
    plain = agentkernel("run", "--", "/etc/passwd")
    assert (plain.returncode, plain.stderr.startswith(b"error: ")) == (126, True)


def test_stdout_and_stderr_are_separate(agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "--quiet", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"out\n", b"err\n")


def test_every_byte_passes_both_ways(agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "cat", stdin=ALL_BYTES)
    assert (done.returncode, done.stdout == ALL_BYTES) == (0, True)


def test_input_from_a_file_and_from_nowhere(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / "input").write_bytes(ALL_BYTES)
    with open(agentkernel.directory / "input", "rb") as file, agentkernel.start("run", "sha256sum", stdin=file.fileno()) as process:
        out, _ = process.communicate(timeout=DEADLINE_S)
    assert out.split()[0].decode() == hashlib.sha256(ALL_BYTES).hexdigest()
    with agentkernel.start("run", "cat") as process:
        assert process.communicate(timeout=DEADLINE_S)[0] == b""
    assert process.returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_empty_ones(closed: str, agentkernel: AgentKernel) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *agentkernel.argv, "run", "--quiet", "sh", "-c", "cat; exit 5"],
        cwd=agentkernel.directory,
        env=agentkernel.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, b"", b"")


def test_a_command_ends_though_its_input_does_not(agentkernel: AgentKernel) -> None:
    with agentkernel.start("run", "head", "-c", "3", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"abcdef")
        process.stdin.flush()
        assert process.stdout.read() == b"abc"
        assert process.wait(DEADLINE_S) == 0


def test_a_gibibyte_of_output_takes_no_memory(agentkernel: AgentKernel) -> None:
    with agentkernel.start("run", "head", "-c", str(2**30), "/dev/zero") as process:
        assert process.stdout is not None
        seen, first_kib, peak_kib = 0, 0, 0
        while chunk := os.read(process.stdout.fileno(), 2**20):
            seen += len(chunk)
            if seen % 2**24 < len(chunk):
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                resident = [line for line in status if line.startswith("VmRSS")]  # none of a process that has ended meanwhile
                peak_kib = max([peak_kib, *(int(line.split()[1]) for line in resident)])
                first_kib = first_kib or peak_kib
        assert (process.wait(DEADLINE_S), seen) == (0, 2**30)
    assert peak_kib - first_kib < 16 * 1024


def test_a_gibibyte_of_input_arrives(agentkernel: AgentKernel) -> None:
    with subprocess.Popen(["head", "-c", str(2**30), "/dev/zero"], stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        with agentkernel.start("run", "wc", "-c", stdin=source.stdout.fileno()) as process:
            assert process.communicate(timeout=120)[0].strip() == str(2**30).encode()


def test_a_reader_that_goes_away_ends_the_command(agentkernel: AgentKernel) -> None:
    marker = _marker()
    with agentkernel.start("run", "sh", "-c", f"sleep {marker} & yes") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 141
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    wait_until(lambda: not processes_named(marker))


def test_a_timeout_kills_the_whole_tree(agentkernel: AgentKernel) -> None:
    """Also grandchildren that made a session of their own and ignore signals."""
    marker = _marker()
    script = f"trap '' TERM INT HUP; (setsid sleep {marker} &) ; (sleep {marker} &) ; echo started; sleep {marker}"
    begun = time.monotonic()
    done = agentkernel("run", "--quiet", "--timeout", "1s", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (124, b"started\n")
    assert b"longer than 1s" in done.stderr
    assert 1 <= time.monotonic() - begun < 10
    assert processes_named(marker) == []


def test_background_processes_end_with_the_sandbox(agentkernel: AgentKernel) -> None:
    marker = _marker()
    done = agentkernel("run", "sh", "-c", f"sleep {marker} > /dev/null 2>&1 & echo done")
    assert (done.returncode, done.stdout) == (0, b"done\n")
    assert processes_named(marker) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_whole_tree(number: signal.Signals, status: int, agentkernel: AgentKernel) -> None:
    marker = _marker()
    with agentkernel.start("run", "sh", "-c", f"sleep {marker} & echo ready; wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: processes_named(marker))
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == status
    assert processes_named(marker) == []


def test_a_tree_that_ignores_the_signal_is_killed(agentkernel: AgentKernel) -> None:
    marker = _marker()
    with agentkernel.start("run", "sh", "-c", f"trap '' INT TERM; echo ready; sleep {marker}; sleep {marker}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    assert processes_named(marker) == []


def test_a_command_may_clean_up_when_it_is_interrupted(agentkernel: AgentKernel) -> None:
    with agentkernel.start("run", "sh", "-c", 'trap "echo cleaned; exit 0" INT; echo ready; while :; do sleep 0.05; done') as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"cleaned\n"
        assert process.wait(DEADLINE_S) == 130


def test_after_kill_minus_nine_the_command_ends_by_itself(agentkernel: AgentKernel) -> None:
    marker = _marker()
    with agentkernel.start("run", "sleep", marker) as process:
        wait_until(lambda: len(processes_named(marker)) > 1)
        process.kill()
    wait_until(lambda: not processes_named(marker), deadline_s=40)
    agentkernel("run", "true")  # sweeps what is left of it on the host


def test_kill_minus_nine_leaves_nothing_after_the_next_run(agentkernel: AgentKernel) -> None:
    marker = _marker()
    with agentkernel.start("run", "sleep", marker) as process:
        wait_until(lambda: len(processes_named(marker)) > 1)  # ours and the one inside
        process.kill()
    agentkernel("run", "true")
    wait_until(lambda: not processes_named(marker))


def _terminal(agentkernel: AgentKernel, *arguments: str) -> OnTerminal:
    return OnTerminal(agentkernel.directory, arguments, argv=agentkernel.argv, environment=agentkernel.environment | {"TERM": "xterm"})


def test_a_terminal_inside_has_the_size_of_the_one_outside(agentkernel: AgentKernel) -> None:
    with _terminal(agentkernel, "run", "--quiet", "sh", "-c", "stty size; tty; echo $TERM") as child:
        child.expect(b"30 100\r\n")
        child.expect(b"/dev/pts/0\r\n")
        child.expect(b"xterm\r\n")
        assert child.wait() == 0
        assert not child.is_raw()


def test_a_resized_window_is_resized_inside(agentkernel: AgentKernel) -> None:
    script = 'trap "stty size; exit" WINCH; echo ready; while :; do sleep 0.05; done'
    with _terminal(agentkernel, "run", "sh", "-c", script) as child:
        child.expect(b"ready")
        child.set_size(50, 132)
        child.expect(b"50 132")
        assert child.wait() == 0


def test_interrupt_on_the_terminal_goes_to_the_program_inside(agentkernel: AgentKernel) -> None:
    with _terminal(agentkernel, "run", "sh", "-c", 'trap "echo caught; exit 7" INT; echo ready; while :; do sleep 0.05; done') as child:
        child.expect(b"ready")
        child.type(b"\x03")
        child.expect(b"caught")
        assert child.wait() == 7
        assert not child.is_raw()


def test_a_shell_can_be_used(agentkernel: AgentKernel) -> None:
    with _terminal(agentkernel, "run", "--quiet", "sh") as child:
        child.type(b"echo $((6 * 7)) from inside\n")
        child.expect(b"42 from inside")
        child.type(b"exit 9\n")
        assert child.wait() == 9


def test_end_of_file_on_the_terminal_ends_a_reader(agentkernel: AgentKernel) -> None:
    with _terminal(agentkernel, "run", "cat") as child:
        child.type(b"line\n")
        child.expect(b"line\r\nline\r\n")
        child.type(b"\x04")
        assert child.wait() == 0


def test_interrupt_at_the_keyboard_without_a_terminal_inside(agentkernel: AgentKernel) -> None:
    marker = _marker()
    with _terminal(agentkernel, "run", "--no-tty", "sh", "-c", f"echo ready; sleep {marker}; sleep {marker}") as child:
        child.expect(b"ready")
        child.type(b"\x03")
        assert child.wait() == 130
    assert processes_named(marker) == []


def test_memory_is_limited_and_the_limit_is_named(agentkernel: AgentKernel) -> None:
    script = "a = []\nwhile True: a.append(bytearray(2**24))"
    done = agentkernel("run", "--quiet", "--memory", "128MiB", "--timeout", "50s", "python3", "-c", script)
    assert done.returncode != 0
    assert b"memory" in done.stderr.lower()
    assert b"--memory" in done.stderr


def test_a_fork_bomb_is_contained(agentkernel: AgentKernel) -> None:
    begun = time.monotonic()
    done = agentkernel("run", "--pids", "50", "--timeout", "3s", "sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 100")
    assert done.returncode != 0
    assert time.monotonic() - begun < 30


def test_a_full_disk_is_named(agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "-q", "--disk", "16MiB", "sh", "-c", "head -c 64m /dev/zero > /tmp/big")
    assert done.returncode != 0
    assert b"the sandbox's own files reached their limit of 16MiB" in done.stderr
    assert b"--disk 32MiB" in done.stderr


def test_the_project_is_a_private_copy(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / "package.json").write_text("{}")
    (agentkernel.directory / "kept").write_text("host")
    done = agentkernel("run", "sh", "-c", "pwd; cat kept; echo changed > kept; echo new > made; rm package.json; ls")
    assert done.stdout.split() == [b"/workspace", b"host", b"kept", b"made"] or done.stdout == b"/workspace\nhostkept\nmade\n"
    assert (agentkernel.directory / "kept").read_text() == "host"
    assert sorted(path.name for path in agentkernel.directory.iterdir()) == ["kept", "package.json"]


def test_restrictive_sees_the_named_files_only(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / "job.py").write_text("import os; print(sorted(os.listdir('.')))")
    (agentkernel.directory / "other").write_text("not named")
    done = agentkernel("run", "--profile", "restrictive", "python3", "job.py")
    assert (done.returncode, done.stdout) == (0, b"['job.py']\n")


def test_permissive_writes_to_the_directory_but_not_to_what_the_host_runs(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / ".git" / "hooks").mkdir(parents=True)
    done = agentkernel("run", "--profile", "permissive", "sh", "-c", "echo out > made; echo evil > .git/hooks/pre-commit")
    assert done.returncode != 0
    assert (agentkernel.directory / "made").read_text() == "out\n"
    assert list((agentkernel.directory / ".git" / "hooks").iterdir()) == []


def test_a_new_file_that_the_host_would_run_is_pointed_out(agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "-q", "--profile", "permissive", "sh", "-c", "echo evil > .envrc; mkdir -p .vscode; echo fine > notes")
    assert done.returncode == 0
    assert b"warning: the sandbox made .envrc, .vscode in" in done.stderr
    assert b"notes" not in done.stderr


def test_variables_reach_the_command_and_secrets_do_not(agentkernel: AgentKernel) -> None:
    agentkernel.environment |= {"GIVEN": "by name", "AWS_SECRET_ACCESS_KEY": "leaked"}
    done = agentkernel("run", "-e", "A=1", "-e", "GIVEN", "env")
    lines = done.stdout.split(b"\n")
    assert b"A=1" in lines
    assert b"GIVEN=by name" in lines
    assert b"leaked" not in done.stdout


def test_json_tells_everything(agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "--json", "sh", "-c", "printf '\\377'; echo err >&2; exit 3")
    record = json.loads(done.stdout)
    assert (done.returncode, record["exit_code"], record["cause"]) == (3, 3, "itself")
    assert base64.b64decode(record["stdout"]) == b"\xff"
    assert record["stderr"] == "err\n"
    assert (record["backend"], record["isolation"]) == ("namespaces", "container")
    assert 0 < record["durations"]["create_s"] < record["durations"]["total_s"]


def test_a_note_is_said_once(agentkernel: AgentKernel, tmp_path: Path) -> None:
    agentkernel.environment |= {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": "/"}
    first, second = agentkernel("run", "--mount-home", "true"), agentkernel("run", "--mount-home", "true")
    assert first.stderr.startswith(b"note: ")
    assert second.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--profile", "moderat", "true"], 2),
        (["--backend", "namspaces", "true"], 2),
        (["--backend", "docker", "true"], 125),
        (["--memory", "1", "true"], 2),
        (["--memory", "lots", "true"], 2),
        (["--timeout", "-1", "true"], 2),
        (["--dir", "/no/such/directory", "true"], 2),
        (["--mount", "/no/such/file:/data", "true"], 2),
        (["--mount", "/:/data", "true"], 125),
        (["--dir", "/", "true"], 125),
        (["--image", "/no/such/image.tar", "true"], 125),
        (["--min-isolation", "vm", "true"], 125),
        (["--frobnicate", "true"], 2),
        (["--allow-host", "https://example.com", "true"], 2),
        (["--deny-host", "*.*.example.com", "true"], 2),
        (["--publish", "80:http", "true"], 2),
        (["-e", "NOT_SET_HERE", "true"], 2),
        ([""], 2),
        ([], 2),
    ],
)
def test_a_bad_request_is_refused_with_a_hint_and_leaves_nothing(arguments: list[str], status: int, agentkernel: AgentKernel) -> None:
    done = agentkernel("run", *arguments)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (status, b"")
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2


def test_an_untrusted_project_cannot_loosen_the_policy(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / "agentkernel.toml").write_text('[security]\nprofile = "permissive"\n')
    done = agentkernel("run", "true")
    assert (done.returncode, b"agentkernel trust" in done.stderr) == (125, True)


@pytest.fixture
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with one static program."""
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("this host has no static busybox to make an image of")
    root = tmp_path_factory.mktemp("rootfs")
    (root / "bin").mkdir()
    (root / "bin" / "busybox").write_bytes(busybox.read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    for name in ("sh", "cat", "ls", "echo"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc").mkdir()
    (root / "etc" / "image-release").write_text("mine\n")
    root.chmod(0o755)
    return root


def test_an_image_directory_is_the_root_and_stays_as_it_was(agentkernel: AgentKernel, rootfs: Path) -> None:
    done = agentkernel(
        "run", "--image", str(rootfs), "sh", "-c", "cat /etc/image-release; echo more >> /etc/image-release; test -e /usr/lib || echo bare"
    )
    assert b"mine\n" in done.stdout
    assert b"bare\n" in done.stdout
    assert (rootfs / "etc" / "image-release").read_text() == "mine\n"


def test_an_image_tar_is_unpacked_once(agentkernel: AgentKernel, rootfs: Path) -> None:
    path = agentkernel.directory / "image.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(rootfs, arcname=".")
    for _ in range(2):
        done = agentkernel("run", "--quiet", "--image", "image.tar", "cat", "/etc/image-release")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"mine\n", b"")
    cache = Path(agentkernel.environment["HOME"]) / ".cache" / "agentkernel" / "images"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (cache / digest / "rootfs" / "bin" / "busybox").exists()


def test_an_image_that_is_no_tar_is_an_error_that_leaves_nothing(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / "bad.tar").write_bytes(b"this is not a tar file" * 100)
    done = agentkernel("run", "--image", "bad.tar", "true")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: cannot unpack the image")
    cache = Path(agentkernel.environment["HOME"]) / ".cache" / "agentkernel" / "images"
    assert not list(cache.glob("*.new"))


def test_many_runs_at_once_all_succeed(agentkernel: AgentKernel) -> None:
    processes = [agentkernel.start("run", "--quiet", "echo", str(number)) for number in range(12)]
    outputs = [process.communicate(timeout=DEADLINE_S) for process in processes]
    assert outputs == [(f"{number}\n".encode(), b"") for number in range(12)]
