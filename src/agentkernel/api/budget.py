"""How much memory requests take together: bodies that are read whole, and output that is kept until its client has taken it."""

from __future__ import annotations

from types import TracebackType
from typing import Annotated, Final, Self

from fastapi import Depends
from starlette.requests import HTTPConnection

from agentkernel.errors import Busy

STATE: Final = "agentkernel.share"  # of a request's scope: its share


class Budget:
    """Bytes, of all requests under way and of those of each token. Belongs to one event loop.

    Args:
        most: of all together.
        most_each: of one token.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._all = 0
        self._each: dict[str, int] = {}

    @property
    def held(self) -> int:
        """How many bytes are counted."""
        return self._all

    def share(self, name: str) -> Share:
        """The share of a request of the token `name`; to be closed."""
        return Share(self, name)

    def free(self, name: str) -> int:
        """How many more the token's requests may take; may be negative."""
        return min(self._most - self._all, self._most_each - self._each.get(name, 0))

    def count(self, name: str, more: int) -> None:
        """Counts, or with a negative number counts off."""
        self._all += more
        mine = self._each.get(name, 0) + more
        if mine:
            self._each[name] = mine
        else:
            self._each.pop(name, None)


class Share:
    """What one request holds. A context manager, which gives it back."""

    __slots__ = ("_budget", "_counted", "_name", "_used")

    def __init__(self, budget: Budget, name: str) -> None:
        self._budget = budget
        self._name = name
        self._counted = 0  # of these `_used` are, the others are sure to be had
        self._used = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def counted(self) -> int:
        """How many bytes of the budget it takes."""
        return self._counted

    def apart(self) -> Share:
        """Another share of the same token, for what may go on without this request."""
        return Share(self._budget, self._name)

    def reserve(self, count: int) -> None:
        """Makes sure of so many bytes that `take` gives later; raises Busy where they are not to be had."""
        if count > self._budget.free(self._name):
            raise Busy("requests under way hold as much as the server may", hint="try again when some have ended")
        self._count(count)

    def claim(self, count: int) -> None:
        """Takes so many bytes; raises Busy where they are not to be had."""
        self.reserve(count)
        self._used += count

    def take(self, count: int) -> int:
        """Takes so many bytes or, where they are not to be had, fewer; returns how many."""
        lacking = self._used + count - self._counted
        if lacking > 0:
            got = max(0, min(lacking, self._budget.free(self._name)))
            self._count(got)
            count -= lacking - got
        self._used += count
        return count

    def cover(self, count: int) -> None:
        """Counts at least so many bytes, which are there already: whoever comes later has to wait for them."""
        if count > self._counted:
            self._count(count - self._counted)

    def close(self) -> None:
        """Gives everything back."""
        if self._counted:
            self._count(-self._counted)
        self._used = 0

    def _count(self, more: int) -> None:
        self._counted += more
        self._budget.count(self._name, more)


async def _share(connection: HTTPConnection) -> Share:
    found: Share = connection.scope[STATE]
    return found


Shared = Annotated[Share, Depends(_share)]
