"""A server as a process of its own whose kernel opens any sandbox and does nothing with it: `python opening_server.py` prints its port."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


class Opening:
    """Kernel and sandbox."""

    async def open(self, caller: object, name: str) -> Opening:
        """A sandbox."""
        return self

    async def close(self) -> None:
        """Nothing is open."""


def main() -> None:
    """Serves until it is killed."""
    from api.asking import parts_with

    from agentkernel.api.listening import at_address
    from agentkernel.api.serve import serve

    kernel: Any = Opening()
    with at_address("127.0.0.1", 0) as listener:
        serve(parts_with(lambda caller: kernel), listener, lambda: print(listener.getsockname()[1], flush=True))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
