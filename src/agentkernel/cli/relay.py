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

from agentkernel.cli.link import Link, fields, fields_of

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

EXITED_BYTES = 72  # the guest protocol's struct, limits and cause
START, STDIN, CONSUMED, SIGNAL, RESIZE, KILL, RESUME, FORGET = 2, 3, 4, 5, 6, 7, 8, 9
FAILED, STARTED, OUTPUT, STDIN_CONSUMED, EXITED, RESUMED = 129, 130, 131, 132, 133, 134
SANDBOX, INNER, SANDBOX_ID, NOTICE, EXIT_STATUS, MESSAGE = 32, 33, 48, 49, 50, 51
KILLED_BY_REQUEST = b"\x02\0\0\0"


class Relay:
    """The command, from START to EXITED. A context: it owns the signals and the terminal's mode."""

    def __init__(self, connection: _socket.socket, start: bytes, *, lasting: bool, has_input: bool, raw: bool, follows_size: bool) -> None:
        """`start` is the payload of START.

        `lasting`: its sandbox was there before it, so it has to be named; `raw`: the user's terminal is put into raw mode meanwhile.
        """
        self.link = Link(connection)
        self.start = start
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
        self.link.open(START, self.start)
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

    def addressed(self, inner: bytes) -> bytes:
        """What goes with RESUME and SIGNAL."""
        return fields((SANDBOX, self.sandbox), (INNER, inner)) if self.sandbox else fields((INNER, inner))

    def kill(self) -> None:
        """SIGKILL for the command's whole tree."""
        self._killed = True
        self.link.send(KILL, KILLED_BY_REQUEST)

    def _repeat_wishes(self) -> None:
        """Says to a new daemon what the old one may not have passed on."""
        if self._killed or self.unwritable:
            self.kill()
        elif self.interrupted_by:
            self._pass_on(self.interrupted_by)

    def _step(self) -> None:
        """Waits for the daemon, for our input or for a signal, and does what there is to do."""
        daemon = self.link.connection.fileno()
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
        frames = self.link.receive()
        if frames is None:
            from agentkernel.cli import rejoin  # noqa: PLC0415 - see cli.hot

            rejoin.rejoin(self)  # nothing was killed, and the next daemon goes on
            return
        for kind, flags, payload in frames:
            self._dispatch(kind, flags, payload)

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

    def _began(self, told: memoryview) -> None:
        if self.started:  # a START that was repeated
            return
        self.started = True
        notices = [value for key, value in fields_of(told) if key == NOTICE]
        if self._lasting:
            self.sandbox = b"".join([value for key, value in fields_of(told) if key == SANDBOX_ID])
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
        end = offset + len(data)
        if not self.unwritable:
            self._write(stream, data[max(0, self.offsets[stream] - offset) :])
        self.offsets[stream] = end
        if end - self.acknowledged[stream] >= ACKNOWLEDGE_BYTES:
            self.acknowledged[stream] = end
            self.link.send(CONSUMED, end.to_bytes(8, "little"), flags=stream)

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

    def _exited(self, told: memoryview) -> None:
        self._leave_raw()
        self.status = EXIT_FAILURE
        for key, value in fields_of(told):
            if key == EXIT_STATUS:
                self.status = int.from_bytes(value, "little")
            elif key == MESSAGE:
                say_line(value)
        self.link.send(FORGET)

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
        inner = self.link.exec_id + number.to_bytes(4, "little") + b"\1\0\0\0"  # the whole tree
        self.link.send(SIGNAL, self.addressed(inner), about_command=False)

    def _resized(self, *_: object) -> None:
        self.link.send(RESIZE, window())

    def _give_back_signals(self) -> None:
        _signal.set_wakeup_fd(-1)
        for number, handler in self._replaced.items():
            _signal.signal(number, handler)

    def _leave_raw(self) -> None:
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            terminal.__exit__(None, None, None)  # type: ignore[attr-defined]


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
