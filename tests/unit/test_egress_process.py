"""The gate and the real egress process: started when needed, ended, reaped, started again; what it gave up."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from egress_world import PROXY, Agent, Program, echo, loopback_rules, serving, tunnelled

from agentkernel.channel.frames import FrameType
from agentkernel.egress import confine
from agentkernel.egress.gate import EgressGate
from agentkernel.errors import InvalidInput
from agentkernel.model.network import EgressLimits, EgressRules, Rule, Verdict

SOCKS4_REFUSED = b"\x00\x5b"


@pytest.fixture
async def gate() -> AsyncIterator[EgressGate]:
    made = EgressGate()
    yield made
    await made.close()


def joined(gate: EgressGate, *ports: int, sandbox_id: str = "0" * 16, limits: EgressLimits | None = None) -> Agent:
    agent = Agent()
    agent.session = gate.join(sandbox_id, loopback_rules(*ports), limits or EgressLimits(), agent, agent.decided)
    return agent


async def started(gate: EgressGate, agent: Agent) -> int:
    """The pid of the process once it has answered something."""
    program = agent.connect()
    await program.write(b"\x04\x09" + bytes(7))
    assert (await program.read_all())[:2] == SOCKS4_REFUSED
    assert gate.pid is not None
    return gate.pid


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


async def gone(pid: int) -> None:
    """Waits until a process is no more, not even as a zombie."""
    async with asyncio.timeout(10):
        while os.path.exists(f"/proc/{pid}"):
            await asyncio.sleep(0.01)


async def test_nothing_runs_before_the_first_frame(gate: EgressGate) -> None:
    joined(gate, 80)
    assert gate.pid is None


async def test_a_program_reaches_a_server_through_the_process(gate: EgressGate) -> None:
    async with serving(echo) as port:
        agent = joined(gate, port)
        program = await tunnelled(agent, "127.0.0.1", port)
        await program.write(b"hello")
        assert await program.read(5) == b"hello"
        program.end()
        assert await program.read_all() == b""
        decision = await agent.decision(Verdict.ALLOWED, port=port)
        assert (decision.protocol, decision.host, decision.address) == ("connect", "127.0.0.1", "127.0.0.1")


async def test_it_ends_and_is_reaped_with_the_gate(gate: EgressGate) -> None:
    pid = await started(gate, joined(gate))
    await gate.close()
    assert not os.path.exists(f"/proc/{pid}")


async def test_a_stopped_process_is_killed_at_the_end(gate: EgressGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkernel.egress.gate._END_S", 0.05)
    pid = await started(gate, joined(gate))
    os.kill(pid, signal.SIGSTOP)
    await gate.close()
    assert not os.path.exists(f"/proc/{pid}")


async def test_its_death_resets_the_tunnels_and_the_next_one_starts_another(gate: EgressGate) -> None:
    async with serving(echo) as port:
        agent = joined(gate, port)
        program = await tunnelled(agent, "127.0.0.1", port)
        first = gate.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert await program.closed() == errno.ECONNRESET
        await gone(first)
        again = await tunnelled(agent, "127.0.0.1", port)
        await again.write(b"hello")
        assert await again.read(5) == b"hello"
        assert gate.pid not in (None, first)


async def test_one_that_dies_at_once_is_not_started_in_a_loop(gate: EgressGate) -> None:
    agent = joined(gate)
    for pause in (0.0, 0.25):  # the second quick death is followed by one of 0.2 s
        pid = await started(gate, agent)
        os.kill(pid, signal.SIGKILL)
        await gone(pid)
        while gate.pid is not None:
            await asyncio.sleep(0.01)
        await asyncio.sleep(pause)
    pid = await started(gate, agent)
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    while gate.pid is not None:
        await asyncio.sleep(0.01)
    assert await agent.connect().closed() == errno.ECONNREFUSED
    assert gate.pid is None


async def test_one_that_hangs_is_killed(gate: EgressGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkernel.egress.gate._PING_S", 0.5)
    agent = joined(gate, 9)
    pid = await started(gate, agent)
    os.kill(pid, signal.SIGSTOP)
    program = agent.connect()
    assert await program.closed() == errno.ECONNRESET
    await gone(pid)
    assert (await agent.decision(Verdict.FAILED, protocol="")).reason.startswith("the egress process ended")


async def test_a_new_attach_has_no_tunnels_and_hears_nothing_of_the_old_ones(gate: EgressGate) -> None:
    async with serving(echo) as port:
        agent = joined(gate, port)
        old = await tunnelled(agent, "127.0.0.1", port)
        assert agent.session is not None
        agent.session.reset()
        new = await tunnelled(agent, "127.0.0.1", port)
        await new.write(b"hello")
        assert await new.read(5) == b"hello"
        assert old.error is None
        assert not old.received


async def test_a_closed_session_resets_its_tunnels_and_leaves_the_others(gate: EgressGate) -> None:
    async with serving(echo) as port:
        one, two = joined(gate, port), joined(gate, port, sandbox_id="1" * 16)
        first, second = await tunnelled(one, "127.0.0.1", port), await tunnelled(two, "127.0.0.1", port)
        assert one.session is not None
        one.session.close()
        assert first.error == errno.ECONNRESET
        await second.write(b"hello")
        assert await second.read(5) == b"hello"


async def test_rules_that_change_close_what_they_deny(gate: EgressGate) -> None:
    async with serving(echo) as port:
        agent = joined(gate, port)
        program = await tunnelled(agent, "127.0.0.1", port)
        assert agent.session is not None
        agent.session.set_rules(loopback_rules(port, deny=("127.0.0.1/32",)))
        assert await program.closed() == errno.ECONNRESET
        assert (await agent.decision(Verdict.DENIED, port=port)).rule == "deny 127.0.0.1/32"


async def test_more_rules_than_fit_are_refused_and_the_old_ones_hold(gate: EgressGate) -> None:
    many = EgressRules(allow=tuple(Rule(host=f"{number}.{'long' * 15}.example") for number in range(2000)))
    with pytest.raises(InvalidInput):
        gate.join("2" * 16, many, EgressLimits(), Agent(), lambda _: None)
    agent = joined(gate, 9)
    assert agent.session is not None
    with pytest.raises(InvalidInput):
        agent.session.set_rules(many)
    assert agent.session.rules == loopback_rules(9)


@pytest.mark.skipif(os.geteuid() != 0, reason="the process changes its user only as root")
async def test_it_is_nobody(gate: EgressGate) -> None:
    pid = await started(gate, joined(gate))
    status = status_of(pid)
    assert status["Uid"].split() == status["Gid"].split() == [str(confine.UID)] * 4
    assert status["Groups"].split() == []


async def test_it_has_no_privileges_and_keeps_no_descriptor(gate: EgressGate) -> None:
    probe = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(probe, True)
    try:
        pid = await started(gate, joined(gate))
    finally:
        os.close(probe)
    status = status_of(pid)
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    if os.geteuid() == 0:  # not dumpable: its /proc entries are root's
        opened = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        assert opened.count(os.devnull) == 2  # its own input and output
        assert all(each == os.devnull or each.startswith(("socket:", "anon_inode:", "/memfd:")) for each in opened)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert [line.split()[4] for line in limits.splitlines() if line.startswith("Max core file size")] == ["0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the descriptors of a process that is not dumpable are shown to root alone")
async def test_nothing_is_left_of_connections_that_ended(gate: EgressGate) -> None:
    async with serving(echo) as port:
        agent = joined(gate, port)
        pid = await started(gate, agent)
        before = len(os.listdir(f"/proc/{pid}/fd"))
        programs = await asyncio.gather(*(tunnelled(agent, "127.0.0.1", port) for _ in range(100)))
        assert len(os.listdir(f"/proc/{pid}/fd")) == before + 100
        for program in programs[::2]:
            program.reset()
        for program in programs[1::2]:
            program.end()
        await asyncio.gather(*(program.read_all() for program in programs[1::2]))
        async with asyncio.timeout(10):
            while len(os.listdir(f"/proc/{pid}/fd")) != before:
                await asyncio.sleep(0.01)


async def test_what_is_no_tunnel_ends_that_sandbox_alone(gate: EgressGate) -> None:
    async with serving(echo) as port:
        good, bad = joined(gate, port), joined(gate, port, sandbox_id="b" * 16)
        program = await tunnelled(good, "127.0.0.1", port)
        victim = await tunnelled(bad, "127.0.0.1", port)
        bad.send(FrameType.TUNNEL_GRANT, victim.ident, b"\xff\xff\xff\xff")
        assert await victim.closed() == errno.ECONNRESET
        await program.write(b"hello")
        assert await program.read(5) == b"hello"
        assert (await tunnelled(bad, "127.0.0.1", port)).error is None  # it may begin anew


async def test_an_agent_cannot_have_endless_tunnels(gate: EgressGate) -> None:
    agent = joined(gate, limits=EgressLimits(connections=1 << 20))
    programs = [agent.connect(PROXY) for _ in range(2049)]
    assert [program.error for program in programs[2047:]] == [None, errno.EAGAIN]
    assert isinstance(programs[0], Program)


async def test_the_bytes_that_a_sandbox_may_transfer_outlive_the_process(gate: EgressGate) -> None:
    async with serving(echo) as port:
        agent = joined(gate, port, limits=EgressLimits(bytes_total=100_000))
        program = await tunnelled(agent, "127.0.0.1", port)
        await program.write(bytes(40_000))
        assert len(await program.read(40_000)) == 40_000
        pid = gate.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await program.closed()
        await gone(pid)
        program = await tunnelled(agent, "127.0.0.1", port)
        await program.write(bytes(12_000))
        assert await program.closed() == errno.ECONNRESET
        assert (await agent.decision(Verdict.DENIED)).rule == "limit bytes"


async def test_it_ends_when_its_engine_is_killed() -> None:
    code = (
        "import asyncio, struct, sys\n"
        "from agentkernel.egress.gate import EgressGate\n"
        "from agentkernel.model.network import EgressLimits, EgressRules\n"
        "class Agent:\n"
        "    def take(self, kind, flags, ident, payload): print(gate.pid, flush=True)\n"
        "async def main():\n"
        "    global gate\n"
        "    gate = EgressGate()\n"
        "    session = gate.join('0' * 16, EgressRules(), EgressLimits(), Agent(), lambda _: None)\n"
        "    session.take(135, 0, 1 << 63, struct.pack('<HH16s', 1, 0, bytes(16)))\n"
        "    session.take(137, 0, 1 << 63, b'\\x04\\x09' + bytes(7))\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    engine = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert engine.stdout is not None
    pid = int(await asyncio.wait_for(engine.stdout.readline(), 20))
    engine.kill()
    await engine.wait()
    await gone(pid)


def test_the_process_may_write_and_listen_nowhere_where_landlock_is() -> None:
    """In a child: `confine` cannot be undone."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        told = []
        try:
            confine.confine(write_end)
            with socket.socket() as listener:
                attempts = {
                    "write": lambda: os.close(os.open("/tmp/egress-probe", os.O_CREAT | os.O_WRONLY)),
                    "read": lambda: os.close(os.open("/usr/bin/env", os.O_RDONLY)),
                    "listen": lambda: listener.bind(("127.0.0.1", 0)),
                    "execute": lambda: os.execv("/bin/true", ["true"]),
                }
                for name, act in attempts.items():
                    try:
                        act()
                        told.append(f"{name} worked")
                    except PermissionError:
                        pass
            os.close(os.open("/etc/hosts", os.O_RDONLY))
        except BaseException as error:
            told.append(repr(error))
        os.write(write_end, ", ".join(told).encode() or b"nothing worked")
        os._exit(0)
    os.close(write_end)
    said = os.read(read_end, 4096).decode()
    os.close(read_end)
    os.waitpid(child, 0)
    if not _has_landlock():
        pytest.skip("the kernel has no Landlock")
    assert said == "nothing worked"


def _has_landlock() -> bool:
    import ctypes

    return ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) >= 4


def test_the_frames_that_the_tests_send_are_those_of_the_protocol() -> None:
    from agentkernel.channel import tunnel as theirs
    from agentkernel.channel import wire
    from agentkernel.egress import tunnel

    assert tunnel.FIRST_CREDIT_BYTES == theirs.FIRST_CREDIT_BYTES == wire.FIRST_CREDIT_BYTES == 16_384
    assert tunnel.MAX_CREDIT_BYTES == theirs.MAX_CREDIT_BYTES == wire.MAX_CREDIT_BYTES == 1024 * 1024
    assert tunnel.TUNNEL_END == theirs.TUNNEL_END == wire.TUNNEL_END == 1
    assert tunnel.MAX_TUNNEL_DATA == theirs.MAX_TUNNEL_DATA == wire.MAX_TUNNEL_DATA == 65_536
    assert wire.MAX_WINDOW_BYTES == 262_144
    assert struct.calcsize("<HH16s") == 20
