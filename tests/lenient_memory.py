"""The memory backend under a claim that no policy refuses: it says that it can do everything, and isolates as little as ever."""

from __future__ import annotations

from dataclasses import replace

from agentkernel.backends.memory.backend import MemoryBackend
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support

TARGET = "lenient_memory:LenientMemory"


class LenientMemory(MemoryBackend):
    """For tests of what stands above a backend, with harmless commands only."""

    async def probe(self) -> Fingerprint:
        fingerprint = await super().probe()
        native = dict.fromkeys(Feature, Provision(support=Support.NATIVE))
        return replace(fingerprint, features=native, level=IsolationLevel.CONTAINER)
