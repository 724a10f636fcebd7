"""The daemon's life: takes the store, listens, serves, drains, and makes way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agentkernel import __version__
from agentkernel.abc import Host
from agentkernel.assembly import build_host, idle_exit_s, pool_settings
from agentkernel.config.daemon_process import daemon_argv, daemon_environment, own_directory
from agentkernel.config.directories import data_directory, runtime_directory, socket_path
from agentkernel.daemon.desk import Desk
from agentkernel.daemon.heap import keep_trimmed
from agentkernel.daemon.listening import Listener, listen, passed
from agentkernel.daemon.log import Log
from agentkernel.daemon.server import Server
from agentkernel.errors import AgentKernelError, Conflict

LOG: Final = "daemon.log"
PATIENCE_S: Final = 20.0  # for a daemon that drains to let go of the store
_PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it was started."""

    start_lock: int | None = None  # a descriptor, whose lock says that somebody waits for the socket
    idle_s: float | None = None  # in place of the setting
    backends: tuple[str, ...] | None = None  # in place of all


def run(options: Options) -> int:
    """Serves until it is to end; returns the exit status. Exits quietly where another daemon serves already."""
    environment = daemon_environment(os.environ)
    os.chdir("/")
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # values of secrets are in this memory, and go into no file
    try:
        listener = passed(os.environ)
        host = _take_store(environment, options, socket_path(environment) if listener is None else "")
        if host is None:
            return 0
        directory = data_directory(environment, os.geteuid())
        own_directory(runtime_directory(environment, os.geteuid()))
        listener = listener or listen(socket_path(environment))
        idle_s = idle_exit_s(environment) if options.idle_s is None else options.idle_s
    except (AgentKernelError, OSError) as error:
        sys.stderr.write(f"the daemon cannot start: {error}\n")
        return 1
    if options.start_lock is not None:
        os.close(options.start_lock)
    desk = asyncio.run(_serve(host, listener, Log(f"{directory}/{LOG}"), idle_s))
    if desk.is_replaced and listener.owned:  # else systemd starts the next one
        os.execve(sys.executable, daemon_argv(background=False), daemon_environment(environment))  # noqa: S606 - an argv
    return 0


async def _serve(host: Host, listener: Listener, log: Callable[[str], None], idle_s: float) -> Desk:
    desk = Desk(host, log)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: log(f"unexpected: {context.get('message')}: {context.get('exception')!r}"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, desk, number)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the terminal that it was started from is gone
    _raise_descriptors()
    server = Server(desk, listener, idle_s)
    await host.recover()
    server.begin()
    log(f"version {__version__} serves {listener.path}")
    gc.collect()
    gc.freeze()  # what is there now stays; the collector need not look at it again
    trimming = asyncio.create_task(keep_trimmed())
    await desk.ending()
    trimming.cancel()
    await server.drain()
    await host.close()
    log("ended")
    return desk


def _end(desk: Desk, number: signal.Signals) -> None:
    """Ends in good order; at the second signal at once, as by a crash, which loses nothing."""
    if desk.is_ending:
        os._exit(128 + number)
    desk.end(f"signal {number.name}")


def _take_store(environment: Mapping[str, str], options: Options, path: str) -> Host | None:
    """The engine, once no other process has the store; None where one that serves has it.

    Raises:
        Conflict: a process has it that does not serve.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return build_host(environment, backends=options.backends, pool=pool_settings(environment))
        except Conflict:
            if path and _serves(path):
                return None
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_S)


def _serves(path: str) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
    return True


def _raise_descriptors() -> None:
    """A client and a sandbox take some descriptors each; the soft limit is 1,024 only for the sake of select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
