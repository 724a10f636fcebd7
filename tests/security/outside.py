"""Runs a hostile program without any sandbox, as a careless runner would: the control that shows that the program attacks.

A careless runner lends its environment and an open directory, collects all output, sends SIGTERM at the deadline, and follows links.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from security.catalogue import Program
from security.oracle import MEMORY_GROWTH_BYTES, Oracle
from security.planted import Planted, plant_project

from agentkernel.testing.host import descendants

PLAIN_UID = 61234
HOST_TOKEN = "AK_HOST_TOKEN"
CARELESS_FILES = Path(__file__).with_name("careless.py")
RACES = 3000
_CONFINED = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--pid",
    "--fork",
    "--net",
    "--ipc",
    "--uts",
    "--mount-proc",
    "--kill-child",
)


async def run_outside(program: Program, planted: Planted) -> tuple[list[str], bytes]:
    """Runs the control and returns what the oracle says, and the output."""
    directory = Path(tempfile.mkdtemp(prefix="akwork-", dir="/var/tmp"))
    directory.chmod(0o777)
    try:
        work = _work(program, planted, directory)
        oracle = Oracle(planted=planted)
        with _survivors_ended():
            output, said = await asyncio.to_thread(_run, program, planted, work)
            for operation, target in program.then:
                more, trouble = await asyncio.to_thread(_careless, operation, work / target)
                output, said = output + more, said + trouble
            shared = work if program.workspace != "none" else None
            found = said + await oracle.findings(output, shared=shared, judge=program.judge)
            if program.workspace == "copy-on-write" and (work / "kept").read_text() != "kept\n":
                found.append("the shared directory changed")
        return found, output
    finally:
        _restore_canary(planted)
        subprocess.run(["rm", "-rf", str(directory)], check=True)


def _work(program: Program, planted: Planted, directory: Path) -> Path:
    if program.workspace == "none":
        return directory
    work = directory / "project"
    plant_project(work, hooks=program.workspace != "writable-empty")
    return work


def _environment(planted: Planted, work: Path) -> dict[str, str]:
    tools = {"AK_SETUID": str(planted.tools / "hostile-setuid"), "AK_FILECAP": str(planted.tools / "hostile-capable")}
    return {"PATH": "/usr/bin:/bin", **planted.environment, **tools, "AK_WORK": str(work), HOST_TOKEN: planted.secret}


def _argv(program: Program, planted: Planted) -> list[str]:
    inner = [str(planted.tools / "hostile"), program.name] if program.compiled else ["sh", str(program.path)]
    if program.control == "confined":
        return [*_CONFINED, *inner]
    if program.control == "plain" and os.geteuid() == 0:
        return ["setpriv", f"--reuid={PLAIN_UID}", f"--regid={PLAIN_UID}", "--clear-groups", *inner]
    return inner


def _run(program: Program, planted: Planted, work: Path) -> tuple[bytes, list[str]]:
    """Runs it to its end or its deadline; a program that outlives SIGTERM is a finding."""
    environment = _environment(planted, work)
    if program.terminal:
        return _on_terminal(_argv(program, planted), environment), []
    leaked = os.open(planted.directory, os.O_RDONLY | os.O_DIRECTORY)
    said: list[str] = []
    with tempfile.TemporaryFile() as collected:
        process = subprocess.Popen(
            _argv(program, planted),
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=collected,
            stderr=collected,
            pass_fds=(leaked,),
        )
        os.close(leaked)
        if program.race:
            _race(work / program.race)
        try:
            process.wait(program.timeout_s if not program.endless else 1.0)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                said.append("it outlived its deadline")
                process.kill()
                process.wait()
        collected.seek(0)
        output = collected.read(MEMORY_GROWTH_BYTES + 1)
    if len(output) > MEMORY_GROWTH_BYTES:
        said.append("its output filled the memory of the one who collected it")
    return output, said


def _on_terminal(argv: list[str], environment: dict[str, str]) -> bytes:
    master, slave = pty.openpty()
    try:
        settings = termios.tcgetattr(slave)
        settings[3] &= ~termios.ECHO  # what is pushed into it must not stand in the lines that are looked for
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *argv], env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=False
        )
        os.close(slave)
        output = bytearray()
        with contextlib.suppress(OSError):  # EIO is a terminal's end of file
            while data := os.read(master, 4096):
                output += data
        process.wait(10)
        return bytes(output).replace(b"\r\n", b"\n")
    finally:
        os.close(master)


def _careless(operation: str, path: Path) -> tuple[bytes, list[str]]:
    """A file operation as a careless runner does it, in a process of its own; hanging and swelling are findings."""
    argv = [sys.executable, "-I", str(CARELESS_FILES), operation, str(path)]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:
        return b"", [f"{operation} {path.name} hung"]
    if done.returncode == 3:
        return b"", [f"{operation} {path.name} swelled beyond measure"]
    if done.returncode != 0:
        return done.stdout, [f"{operation} {path.name} failed: {done.stderr.decode(errors='replace').splitlines()[-1:]}"]
    return done.stdout, []


def _race(path: Path) -> None:
    """Reads and writes a path while the program swaps it."""
    deadline = time.monotonic() + 10
    for _ in range(RACES):
        with contextlib.suppress(OSError):
            path.read_bytes()
            path.write_bytes(b"from the host\n")
        if time.monotonic() > deadline:
            return


def _restore_canary(planted: Planted) -> None:
    """Plants the canary anew after a control that is meant to change it."""
    plant_project(planted.canary, hooks=False)
    for path in (planted.canary, *planted.canary.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


@contextmanager
def _survivors_ended() -> Iterator[None]:
    """Ends, by pid, whatever a control left running below this process."""
    before = set(descendants(os.getpid()))
    try:
        yield
    finally:
        for _ in range(200):
            left = [process for pid, process in descendants(os.getpid()).items() if pid not in before]
            if not left:
                break
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                if process.parent == os.getpid():
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
            time.sleep(0.01)
