"""A million malformed inputs: the decoder, the parsers and the state machine refuse or accept, and never do anything else.

`AGENTKERNEL_FUZZ_SEED` repeats a run, `AGENTKERNEL_FUZZ_INPUTS` changes how many inputs there are in total.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable

import pytest

from agentkernel.channel import door, messages, replies
from agentkernel.channel.dialect import OfDoor
from agentkernel.channel.exchange import Answer, Exchange
from agentkernel.channel.execution import Execution, Phase
from agentkernel.channel.frames import AGENT_TYPES, FrameDecoder, FrameType, HelloReply, decode_hello, encode_hello_reply
from agentkernel.channel.messages import KillCause, Start, decode_start, encode_start
from agentkernel.channel.records import RecordError, WatchRecords, parse_file_records
from agentkernel.channel.refusal import encode_refusal
from agentkernel.channel.streams import MAX_UNCONFIRMED, InputWindow, OutputQueue
from agentkernel.channel.wire import MAX_OUTPUT, decode_fields, encode_frame, tag_of
from agentkernel.errors import AgentKernelError, InvalidInput, NotFound, ProtocolViolation, SandboxLost

SEED = int(os.environ.get("AGENTKERNEL_FUZZ_SEED") or int.from_bytes(os.urandom(4), "little"))
INPUTS = int(os.environ.get("AGENTKERNEL_FUZZ_INPUTS") or 1_000_000)
RING = 8192
BOOT = bytes(16)
PERIOD = 65_536
PATTERN = bytes((at * 31 + at // 251) & 255 for at in range(PERIOD)) * 4  # periodic: chunks that the host joins may cross a period's end


@pytest.fixture(autouse=True)
def say_seed() -> None:
    print(f"repeat with AGENTKERNEL_FUZZ_SEED={SEED}")


def mutated(source: random.Random, data: bytes) -> bytes:
    """`data` with one thing wrong; sometimes it is still right."""
    kind = source.randrange(5)
    at = source.randrange(len(data) + 1)
    if kind == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << source.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + source.randbytes(source.randrange(1, 9)) + data[at:]
    if kind == 3:
        return data[:at] + source.choice((b"\0", b"\xff", b"\x7f")) * source.choice((1, 4, 8)) + data[at + 8 :]
    return data + data[at:]


def refused_start(payload: bytes) -> Start:
    """A client's START; what is wrong with it is the client's mistake, not a violation by an agent."""
    try:
        return decode_start(payload)
    except InvalidInput as error:
        raise ProtocolViolation(error.message) from error


def test_no_payload_makes_a_parser_fail_otherwise_than_by_refusing() -> None:
    source = random.Random(SEED)
    exited = struct.pack("<IIIIQQQQQQ", 0, 0, 0, 0, 1, 2, 3, 4, 5, 6)
    resumed = struct.pack("<IIQQQQ", 0, 1, 2, 3, 4, 5)
    process = struct.pack("<HHI", 1, 0, 36) + struct.pack("<QIIIIQ", 1, 2, 0, 0, 0, 3) + b"true"
    record = struct.pack("<IIQqIIQIHH", 55, 0o100644, 1, 2, 3, 4, 5, 6, 4, 3) + b"nametgt"
    event = struct.pack("<IIIHH", 20, 2, 0, 4, 0) + b"name"
    parsers: list[tuple[Callable[[bytes], object], bytes]] = [
        (messages.parse_failed, struct.pack("<II", 2, 8) + b"execve"),
        (messages.parse_pid, struct.pack("<I", 1)),
        (messages.parse_two_offsets, struct.pack("<QQ", 1, 2)),
        (door.decode_request, door.encode_words([b"run", b"true"], b"/", [b"A=b"], 7, (24, 80))),
        (door.decode_started, door.encode_started(7, "0123456789abcdef", [b"{}"], "memory", 2)),
        (door.decode_exited, door.encode_exited(exited, 3, 1, 124, "said")),
        (OfDoor().started, door.encode_started(7, "0123456789abcdef", [b"{}"])),
        (OfDoor().exited, door.encode_exited(exited, 3, 1, 124, "said")),
        (OfDoor().failed, encode_refusal(NotFound("no"))),
        (refused_start, encode_start(Start(argv=(b"a", b"b"), environment=(b"A=b",), uid=1, gid=2, groups=(3,), flags=3, timeout_ms=9))),
        (messages.parse_exited, exited),
        (messages.parse_resumed, resumed),
        (replies.parse_processes, process * 2),
        (replies.parse_statistics, struct.pack("<HHIQIIQQQ", 2, 0, 40, 1, 2, 3, 4, 5, 6)),
        (messages.parse_echo, struct.pack("<HHI", 3, 0, 3) + b"abc"),
        (lambda data: list(decode_fields(data)), process * 3),
        (parse_file_records, record * 2),
        (lambda data: WatchRecords().feed(data), event * 3),
        (decode_hello, b"AKCHAN1\n" + struct.pack("<16sHHI", b"e" * 16, 1, 1, 0)),
    ]
    refused = 0
    for _ in range(INPUTS // 2):
        parse, legal = parsers[source.randrange(len(parsers))]
        data = mutated(source, legal)
        try:
            parse(data)
        except (ProtocolViolation, RecordError):
            refused += 1
    assert INPUTS // 20 < refused < INPUTS // 2


def test_no_stream_makes_the_decoder_fail_otherwise_than_by_refusing() -> None:
    source = random.Random(SEED)
    epoch = b"\1" * 16
    reply = encode_hello_reply(HelloReply(epoch, 1, 1, 7, BOOT))
    kinds = sorted(AGENT_TYPES)
    decoder, greeting, refused = FrameDecoder(epoch), reply, 0
    for number in range(INPUTS // 5):
        if number % 16 == 0:  # a length gone wrong would swallow thousands
            decoder, greeting = FrameDecoder(epoch), reply
        frame = encode_frame(tag_of(epoch), source.choice(kinds), source.randrange(2**64), PATTERN[: source.randrange(64)])
        data = greeting + (mutated(source, frame) if source.random() < 0.7 else frame)
        greeting = b""
        try:
            for found in decoder.feed(data):
                assert found.type in AGENT_TYPES
        except ProtocolViolation:
            refused += 1
            decoder = FrameDecoder(epoch)
            greeting = mutated(source, reply) + reply if source.random() < 0.1 else reply
    assert refused > INPUTS // 50


class Agent:
    """Plays an agent that knows the rules, and breaks them in a share of its frames."""

    def __init__(self, source: random.Random, mutations: float) -> None:
        self.source = source
        self.mutations = mutations
        self.sent_bytes = 0
        self.inputs = 0
        self.violations = 0
        self.ended = 0
        self.begin()

    def begin(self) -> None:
        self.hello = b""
        self.exchange = Exchange(self.transmitted, self.transmitted, lambda: 0.0, 30)
        self.outputs: dict[int, list[int]] = {}  # sent on this attach
        self.produced: dict[int, list[int]] = {}
        self.inputs_known: dict[int, tuple[int, int]] = {}
        self.taken: dict[int, list[int]] = {}
        self.requests: list[int] = []
        self.known: dict[int, Execution] = {}
        self.answers: list[Answer] = []
        self.attach()

    def transmitted(self, data: bytes) -> None:
        if data.startswith(b"AKCHAN1\n"):
            self.hello = data
        elif data[4] == FrameType.STATS:
            self.requests.append(int.from_bytes(data[8:16], "little"))
        elif data[4] == FrameType.STDIN and not self.mutations:
            offset = int.from_bytes(data[16:24], "little")
            assert offset + len(data) - 28 <= self.inputs_known[int.from_bytes(data[8:16], "little")][1]

    def attach(self) -> None:
        self.exchange.detach()
        self.exchange.attach()
        self.requests = []
        self.epoch = self.hello[8:24]
        self.exchange.feed(encode_hello_reply(HelloReply(self.epoch, 1, 1, 7, BOOT)))

    # -- the host's own acts

    def act(self) -> None:
        choice = self.source.randrange(12)
        running = list(self.exchange.executions.values())
        if choice == 0 and len(running) < 4:
            lossy = self.source.random() < 0.3
            start = encode_start(Start(argv=(b"x",), ring_bytes=RING))
            execution = self.exchange.start(start, output=OutputQueue(RING, lossy=lossy), stdin=InputWindow(wanted=True))
            self.known[execution.ident] = execution
            self.produced[execution.ident] = [0, 0]
            self.taken[execution.ident] = [0, 0]
            self.inputs_known[execution.ident] = (0, 0)
        elif choice == 1:
            self.exchange.request(FrameType.STATS, b"", self.answers.append)
        elif choice == 2 and self.source.random() < 0.3:
            self.attach()
        elif running:
            self.use(self.source.choice(running), choice)

    def use(self, execution: Execution, choice: int) -> None:
        if choice == 3:
            execution.write(memoryview(PATTERN)[: self.source.randrange(5000)])
        elif choice == 4 and self.source.random() < 0.2:
            execution.end_input()
        elif choice == 5 and self.source.random() < 0.1:
            execution.kill(KillCause.REQUEST)
        elif choice > 5:
            self.take(execution)

    def take(self, execution: Execution) -> None:
        chunk = execution.take()
        if chunk is None:
            return
        stream, data = chunk
        position = self.taken[execution.ident]
        if not (execution.output.lossy or self.mutations):
            start = position[stream - 1] % PERIOD
            assert data == PATTERN[start : start + len(data)]
        position[stream - 1] += len(data)

    # -- the agent's acts

    def frame(self) -> tuple[FrameType, int, bytes, int]:
        running = list(self.exchange.executions.values())
        if self.requests and self.source.random() < 0.3:
            return FrameType.REPLY, self.requests.pop(), b"", 0
        if not running:
            return FrameType.REPLY, 0, b"", 0
        execution = self.source.choice(running)
        ident = execution.ident
        if execution.phase is Phase.STARTING:
            self.outputs[ident] = [0, 0]
            return FrameType.STARTED, ident, struct.pack("<I", 5), 0
        if execution.phase is Phase.RESUMING:
            self.outputs[ident] = list(execution.output.received)
            return FrameType.RESUMED, ident, struct.pack("<IIQQQQ", 0, 5, 0, 0, *self.inputs_known[ident]), 0
        return self.progress(execution)

    def progress(self, execution: Execution) -> tuple[FrameType, int, bytes, int]:
        ident, choice = execution.ident, self.source.random()
        sent, consumed = self.outputs[ident], execution.output.consumed
        stream = self.source.randrange(2)
        room = consumed[stream] + RING - sent[stream]
        if choice < 0.7 and room > 0:
            size = self.source.randint(1, min(room, self.source.choice((1, 40, 3000)), MAX_OUTPUT))
            offset = sent[stream]
            sent[stream] += size
            return FrameType.OUTPUT, ident, struct.pack("<Q", offset) + PATTERN[offset % PERIOD :][:size], stream + 1
        if choice < 0.97:
            taken, _ = self.inputs_known[ident]
            taken = self.source.randint(taken, execution.stdin.sent) if not execution.stdin.finished else taken
            self.inputs_known[ident] = (taken, taken + 65_536)
            return FrameType.STDIN_CONSUMED, ident, struct.pack("<QQ", *self.inputs_known[ident]), int(self.source.random() < 0.02)
        return FrameType.EXITED, ident, struct.pack("<IIIIQQQQQQ", 0, 1, 0, 0, *sent, 1, 2, 3, 4), 0

    def turn(self) -> None:
        self.act()
        kind, ident, payload, flags = self.frame()
        if kind is FrameType.REPLY and ident == 0 and self.source.random() >= self.mutations:
            return
        if self.source.random() < self.mutations:
            choice = self.source.randrange(5)
            payload = mutated(self.source, payload) if choice < 2 else payload
            kind = FrameType(self.source.choice(sorted(AGENT_TYPES))) if choice == 2 else kind
            ident ^= 1 << self.source.randrange(64) if choice == 3 else 0
            flags = self.source.randrange(256) if choice == 4 else flags
        data = encode_frame(tag_of(self.epoch), kind, ident, payload, flags)
        if self.source.random() < self.mutations / 4:
            data = mutated(self.source, data)
        self.inputs += 1
        self.feed(data)
        self.check()

    def feed(self, data: bytes) -> None:
        before = len(self.exchange.executions)
        try:
            if self.source.random() < 0.1:
                cut = self.source.randrange(len(data) + 1)
                self.exchange.feed(data[:cut])
                self.exchange.feed(data[cut:])
            else:
                self.exchange.feed(data)
        except (ProtocolViolation, SandboxLost) as error:
            if not self.mutations:
                raise
            self.violations += 1
            self.fail(error)
        self.ended += len(self.exchange.executions) < before

    def fail(self, error: AgentKernelError) -> None:
        pending = list(self.exchange.executions.values())
        self.exchange.fail(error)
        assert all(execution.phase is Phase.ENDED and execution.error is error for execution in pending)
        assert self.exchange.next_deadline() is None
        self.begin()

    def check(self) -> None:
        for execution in self.exchange.executions.values():
            held = [end - done for end, done in zip(execution.output.received, execution.output.consumed, strict=True)]
            assert min(held) >= 0 and max(held) <= RING
            assert 0 <= execution.stdin.unconfirmed_bytes <= MAX_UNCONFIRMED


def test_an_agent_that_keeps_the_rules_is_never_refused() -> None:
    agent = Agent(random.Random(SEED), 0.0)
    for _ in range(INPUTS // 20):
        agent.turn()
    assert agent.ended > INPUTS // 4000
    assert agent.answers


def test_an_agent_that_breaks_the_rules_is_refused_or_harmless() -> None:
    agent = Agent(random.Random(SEED), 0.2)
    while agent.inputs < INPUTS * 3 // 10:
        agent.turn()
    assert agent.violations > INPUTS // 200
