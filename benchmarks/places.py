"""Where a figure is taken: a backend, its image, and the raw tool beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentkernel.benchmark.subject import Subject
from agentkernel.benchmark.timing import Contender
from agentkernel.errors import AgentKernelError
from benchmarks.contenders import CALLER, UnmeasurableError, bwrap, cold, kernel, request_for
from benchmarks.engines import IMAGE, Raw, raw, runsc_do
from benchmarks.figures import Figure
from benchmarks.served import Served
from benchmarks.starting import TRUE

HELLO = ("echo", "hello")
ENGINES = ("docker", "podman")
BACKENDS = ("namespaces", "gvisor", *ENGINES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A backend, its image, and the engine of that name where there is one."""

    backend: str
    image: str | None
    engine: Raw | None

    def cold(self, daemon: Served | None, cwd: Path) -> Contender:
        """Create, run, destroy: in process, or through a daemon."""
        door = kernel() if daemon is None else daemon.door
        return cold(door, TRUE if self.image is None else ("true",), cwd, self.backend, self.image)

    def subject(self, cwd: Path) -> Subject:
        """For the measuring that `agentkernel benchmark` does."""
        return Subject(kernel=kernel(), caller=CALLER, request=request_for(HELLO, cwd, self.backend, self.image))

    def starting(self) -> dict[str, Contender]:
        """The raw tool that starts something like its sandboxes."""
        if self.engine is not None:
            return {f"{self.backend} run": self.engine.run("true")}
        return {"runsc do": runsc_do("true")} if self.backend == "gvisor" else {"bwrap": bwrap(*TRUE)}


@contextlib.contextmanager
def place(backend: str) -> Iterator[Place]:
    """The backend with what it needs, for the block; raises UnmeasurableError."""
    if backend not in ENGINES:
        yield Place(backend=backend, image=None, engine=None)
        return
    with raw(backend) as engine:
        yield Place(backend=backend, image=IMAGE, engine=engine)


async def in_each(name: str, backends: tuple[str, ...], measured: Callable[[Place], Awaitable[list[Figure]]]) -> list[Figure]:
    """The figures of every backend; one that is not here does not keep the others from theirs."""
    figures = []
    for backend in backends:
        try:
            with place(backend) as found:
                figures += await measured(found)
        except (UnmeasurableError, AgentKernelError) as reason:
            figures.append(Figure(name=f"{name}, {backend}", value=None, unit="", note=str(reason)))
    return figures
