"""The gate and the real egress process: started when needed, ended, reaped, started again; what it gave up."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from egress_world import Agent, echo, loopback_rules, serving, tunnelled

from agentkernel.egress.gate import EgressGate
from agentkernel.model.network import EgressLimits, Verdict


@pytest.fixture
async def gate() -> AsyncIterator[EgressGate]:
    made = EgressGate()
    yield made
    await made.close()


def joined(gate: EgressGate, agent: Agent, *ports: int, sandbox_id: str = "0" * 16) -> Agent:
    agent.session = gate.join(sandbox_id, loopback_rules(*ports), EgressLimits(), agent, agent.decided)
    return agent


async def test_nothing_runs_before_the_first_frame(gate: EgressGate) -> None:
    joined(gate, Agent(), 80)
    assert gate.pid is None


async def test_a_program_reaches_a_server_through_the_process(gate: EgressGate) -> None:
    async with serving(echo) as port:
        agent = joined(gate, Agent(), port)
        program = await tunnelled(agent, "127.0.0.1", port)
        await program.write(b"hello")
        assert await program.read(5) == b"hello"
        program.end()
        assert await program.read_all() == b""
        decision = await agent.decision(Verdict.ALLOWED, port=port)
        assert (decision.protocol, decision.host, decision.address) == ("connect", "127.0.0.1", "127.0.0.1")
