"""One more reader of a command's output: at offsets of its own, each byte once."""

from __future__ import annotations

from collections.abc import Callable

Take = Callable[[int, int, memoryview | bytes], None]  # stream, offset, bytes that are valid during the call


class Reader:
    """Implements `streams.Tap`. While it is paused it takes nothing, and later asks again for what it missed.

    Args:
        offsets: where in stdout and stderr it begins.
        take: gets the bytes.
        releases: whether the agent may forget what `release` names; else it keeps all that its ring can hold.
    """

    def __init__(self, offsets: tuple[int, int], take: Take, *, releases: bool = True) -> None:
        self.is_flowing = False  # what was asked for is coming
        self._take = take
        self._releases = releases
        self._position = [0, *offsets]
        self._released = [0, *offsets] if releases else [0, 0, 0]
        self._asked = False
        self._paused = False

    @property
    def is_paused(self) -> bool:
        """Whether it takes nothing."""
        return self._paused

    def pause(self) -> None:
        """Takes nothing from now on."""
        self._paused = True
        self._asked = self.is_flowing = False

    def unpause(self) -> None:
        """Takes bytes again, once the agent has been asked for them (`Execution.refresh`)."""
        self._paused = False

    def release(self, stream: int, offset: int) -> bool:
        """The agent may forget what comes before `offset`; False where that was not even given."""
        if stream not in (1, 2) or offset > self._position[stream]:
            return False
        if self._releases:
            self._released[stream] = max(offset, self._released[stream])
        return True

    def ask(self) -> tuple[int, int] | None:
        """See `streams.Tap`."""
        if self._paused:
            return None
        self._asked = True
        return self._position[1], self._position[2]

    def restart(self, stdout: int, stderr: int) -> None:
        """See `streams.Tap`. One that was not asked yet does not concern this reader."""
        if self._asked:
            self.is_flowing = True
            self.skip(1, stdout)
            self.skip(2, stderr)

    def offer(self, stream: int, offset: int, data: memoryview | bytes) -> None:
        """See `streams.Tap`."""
        known = self._position[stream] - offset
        if not self.is_flowing or known >= len(data):
            return
        if known > 0:
            offset, data = offset + known, data[known:]
        self._position[stream] = offset + len(data)
        self._take(stream, offset, data)

    def skip(self, stream: int, offset: int) -> None:
        """See `streams.Tap`."""
        if self.is_flowing and offset > self._position[stream]:
            self._position[stream] = offset
            if self._releases:
                self._released[stream] = offset

    def released(self, stream: int) -> int:
        """See `streams.Tap`."""
        return self._released[stream]

    def is_behind(self, stream: int, end: int) -> bool:
        """See `streams.Tap`."""
        return self._position[stream] < end
