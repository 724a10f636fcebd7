"""One command on the daemon's socket, joined to this process's descriptors 0 to 2. For the hot path: see `cli.hot` about imports.

The loop does one thing at a time and may wait for ever in a write (a paused pager). So signals are dealt with in their handlers, which
the interpreter runs while it waits: the first is passed to the command's whole tree, a second one, or 2 s of waiting, kills, and 1 s later
this process ends whatever it waits for - as `cli.interrupts` has it. Before the command runs a signal ends this process at once:
the daemon sees the connection close and undoes what was begun.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import errno
import os
import select

from agentkernel import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agentkernel.cli.relay_input import Input

GRACE_S = 2.0
DRAIN_S = 1.0
CHUNK_BYTES = 65_536
ACKNOWLEDGE_BYTES = 32_768  # the agent's ring holds eight times as much
EXIT_FAILURE = 125
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET)
ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)

MAX_FRAME = 131_092
HELLO_REPLY_BYTES = 48
EXITED_BYTES = 72  # the guest protocol's struct, limits and cause
START, STDIN, CONSUMED, SIGNAL, RESIZE, KILL, RESUME, FORGET, CALL = 2, 3, 4, 5, 6, 7, 8, 9, 14
FAILED, STARTED, OUTPUT, STDIN_CONSUMED, EXITED, RESUMED = 129, 130, 131, 132, 133, 134
SANDBOX, INNER, SANDBOX_ID, NOTICE, EXIT_STATUS, MESSAGE = 32, 33, 48, 49, 50, 51
HELLO = b'{"op": "hello", "version": "%b"}' % __version__.encode()  # a daemon that is older than this makes way, when it is done
KILLED_BY_REQUEST = b"\x02\0\0\0"


class Relay:
    """The command, from START to EXITED. A context: it owns the signals and the terminal's mode."""

    def __init__(self, connection: _socket.socket, start: bytes, *, lasting: bool, has_input: bool, raw: bool, follows_size: bool) -> None:
        """`start` is the payload of START.

        `lasting`: its sandbox was there before it, so it has to be named; `raw`: the user's terminal is put into raw mode meanwhile.
        """
        seed = os.urandom(24)
        self.connection = connection
        self.start = start
        self.epoch = bytes([seed[0] | 1]) + seed[1:16]  # its first four bytes must not be zero
        self.exec_id = bytes([seed[16] | 1]) + seed[17:]
        self.store = b""  # the identity of the store behind the daemon
        self.sandbox = b""  # its id, once it is known and where it has to be named
        self.started = False
        self.losses = 0  # of the connection, one soon after the other
        self.joined_at = 0.0  # when the connection was lost last
        self.status: int | None = None  # what this process exits with
        self.declined = False  # nothing was done, and the full path has to
        self.offsets = [0, 0, 0]  # of each stream: what was written
        self.acknowledged = [0, 0, 0]
        self.unwritable = 0  # exit status, once nobody takes the output
        self.interrupted_by = 0
        self.input = _input_of(self) if has_input else None
        self._received = b""
        self._greeted = False
        self._queue: list[bytes] = []
        self._sending = False
        self._killed = False
        self._lasting = lasting
        self._raw = raw
        self._follows_size = follows_size
        self._terminal: object = None
        self._replaced: dict[int, object] = {}
        self._wakeup = -1

    def __enter__(self) -> "Relay":
        for number in ENDING:
            if _signal.getsignal(number) is not _signal.SIG_IGN:  # as nohup and `sh -c '... &'` set it, for a reason
                self._replaced[number] = _signal.signal(number, self._interrupted)
        self._replaced[_signal.SIGALRM] = _signal.signal(_signal.SIGALRM, self._overdue)
        self._wakeup, awakened = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # one that comes just before we wait must end the waiting
        _signal.set_wakeup_fd(awakened, warn_on_full_buffer=False)
        self.greet(START, self.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_raw()

    def run(self) -> int | None:
        """Relays until the command has ended; returns the exit status, or None where nothing was done and the full path has to."""
        while self.status is None and not self.declined:
            try:
                self._step()
            except ConnectionError as error:
                self._leave_raw()
                say_line(f"error: {error}\n")
                self.status = EXIT_FAILURE
        if self.declined:
            self._give_back_signals()
            return None
        return 128 + self.interrupted_by if self.interrupted_by else self.unwritable or self.status

    def greet(self, kind: int, payload: bytes) -> None:
        """Opens the attach and sends the first frame behind it, without waiting for the answer."""
        self._greeted = False
        self._received = b""
        self._queue.clear()
        self._queue.append(b"AKCHAN1\n" + self.epoch + b"\1\0\1\0" + bytes(4))
        self._queue.append(self._frame(kind, payload))
        self.send(CALL, HELLO, ident=self._other_id())

    def send(self, kind: int, payload: bytes = b"", flags: int = 0, ident: bytes = b"") -> None:
        """Sends a frame whole, also from a signal's handler that interrupts the sending of another."""
        self._queue.append(self._frame(kind, payload, flags, ident))
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

    def _frame(self, kind: int, payload: bytes, flags: int = 0, ident: bytes = b"") -> bytes:
        head = len(payload).to_bytes(4, "little") + bytes((kind, flags, 0, 0)) + (ident or self.exec_id)
        return head + payload + self.epoch[:4]

    def _other_id(self) -> bytes:
        """Of requests about the command, whose answers nobody waits for."""
        return bytes([self.exec_id[0] ^ 2]) + self.exec_id[1:]

    def addressed(self, inner: bytes) -> bytes:
        """What goes with RESUME and SIGNAL."""
        fields = [(SANDBOX, self.sandbox), (INNER, inner)] if self.sandbox else [(INNER, inner)]
        return b"".join([key.to_bytes(4, "little") + len(value).to_bytes(4, "little") + value for key, value in fields])

    def kill(self) -> None:
        """SIGKILL for the command's whole tree."""
        self._killed = True
        self.send(KILL, KILLED_BY_REQUEST)

    def _repeat_wishes(self) -> None:
        """Says to a new daemon what the old one may not have passed on."""
        if self._killed or self.unwritable:
            self.kill()
        elif self.interrupted_by:
            self._pass_on(self.interrupted_by)

    def _step(self) -> None:
        """Waits for the daemon, for our input or for a signal, and does what there is to do."""
        daemon = self.connection.fileno()
        poll = select.poll()
        poll.register(daemon, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        wait_ms = self.input.join(poll) if self.input is not None else None
        for descriptor, _ in poll.poll(wait_ms):
            if descriptor == daemon:
                self._receive()
            elif descriptor == self._wakeup:
                os.read(self._wakeup, 64)  # the handler has run
            elif self.input is not None:
                self.input.feed()

    def _receive(self) -> None:
        try:
            data = self.connection.recv(MAX_FRAME)
        except OSError:
            data = b""
        if data:
            self._take(data)
            return
        from agentkernel.cli import rejoin  # noqa: PLC0415 - see cli.hot

        rejoin.rejoin(self)  # nothing was killed, and the next daemon goes on

    def _take(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        at, end = 0, len(data)
        if not self._greeted:
            if end < HELLO_REPLY_BYTES:
                self._received = data
                return
            self._check_greeting(data)
            at = HELLO_REPLY_BYTES
        view = memoryview(data)
        while end - at >= 16:
            stop = at + 20 + int.from_bytes(view[at : at + 4], "little")
            if stop > at + MAX_FRAME or view[at + 6] or view[at + 7]:
                raise ConnectionError("the daemon broke the protocol")
            if stop > end:
                break
            if view[at + 8 : at + 16] == self.exec_id:
                self._dispatch(view[at + 4], view[at + 5], view[at + 16 : stop - 4])
            at = stop
        self._received = bytes(view[at:])

    def _check_greeting(self, data: bytes) -> None:
        if data[:24] != b"AKAGENT\n" + self.epoch or data[24:26] != b"\1\0" or (self.store and self.store != data[32:48]):
            raise ConnectionError("another daemon answers than the one that ran the command")
        self.store = data[32:48]
        self._greeted = True

    def _dispatch(self, kind: int, flags: int, payload: memoryview) -> None:
        if kind == OUTPUT:
            self._output(flags, payload)
        elif kind == STDIN_CONSUMED:
            if self.input is not None:
                self.input.confirm(payload, closed=bool(flags & 1))
        elif kind == STARTED:
            self._began(payload[4:])
        elif kind == RESUMED:
            if self.input is not None:
                self.input.resume(payload[24:40])
            self._repeat_wishes()
        elif kind == EXITED:
            self._exited(payload[EXITED_BYTES:])
        elif kind == FAILED:
            from agentkernel.cli import hot_texts  # noqa: PLC0415 - see cli.hot

            self._leave_raw()
            self.status = hot_texts.refusal(bytes(payload), may_decline=not self.started)
            self.declined = self.status is None

    def _began(self, fields: memoryview) -> None:
        if self.started:  # a START that was repeated
            return
        self.started = True
        notices = [value for key, value in fields_of(fields) if key == NOTICE]
        if self._lasting:
            self.sandbox = b"".join([value for key, value in fields_of(fields) if key == SANDBOX_ID])
        if notices:
            from agentkernel.cli import hot_texts  # noqa: PLC0415 - see cli.hot

            hot_texts.say_notices(notices)
        if self._follows_size:
            _signal.signal(_signal.SIGWINCH, self._resized)
        if self._raw:
            from agentkernel.cli.rawterminal import RawTerminal  # noqa: PLC0415 - see cli.hot

            terminal = self._terminal = RawTerminal(0)
            terminal.__enter__()
            _signal.signal(_signal.SIGTSTP, lambda *_: terminal.suspend())

    def _output(self, stream: int, payload: memoryview) -> None:
        offset, data = int.from_bytes(payload[:8], "little"), payload[8:]
        if not self.unwritable:
            self._write(stream, data)
        self.offsets[stream] = end = offset + len(data)
        if end - self.acknowledged[stream] >= ACKNOWLEDGE_BYTES:
            self.acknowledged[stream] = end
            self.send(CONSUMED, end.to_bytes(8, "little"), flags=stream)

    def _write(self, descriptor: int, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # somebody who shares the open file made it non-blocking
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.poll()
            except OSError as error:
                self.unwritable = EXIT_BROKEN_PIPE
                if error.errno not in GONE:
                    self.unwritable = EXIT_FAILURE
                    say_line(f"error: cannot write the command's output: {error.strerror}\n")
                self.kill()
                return

    def _exited(self, fields: memoryview) -> None:
        self._leave_raw()
        self.status = EXIT_FAILURE
        for key, value in fields_of(fields):
            if key == EXIT_STATUS:
                self.status = int.from_bytes(value, "little")
            elif key == MESSAGE:
                say_line(value)
        self.send(FORGET)

    def _interrupted(self, number: int, _: object) -> None:
        if not self.started:
            os._exit(128 + number)
        if self.interrupted_by:
            self._end_it()
            return
        self.interrupted_by = number
        self._pass_on(number)
        _signal.setitimer(_signal.ITIMER_REAL, GRACE_S)

    def _overdue(self, *_: object) -> None:
        if self._killed:
            self._leave_raw()
            os._exit(128 + self.interrupted_by)
        self._end_it()

    def _end_it(self) -> None:
        self.kill()
        _signal.setitimer(_signal.ITIMER_REAL, DRAIN_S)

    def _pass_on(self, number: int) -> None:
        inner = self.exec_id + number.to_bytes(4, "little") + b"\1\0\0\0"  # the whole tree
        self.send(SIGNAL, self.addressed(inner), ident=self._other_id())

    def _resized(self, *_: object) -> None:
        self.send(RESIZE, window())

    def _give_back_signals(self) -> None:
        _signal.set_wakeup_fd(-1)
        for number, handler in self._replaced.items():
            _signal.signal(number, handler)

    def _leave_raw(self) -> None:
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            terminal.__exit__(None, None, None)  # type: ignore[attr-defined]


def fields_of(payload: memoryview) -> list[tuple[int, bytes]]:
    """The keys and values of a field list."""
    fields, at = [], 0
    while at + 8 <= len(payload):
        stop = at + 8 + int.from_bytes(payload[at + 4 : at + 8], "little")
        fields.append((int.from_bytes(payload[at : at + 2], "little"), bytes(payload[at + 8 : stop])))
        at = stop
    return fields


def window() -> bytes:
    """Rows and columns of the user's terminal, as frames have them; 24 by 80 when there is none."""
    for descriptor in (1, 0, 2):
        try:
            columns, rows = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if rows and columns:
            return rows.to_bytes(2, "little") + columns.to_bytes(2, "little")
    return b"\x18\x00\x50\x00"


def say_line(text: str | bytes) -> None:
    """Writes to stderr; one that is gone is no reason to fail."""
    try:
        os.write(2, text.encode() if isinstance(text, str) else text)
    except OSError:
        return


def _input_of(relay: Relay) -> "Input":
    from agentkernel.cli.relay_input import Input  # noqa: PLC0415 - see cli.hot

    return Input(relay)
