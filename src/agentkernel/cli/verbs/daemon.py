"""`agentkernel daemon`: the process that keeps sandboxes."""

from __future__ import annotations

import os
import select
import sys
from argparse import ArgumentParser, Namespace

from agentkernel import __version__
from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.cli.show import age, moment, print_json
from agentkernel.config.daemon_process import daemon_argv, spawn
from agentkernel.config.directories import data_directory, socket_path
from agentkernel.errors import Busy, DaemonUnavailable
from agentkernel.model.record import PoolState
from agentkernel.text.records import status_record
from agentkernel.units import format_size

HELP = """\
The daemon keeps the sandboxes of this user. It is started when it is needed and ends when there is nothing to keep; these are for looking
after it.

  agentkernel daemon status
  agentkernel daemon stop        it ends when what it is doing is done; sandboxes and background commands go on, and the next one keeps them
  agentkernel daemon start
  agentkernel daemon start --foreground       for a service manager (see deploy/)

Where AGENTKERNEL_HOST names a daemon elsewhere, `status` is about that one, and the others are refused.
Exit status of `status`: 0 when it runs, 1 when it does not.
"""

_STOP_S = 60.0
EXIT_NOT_RUNNING = 1


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("what", choices=("start", "stop", "status"), help="what to do")
    parser.add_argument("--foreground", action="store_true", help="start: be the daemon, and stay")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: Namespace, context: Context) -> int:
    """Does it."""
    if args.what == "status":
        return _status(args, context)
    context.here(f"`agentkernel daemon {args.what}` is about this machine's daemon")
    return _start(args, context) if args.what == "start" else _stop(args, context)


def _start(args: Namespace, context: Context) -> int:
    if args.foreground:
        argv = daemon_argv(background=False)
        os.execv(argv[0], argv)  # noqa: S606 - this very package, by the same interpreter
    spawn(context.environment)
    return _status(args, context)


def _stop(args: Namespace, context: Context) -> int:
    try:
        with context.running_daemon() as calls:
            status = calls.status()
            process = os.pidfd_open(status.pid)
            calls.drain()
    except DaemonUnavailable:
        _say(args, stopped=False, pid=None)
        return 0
    try:
        if not select.select([process], [], [], _STOP_S)[0]:
            raise Busy(f"the daemon (pid {status.pid}) is still at work after {_STOP_S:g} s", hint="it ends when that is done")
    finally:
        os.close(process)
    _say(args, stopped=True, pid=status.pid)
    return 0


def _say(args: Namespace, *, stopped: bool, pid: int | None) -> None:
    if args.json:
        print_json({"stopped": stopped, "pid": pid})
    else:
        sys.stdout.write(f"stopped (pid {pid})\n" if stopped else "not running\n")


def _status(args: Namespace, context: Context) -> int:
    url = context.elsewhere()
    places = {"host": url} if url else _places(context)
    try:
        with context.running_daemon() as calls:
            status = calls.status()
    except DaemonUnavailable:
        if args.json:
            print_json({"running": False, **places})
        else:
            sys.stdout.write("not running\n")
        return EXIT_NOT_RUNNING
    if args.json:
        print_json(status_record(status) | places)
        return 0
    version = status.version if status.version == __version__ else f"{status.version} (this is {__version__})"
    lines = (
        ("status", "running"),
        ("version", version),
        ("pid", str(status.pid)),
        ("up for", f"{age(status.started_at)} (since {moment(status.started_at)})"),
        ("memory", format_size(status.rss_bytes)),
        ("sandboxes", f"{status.sandboxes}, {status.running} running"),
        ("clients", str(status.clients)),
        ("operations", f"{status.busy} under way, {status.queued} waiting"),
        *places.items(),
    )
    sys.stdout.write("".join(f"{name.ljust(10)}  {value}\n" for name, value in lines))
    if status.pools:
        sys.stdout.write("\n" + _pools(status.pools))
    return 0


def _places(context: Context) -> dict[str, str]:
    log = f"{data_directory(context.environment, os.geteuid())}/daemon.log"
    return {"socket": socket_path(context.environment), "log": log}


def _pools(pools: tuple[PoolState, ...]) -> str:
    rows = []
    for pool in pools:
        stock, bounds = f"{pool.ready} (+{pool.making})", f"{pool.minimum}-{pool.maximum}"
        rows.append((pool.backend, pool.image, pool.profile, stock, bounds, str(pool.hits), str(pool.misses), pool.reason))
    return table(("POOL", "IMAGE", "PROFILE", "READY", "SIZE", "HITS", "MISSES", ""), rows)
