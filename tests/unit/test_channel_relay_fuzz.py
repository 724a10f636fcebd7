"""Several readers of one command, at random: whatever comes and goes, each gets every byte once and in order, and then the end.

`AGENTKERNEL_FUZZ_SEED` repeats a run, `AGENTKERNEL_FUZZ_INPUTS` changes its length.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

from unit.test_channel_fuzz import INPUTS, PATTERN, PERIOD, RING, SEED, Agent

from agentkernel.channel.execution import Execution, Phase
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import Start, encode_start
from agentkernel.channel.reader import Reader
from agentkernel.channel.streams import InputWindow, OutputQueue


@dataclass(eq=False)
class Follower:
    """A client, or a recorder."""

    execution: Execution
    lenient: bool  # the agent breaks the rules
    releases: bool
    first: tuple[int, int] = (0, 0)
    got: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        self.got = list(self.first)
        self.reader = Reader(self.first, self.take, releases=self.releases)

    def take(self, stream: int, offset: int, data: memoryview | bytes) -> None:
        if not self.lenient:
            assert offset == self.got[stream - 1]
            assert bytes(data) == PATTERN[offset % PERIOD :][: len(data)]
        self.got[stream - 1] = offset + len(data)


class RelayAgent(Agent):
    """An agent, and a host that relays all of its commands."""

    def begin(self) -> None:
        self.resumes: dict[int, tuple[int, int]] = {}
        self.produced_to: dict[int, list[int]] = {}
        self.over: set[int] = set()
        self.followers: dict[int, list[Follower]] = {}
        self.finished = 0
        super().begin()

    def attach(self) -> None:
        self.resumes = {}
        super().attach()

    def transmitted(self, data: bytes) -> None:
        super().transmitted(data)
        if not data.startswith(b"AKCHAN1\n") and data[4] == FrameType.RESUME:
            stdout, stderr = struct.unpack_from("<QQ", data, 16)
            self.resumes[int.from_bytes(data[8:16], "little")] = (stdout, stderr)

    def act(self) -> None:
        running = list(self.exchange.executions.values())
        choice = self.source.randrange(14)
        if choice == 0 and len(running) < 4:
            output = OutputQueue(RING, lossy=True, reading=False)
            follower_less = self.exchange.start(
                encode_start(Start(argv=(b"x",), ring_bytes=RING)), output=output, stdin=InputWindow(wanted=True)
            )
            ident = follower_less.ident
            self.known[ident] = follower_less
            self.inputs_known[ident], self.produced_to[ident], self.outputs[ident] = (0, 0), [0, 0], [0, 0]
            self.followers[ident] = []
            self.join(follower_less, (0, 0), releases=True)
        elif choice == 1 and self.source.random() < 0.05:
            self.attach()
        elif running:
            self.use(self.source.choice(running), choice)

    def join(self, execution: Execution, first: tuple[int, int], *, releases: bool) -> None:
        follower = Follower(execution, bool(self.mutations), releases, first)
        self.followers[execution.ident].append(follower)
        execution.tap(follower.reader)

    def use(self, execution: Execution, choice: int) -> None:
        followers = self.followers[execution.ident]
        follower = self.source.choice(followers)
        if choice == 2 and len(followers) < 4 and all(each.releases for each in followers):
            ahead = execution.output.acknowledge()
            # Not before what the agent may have forgotten, as a client that was there before.
            self.join(execution, ahead, releases=self.source.random() < 0.7)
        elif choice == 3 and len(followers) > 1 and self.source.random() < 0.3:
            followers.remove(follower)
            execution.untap(follower.reader)
        elif choice == 4 and not follower.reader.is_paused:
            follower.reader.pause()
        elif choice in (5, 6, 7) and follower.reader.is_paused:
            follower.reader.unpause()
            execution.refresh()
        elif choice == 8:
            sent = execution.stdin.sent
            back = self.source.randrange(min(sent, 50) + 1)
            data = memoryview(PATTERN)[(sent - back) % PERIOD :][: self.source.randrange(300)]
            execution.relay_input(sent - back, data, end=False)
        elif choice > 8:
            for stream in (1, 2):
                assert follower.reader.release(stream, follower.got[stream - 1])
                assert self.mutations or not follower.reader.release(stream, follower.got[stream - 1] + 1)
            execution.give_credit()

    def frame(self) -> tuple[FrameType, int, bytes, int]:
        running = list(self.exchange.executions.values())
        if not running:
            return FrameType.REPLY, 0, b"", 0
        execution = self.source.choice(running)
        ident = execution.ident
        if execution.phase is Phase.STARTING:
            self.outputs[ident] = [0, 0]
            return FrameType.STARTED, ident, struct.pack("<I", 5), 0
        if ident in self.resumes and self.source.random() < 0.5:
            self.outputs[ident] = list(self.resumes.pop(ident))
            state = int(ident in self.over)
            return FrameType.RESUMED, ident, struct.pack("<IIQQQQ", state, 5, 0, 0, *self.inputs_known[ident]), 0
        return self.progress(execution) if execution.phase is Phase.RUNNING else (FrameType.REPLY, 0, b"", 0)

    def progress(self, execution: Execution) -> tuple[FrameType, int, bytes, int]:
        ident, choice = execution.ident, self.source.random()
        sent, top = self.outputs[ident], self.produced_to[ident]
        stream = self.source.randrange(2)
        ends = tuple(top)
        limit = top[stream] if ident in self.over else execution.output.consumed[stream] + RING
        if choice < 0.8 and sent[stream] < limit:
            size = self.source.randint(1, min(limit - sent[stream], self.source.choice((1, 40, 3000))))
            offset = sent[stream]
            sent[stream] += size
            top[stream] = max(top[stream], sent[stream])
            return FrameType.OUTPUT, ident, struct.pack("<Q", offset) + PATTERN[offset % PERIOD :][:size], stream + 1
        if choice < 0.9 and ident not in self.over:
            taken, _ = self.inputs_known[ident]
            taken = self.source.randint(taken, execution.stdin.sent)
            self.inputs_known[ident] = (taken, taken + 65_536)
            return FrameType.STDIN_CONSUMED, ident, struct.pack("<QQ", *self.inputs_known[ident]), 0
        told = ident in self.over and not execution._refreshing and execution._end_held_up
        if (choice > 0.97 or ident in self.over) and tuple(sent) == ends and not told:
            self.over.add(ident)
            return FrameType.EXITED, ident, struct.pack("<IIIIQQQQQQ", 0, 1, 0, 0, *ends, 1, 2, 3, 4), 0
        return FrameType.REPLY, 0, b"", 0

    def check(self) -> None:
        for ident, execution in self.known.items():
            if execution.phase is Phase.ENDED and execution.exited is not None and not self.mutations:
                ends = [execution.exited.stdout_end, execution.exited.stderr_end]
                for follower in self.followers[ident]:
                    assert follower.got == ends, "it ended before a follower had everything"
                self.finished += 1
        self.known = {ident: each for ident, each in self.known.items() if each.phase is not Phase.ENDED}


def test_every_follower_gets_every_byte_once_and_then_the_end() -> None:
    agent = RelayAgent(random.Random(SEED), 0.0)
    for _ in range(INPUTS // 10):
        agent.turn()
    assert agent.finished > INPUTS // 20_000


def test_an_agent_that_breaks_the_rules_of_relaying_is_refused_or_harmless() -> None:
    agent = RelayAgent(random.Random(SEED), 0.1)
    while agent.inputs < INPUTS // 10:
        agent.turn()
    assert agent.violations > INPUTS // 2000
