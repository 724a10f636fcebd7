"""The hot path's end of the daemon's socket: frames of one command (docs/door-protocol.md). See `cli.hot` about imports."""

import _socket
import os

from agentkernel import __version__

MAX_FRAME = 131_092
CALL = 14
HELLO = b'{"op": "hello", "version": "%b"}' % __version__.encode()  # a daemon that is older than this makes way, when it is done
_HELLO_REPLY_BYTES = 48


class Link:
    """Sends frames about one command, and finds those about it in what comes."""

    def __init__(self, connection: _socket.socket) -> None:
        seed = os.urandom(24)
        self.connection = connection
        self.exec_id = bytes([seed[16] | 1]) + seed[17:]
        self.store = b""  # the identity of the store behind the daemon, once it has answered
        self._epoch = bytes([seed[0] | 1]) + seed[1:16]  # its first four bytes must not be zero
        self._received = b""
        self._greeted = False
        self._queue: list[bytes] = []
        self._sending = False

    def open(self, kind: int, payload: bytes) -> None:
        """Opens the attach and sends the first frame behind it, without waiting for the answer."""
        self._greeted = False
        self._received = b""
        self._queue.clear()
        self._queue.append(b"AKCHAN1\n" + self._epoch + b"\1\0\1\0" + bytes(4))
        self._queue.append(self._frame(kind, payload))
        self.send(CALL, HELLO, about_command=False)

    def reopen(self, connection: _socket.socket, kind: int, payload: bytes) -> None:
        """The same with another daemon."""
        self.connection = connection
        self.open(kind, payload)

    def send(self, kind: int, payload: bytes = b"", flags: int = 0, *, about_command: bool = True) -> None:
        """Sends a frame whole, also from a signal's handler that interrupts the sending of another.

        What is not `about_command` has an id of its own, and its answer passes by.
        """
        self._queue.append(self._frame(kind, payload, flags, about_command))
        while self._queue and not self._sending:
            self._sending = True
            try:
                batch, self._queue = self._queue, []  # a handler that comes between adds to the one or the other
                rest = memoryview(b"".join(batch))
                while rest:
                    rest = rest[self.connection.send(rest) :]
            except OSError:  # the daemon is gone: receiving tells, and what matters is said again to the next one
                self._queue.clear()
            finally:
                self._sending = False

    def receive(self) -> list[tuple[int, int, memoryview]] | None:
        """Type, flags and payload of each frame that is complete now; None when the daemon is gone.

        Raises:
            ConnectionError: what answers is not the daemon that it was, or breaks the protocol.
        """
        try:
            data = self.connection.recv(MAX_FRAME)
        except OSError:
            return None
        if not data:
            return None
        if self._received:
            data = self._received + data
        at = 0
        if not self._greeted:
            if len(data) < _HELLO_REPLY_BYTES:
                self._received = data
                return []
            self._check_greeting(data)
            at = _HELLO_REPLY_BYTES
        frames = []
        view = memoryview(data)
        while len(data) - at >= 16:
            stop = at + 20 + int.from_bytes(view[at : at + 4], "little")
            if stop > at + MAX_FRAME or view[at + 6] or view[at + 7]:
                raise ConnectionError("the daemon broke the protocol")
            if stop > len(data):
                break
            if view[at + 8 : at + 16] == self.exec_id:
                frames.append((view[at + 4], view[at + 5], view[at + 16 : stop - 4]))
            at = stop
        self._received = data[at:]
        return frames

    def _check_greeting(self, data: bytes) -> None:
        if data[:24] != b"AKAGENT\n" + self._epoch or data[24:26] != b"\1\0" or (self.store and self.store != data[32:48]):
            raise ConnectionError("another daemon answers than the one that ran the command")
        self.store = data[32:48]
        self._greeted = True

    def _frame(self, kind: int, payload: bytes, flags: int = 0, about_command: bool = True) -> bytes:
        ident = self.exec_id if about_command else bytes([self.exec_id[0] ^ 2]) + self.exec_id[1:]
        return len(payload).to_bytes(4, "little") + bytes((kind, flags, 0, 0)) + ident + payload + self._epoch[:4]


def fields(*pairs: tuple[int, bytes]) -> bytes:
    """A field list of keys and values."""
    return b"".join([key.to_bytes(4, "little") + len(value).to_bytes(4, "little") + value for key, value in pairs])


def fields_of(payload: memoryview) -> list[tuple[int, bytes]]:
    """The keys and values of a field list."""
    found, at = [], 0
    while at + 8 <= len(payload):
        stop = at + 8 + int.from_bytes(payload[at + 4 : at + 8], "little")
        found.append((int.from_bytes(payload[at : at + 2], "little"), bytes(payload[at + 8 : stop])))
        at = stop
    return found
