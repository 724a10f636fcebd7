"""A process that pulls an image, and removes it; failpoints end it (AGENTKERNEL_FAILPOINTS): `python -m unit.images_puller DIRECTORY IMAGE`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from unit.images_world import World

from agentkernel.model.image import PullPolicy


async def main(directory: str, reference: str) -> None:
    library = World(Path(directory)).library
    await library.obtain(reference, PullPolicy.MISSING, lambda _progress: None)
    await library.remove_image(reference)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
