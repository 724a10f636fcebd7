"""Descriptor 0 of the hot path: what is read goes to the command, as far as its agent takes it. See `cli.hot` about imports."""

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agentkernel.cli.relay import Relay

CHUNK_BYTES = 65_536
BACKGROUND_POLL_MS = 500
STDIN = 3
_END_OF_INPUT = 1  # flag of STDIN


class Input:
    """Our input: open until its end or until the command closes its own."""

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay
        self._terminal = os.isatty(0)
        self._open = True
        self._sent = 0  # bytes
        self._limit = 0  # of what may be sent
        self._unconfirmed = bytearray()  # what the agent has not taken yet, for a repeat to it

    def join(self, poll: select.poll) -> int | None:
        """Has `poll` wait for our input too, where it is wanted; returns after how many milliseconds to look again, None for never."""
        if not self._open or self._sent >= self._limit:
            return None
        if self._terminal and not _in_foreground():  # reading it would stop us
            return BACKGROUND_POLL_MS
        poll.register(0, select.POLLIN)
        return None

    def confirm(self, account: memoryview, *, closed: bool) -> None:
        """Takes what the agent says it has consumed and will take."""
        consumed = int.from_bytes(account[:8], "little")
        del self._unconfirmed[: max(0, consumed - self._sent + len(self._unconfirmed))]
        self._limit = int.from_bytes(account[8:16], "little")
        self._open = self._open and not closed

    def resume(self, account: memoryview) -> None:
        """Sends again what the agent has not got."""
        self.confirm(account, closed=False)
        if not self._limit:  # the command has closed its input
            self._open = False
            return
        offset = self._sent - len(self._unconfirmed)
        for at in range(0, len(self._unconfirmed), CHUNK_BYTES):
            self._send(offset + at, bytes(self._unconfirmed[at : at + CHUNK_BYTES]))
        if not self._open:
            self._send(self._sent, b"")

    def feed(self) -> None:
        """Passes on what is there, or the end."""
        try:
            data = os.read(0, min(self._limit - self._sent, CHUNK_BYTES))
        except BlockingIOError:
            return
        except OSError:  # the terminal hung up
            data = b""
        self._open = bool(data)
        self._unconfirmed += data
        self._send(self._sent, data)
        self._sent += len(data)

    def _send(self, offset: int, data: bytes) -> None:
        self._relay.link.send(STDIN, offset.to_bytes(8, "little") + data, flags=0 if data else _END_OF_INPUT)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # not our controlling terminal: no job control, nothing would stop us
        return True
