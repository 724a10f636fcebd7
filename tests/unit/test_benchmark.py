"""Measuring, over sandboxes that are this test's own processes, and what `agentkernel benchmark` makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentkernel import assembly
from agentkernel.abc import Caller
from agentkernel.benchmark import measure as measuring
from agentkernel.benchmark.crowd import Crowd, crowd
from agentkernel.benchmark.life import Execs, Life, execs, life
from agentkernel.benchmark.measure import Measured, Table, measure
from agentkernel.benchmark.memory import Held, held
from agentkernel.benchmark.program import program
from agentkernel.benchmark.subject import Subject, greet
from agentkernel.benchmark.timing import Distribution, distribution, take_turns
from agentkernel.benchmark.work import WORKS, Cost, Work, costs
from agentkernel.cli.benchmark_tables import report
from agentkernel.cli.main import main
from agentkernel.errors import BackendUnavailable, CommandNotFound, LaunchFailed, SandboxFailed, UnknownKey, Unsupported
from agentkernel.model.command import Command, ExecResult, ExitStatus
from agentkernel.model.isolation import BackendKind, Fingerprint, IsolationLevel
from agentkernel.model.request import Grant, SandboxRequest
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec

ME = Caller(principal="me")
MACHINE = {"cpu": "a cpu", "cores": 2, "system": "Linux", "kernel": "6.1", "agentkernel": "0.1", "load_1_min_before": 0.5}
QUIETLY: Callable[[str], None] = lambda text: None  # noqa: E731


@dataclass
class Bare:
    """As much of `abc.Sandbox` as is measured: commands are processes of this host."""

    kernel: BareKernel
    backend: str = "bare"

    async def statistics(self) -> None:
        if self.kernel.silent:
            raise SandboxFailed("its agent says nothing")

    async def exec(self, command: Command, *, stdin: bytes = b"") -> ExecResult:
        self.kernel.commands.append(command.argv)
        await asyncio.sleep(0)
        if self.kernel.lacking == command.argv[0]:
            raise CommandNotFound("there is no such command")
        done = await asyncio.to_thread(subprocess.run, command.argv, input=stdin, capture_output=True)
        return ExecResult(status=ExitStatus(exit_code=done.returncode), stdout=self.kernel.says or done.stdout, stderr=done.stderr)


@dataclass
class BareKernel:
    """As much of `abc.Kernel` as is used."""

    silent: bool = False
    says: bytes = b""  # in place of what commands print
    lacking: bytes = b""  # a command that is not there
    failing: int = 0  # so many sandboxes cannot be built
    companion: tuple[str, ...] = ()  # a program that runs as long as each sandbox
    refuses: Exception | None = None
    commands: list[Sequence[bytes]] = field(default_factory=list)
    requests: list[SandboxRequest] = field(default_factory=list)
    alive: int = 0
    most: int = 0
    built: int = 0

    async def fingerprints(self, caller: Caller) -> Sequence[Fingerprint]:
        bare = Fingerprint(backend="bare", ready=True, level=IsolationLevel.CONTAINER)
        return bare, Fingerprint(backend="docker", ready=False, level=IsolationLevel.CONTAINER, reason="no docker socket")

    def isolation_of(self, backend: str) -> IsolationLevel:
        return IsolationLevel.CONTAINER

    async def grant(self, caller: Caller, request: SandboxRequest) -> Grant:
        if self.refuses is not None:
            raise self.refuses
        return Grant(
            spec=SandboxSpec(name="one", profile="moderate", root=RootFilesystem(kind=RootKind.HOST)),
            backend="bare",
            chosen=BackendKind.ASKED,
        )

    @asynccontextmanager
    async def sandbox(self, caller: Caller, request: SandboxRequest) -> AsyncIterator[tuple[Bare, Grant]]:
        grant = await self.grant(caller, request)
        self.requests.append(request)
        self.built += 1
        if self.built <= self.failing:
            raise LaunchFailed("no room")
        beside = subprocess.Popen(self.companion) if self.companion else None
        self.alive += 1
        self.most = max(self.most, self.alive)
        try:
            yield Bare(self), grant
        finally:
            self.alive -= 1
            if beside is not None:
                beside.kill()
                beside.wait()

    async def close(self) -> None:
        assert not self.alive


def subject(kernel: BareKernel) -> Subject:
    return Subject(kernel=kernel, caller=ME, request=SandboxRequest(backend="bare"))  # type: ignore[arg-type]


def ms(value: float) -> Distribution:
    return distribution([value / 1000])


# -- times


def test_percentiles_are_samples_and_times_are_milliseconds() -> None:
    found = distribution([number / 1000 for number in range(1, 101)])
    assert (found.n, found.p50, found.p95, found.p99, found.best, found.worst) == (100, 50.5, 95.0, 99.0, 1.0, 100.0)
    assert distribution([0.002]) == Distribution(n=1, p50=2.0, p95=2.0, p99=2.0, best=2.0, worst=2.0)


async def test_contenders_take_turns_and_the_first_rounds_do_not_count() -> None:
    order = []

    def contender(name: str) -> Callable[[], Any]:
        async def run() -> None:
            order.append(name)

        return run

    times = await take_turns({"a": contender("a"), "b": contender("b")}, 3, warm_up=2)
    assert order == ["a", "b"] * 5
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}


async def test_a_program_runs_where_and_with_what_it_is_told(tmp_path: Path) -> None:
    await program(("sh", "-c", "read -r line; echo $A$line >out"), {"A": "b", "PATH": os.environ["PATH"]}, tmp_path)()
    assert (tmp_path / "out").read_text() == "b\n"
    with pytest.raises(Unsupported, match="ended with status 3"):
        await program(("sh", "-c", "exit 3"))()
    with pytest.raises(Unsupported, match="not installed"):
        program(("no-such-program",))


# -- a sandbox's life


async def test_the_parts_of_a_life_are_in_their_order() -> None:
    kernel = BareKernel()
    found = await life(subject(kernel), 2)
    assert kernel.built == 3
    assert found.total.n == 2
    assert 0 < found.boot.worst <= found.ready.worst <= found.total.worst
    assert kernel.alive == 0


async def test_commands_follow_each_other_in_one_sandbox() -> None:
    kernel = BareKernel()
    found = await execs(subject(kernel), 4)
    assert (kernel.built, len(kernel.commands), found.each.n) == (1, 5, 4)
    assert found.per_second > 0


async def test_what_a_command_says_is_looked_at() -> None:
    with pytest.raises(SandboxFailed, match="said b'nothing'"):
        await greet(Bare(BareKernel(says=b"nothing")))  # type: ignore[arg-type]


# -- many at once


async def test_a_crowd_lives_at_the_same_time() -> None:
    kernel = BareKernel()
    found = await crowd(subject(kernel), 5)
    assert (found.wanted, found.succeeded, found.failure) == (5, 5, "")
    assert (kernel.most, kernel.alive, len(kernel.commands)) == (5, 0, 10)
    assert min(found.boot_s, found.exec_s) > 0


async def test_who_fails_is_counted_and_the_others_go_on() -> None:
    kernel = BareKernel(failing=2)
    found = await crowd(subject(kernel), 5)
    assert (found.succeeded, found.failure, kernel.most, kernel.alive) == (3, "LaunchFailed: no room", 3, 0)


async def test_a_crowd_in_which_all_fail_ends() -> None:
    assert (await crowd(subject(BareKernel(failing=3)), 3)).succeeded == 0
    assert (await crowd(subject(BareKernel(says=b"wrong")), 3)).succeeded == 0


# -- memory


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
async def test_processes_that_came_with_the_sandboxes_are_counted() -> None:
    found = await held(subject(BareKernel(companion=("sleep", "60"))), 3)
    assert found.processes >= 1
    assert found.processes_kib > 0
    assert found.total_kib == found.processes_kib + found.engine_kib


# -- work inside


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_every_work_is_done_by_a_plain_shell_and_leaves_nothing(work: Work, tmp_path: Path) -> None:
    if work.needs and shutil.which(work.needs) is None:
        pytest.skip(f"this host has no {work.needs}")
    done = subprocess.run(("sh", "-c", work.script), input=work.stdin, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(tmp_path.iterdir()) == []


async def test_work_is_compared_with_the_host() -> None:
    works = (Work(name="little", script="cat >/dev/null", stdin=b"x"), Work(name="none", script="false", needs="no-such-program"))
    told: list[str] = []
    (found,) = await costs(subject(BareKernel()), 2, works=works, told=told.append)
    assert (found.work, found.inside.n, told) == ("little", 2, ["little"])
    assert found.host is not None
    assert found.ratio == found.inside.p50 / found.host.p50


async def test_work_that_fails_is_no_figure() -> None:
    with pytest.raises(SandboxFailed, match="ended with 4"):
        await costs(subject(BareKernel()), 1, works=(Work(name="bad", script="exit 4"),))


async def test_without_a_shell_there_is_no_work() -> None:
    with pytest.raises(Unsupported, match="no shell"):
        await costs(subject(BareKernel(lacking=b"sh")), 1)


# -- all of a backend


async def test_a_table_that_cannot_be_had_does_not_keep_the_others_from_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SIZES", (2,))
    into = Measured(backend="bare", isolation="container")
    told: list[str] = []
    await measure(into, subject(BareKernel(silent=True)), (Table.LIFE, Table.EXEC, Table.PARALLEL), 2, told.append)
    assert into.failures == {"life": "its agent says nothing"}
    assert (into.life, into.exec is not None, [each.succeeded for each in into.parallel]) == (None, True, [2])
    assert told == ["bare: life", "bare: exec", "bare: parallel", "bare: 2 at once"]
    assert not into.is_whole


async def test_the_command_line_is_measured_as_it_is_given() -> None:
    into = Measured(backend="bare", isolation="container")
    runs = []

    async def run() -> None:
        runs.append(1)

    await measure(into, subject(BareKernel()), (Table.RUN,), 3, QUIETLY, run=run)
    assert (len(runs), into.run is not None and into.run.n, into.is_whole) == (5, 3, True)


# -- what is shown of it


WHOLE = Measured(
    backend="gvisor",
    isolation="user-kernel",
    image="alpine:3.20",
    run=ms(21),
    life=Life(boot=ms(130), ready=ms(150), exec=ms(6), shutdown=ms(20), total=ms(1234)),
    exec=Execs(each=ms(4), per_second=250.4),
    parallel=(Crowd(wanted=10, succeeded=9, boot_s=1.5, exec_s=0.25, shutdown_s=0.5, failure="LaunchFailed: no\x1b[m room"),),
    memory=Held(sandboxes=10, processes=3.0, processes_kib=20480.0, engine_kib=512.0, proportional=False),
    cost=(Cost(work="cpu", inside=ms(150), host=ms(100)), Cost(work="compile", inside=ms(300), host=None)),
)


def test_a_report_has_a_table_for_each_thing() -> None:
    text = report(MACHINE, [WHOLE], {"docker": "no docker socket"})
    assert text.startswith("a cpu, 2 cores, Linux 6.1, agentkernel 0.1, load before 0.5\n\n")
    rows = [line.split() for line in text.splitlines() if line.startswith("gvisor")]
    assert rows == [
        ["gvisor", "user-kernel", "21.00", "130", "150", "6.00", "20.00", "1,234", "alpine:3.20"],
        ["gvisor", "4.00", "4.00", "4.00", "250"],
        ["gvisor", "10", "9", "1.50", "0.25", "0.50", "LaunchFailed:", "no\\x1b[m", "room"],
        ["gvisor", "3.0", "20.0", "0.5", "20.5", "shared", "pages", "are", "counted", "each", "time"],
        ["gvisor", "1.50x", "-", "-", "-", "-", "-"],
    ]
    assert text.endswith("docker is not ready: no docker socket\n")
    assert not WHOLE.is_whole


def test_what_was_not_measured_has_no_table_but_a_reason() -> None:
    one = Measured(backend="bare", isolation="container", exec=Execs(each=ms(1), per_second=1000.0), failures={"memory": "no /proc"})
    text = report(MACHINE, [one], {})
    assert "Each idle sandbox" not in text
    assert text.endswith("\nbare: memory could not be measured: no /proc\n")


def test_json_has_every_key() -> None:
    record = json.loads(json.dumps(WHOLE.to_json()))
    assert record["cost"][0]["ratio"] == 1.5
    assert record["memory"]["total_kib"] == 20992.0
    assert record["life"]["boot"]["p50"] == 130.0
    assert set(Measured(backend="a", isolation="b").to_json()) == set(record)


# -- the verb


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> BareKernel:
    found = BareKernel()
    monkeypatch.setattr(assembly, "build_engine", lambda environment: found)
    return found


def test_the_verb_measures_what_is_ready(kernel: BareKernel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--only", "exec", "--only", "life", "--n", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    (backend,) = record["backends"]
    assert (backend["backend"], backend["exec"]["each"]["n"], backend["life"]["total"]["n"], backend["run"]) == ("bare", 50, 2, None)
    assert record["not_ready"] == {"docker": "no docker socket"}
    assert {"cpu", "cores", "kernel", "agentkernel"} <= set(record["machine"])
    assert err == "bare: life ...\nbare: exec ...\n"
    assert {request.backend for request in kernel.requests} == {"bare"}


def test_the_verb_says_nothing_meanwhile_when_it_is_quiet(kernel: BareKernel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "-q", "-B", "bare", "--only", "exec"]) == 0
    out, err = capsys.readouterr()
    assert "50 commands one after the other" in out
    assert err == ""


def test_the_verb_fails_when_something_could_not_be_measured(kernel: BareKernel, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.says = b"wrong"
    assert main(["benchmark", "--only", "exec"]) == 1
    assert "bare: exec could not be measured: 'echo hello' said b'wrong'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("refusal", "status"), [(UnknownKey("there is no backend 'x'"), 2), (BackendUnavailable("backend 'x' cannot run here"), 125)]
)
def test_a_backend_that_is_asked_for_and_not_here_is_an_error(
    kernel: BareKernel, capsys: pytest.CaptureFixture[str], refusal: Exception, status: int
) -> None:
    kernel.refuses = refusal
    assert main(["benchmark", "-B", "x"]) == status
    assert str(refusal) in capsys.readouterr().err
    assert kernel.built == 0


@pytest.mark.parametrize("words", [("--n", "0"), ("--n", "many"), ("--n", "10001"), ("--only", "speed"), ("now",)])
def test_words_that_the_verb_does_not_take(words: tuple[str, ...], kernel: BareKernel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")
