"""All that is measured of one backend, table by table: what one of them cannot have does not keep the others from theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from agentkernel.benchmark.crowd import SIZES, Crowd, crowd
from agentkernel.benchmark.life import Execs, Life, execs, life
from agentkernel.benchmark.memory import Held, held
from agentkernel.benchmark.subject import Subject
from agentkernel.benchmark.timing import Contender, Distribution, distribution, take_turns
from agentkernel.benchmark.work import Cost, costs
from agentkernel.errors import AgentKernelError

Told = Callable[[str], None]


class Table(StrEnum):
    """What can be measured, in the order in which it is."""

    RUN = "run"
    LIFE = "life"
    EXEC = "exec"
    PARALLEL = "parallel"
    MEMORY = "memory"
    COST = "cost"


@dataclass(slots=True, kw_only=True)
class Measured:
    """One backend's figures, filled table by table: None or empty where a table was not asked for, or is in `failures`."""

    backend: str
    isolation: str
    image: str = ""  # which its sandboxes are made of; empty: the host's own system
    run: Distribution | None = None
    life: Life | None = None
    exec: Execs | None = None
    parallel: tuple[Crowd, ...] = ()
    memory: Held | None = None
    cost: tuple[Cost, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)  # by table

    @property
    def is_whole(self) -> bool:
        """Whether all that was asked for is there, and every sandbox did what it should."""
        return not self.failures and all(each.succeeded == each.wanted for each in self.parallel)

    def to_json(self) -> dict[str, Any]:
        """For reports; times are milliseconds but where the name of a key says otherwise."""
        record = asdict(self)
        record["cost"] = [asdict(each) | {"ratio": each.ratio} for each in self.cost]
        if self.memory is not None:
            record["memory"]["total_kib"] = self.memory.total_kib
        return record


async def measure(
    into: Measured, subject: Subject, tables: Sequence[Table], rounds: int, told: Told, *, run: Contender | None = None
) -> None:
    """Measures these tables of a subject's backend.

    Args:
        into: gets the figures, and the reasons of those that could not be had.
        rounds: of `run` and `life`; the other tables have their own.
        told: gets a word before each thing that takes a while.
        run: the whole command line, for table `run`.
    """
    work = _Work(into=into, subject=subject, rounds=rounds, told=told, run=run)
    ways: dict[Table, Callable[[], Awaitable[None]]] = {
        Table.RUN: work.whole,
        Table.LIFE: work.parts,
        Table.EXEC: work.sequence,
        Table.PARALLEL: work.crowds,
        Table.MEMORY: work.idle,
        Table.COST: work.inside,
    }
    for table, way in ways.items():
        if table in tables:
            told(f"{into.backend}: {table}")
            try:
                await way()
            except (AgentKernelError, OSError) as error:
                into.failures[table] = str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A way to each table."""

    into: Measured
    subject: Subject
    rounds: int
    told: Told
    run: Contender | None

    async def whole(self) -> None:
        if self.run is not None:
            times = await take_turns({"run": self.run}, self.rounds, warm_up=2)  # a pool begins when the same is asked for again
            self.into.run = distribution(times["run"])

    async def parts(self) -> None:
        self.into.life = await life(self.subject, self.rounds)

    async def sequence(self) -> None:
        self.into.exec = await execs(self.subject)

    async def crowds(self) -> None:
        for size in SIZES:
            self.told(f"{self.into.backend}: {size} at once")
            self.into.parallel += (await crowd(self.subject, size),)

    async def idle(self) -> None:
        self.into.memory = await held(self.subject)

    async def inside(self) -> None:
        self.into.cost = await costs(self.subject, told=lambda name: self.told(f"{self.into.backend}: work inside, {name}"))
