"""`agentkernel run`: one command in a sandbox of its own."""

from __future__ import annotations

from argparse import Namespace

from agentkernel.cli import hot
from agentkernel.cli.console import console_of
from agentkernel.cli.context import Context
from agentkernel.cli.execute import execute
from agentkernel.cli.fetching import fetching
from agentkernel.cli.output import say
from agentkernel.cli.place import Place, made_for_it, made_to_last
from agentkernel.config.invocation import Invocation, configure_run, read_run
from agentkernel.errors import DaemonUnavailable
from agentkernel.model.request import Notice
from agentkernel.text.said import state_directory, unsaid

HELP = """\
Run one command in a sandbox of its own; the sandbox is gone when the command ends, unless --keep is given.

  agentkernel run python3 -c "print('hello')"
  agentkernel run npm test                              on a private copy of this project
  agentkernel run --profile restrictive python3 job.py  sees job.py, nothing else, no network
  agentkernel run --dir src -- cargo build              another directory at /workspace
  agentkernel run -w /tmp -- tar x                      where in the sandbox it runs
  agentkernel run -e API_URL=http://x --timeout 30s make check
  make report | agentkernel run -- jq .name > name.txt  works in pipelines
  agentkernel run bash                                  an interactive shell
  agentkernel run --json -- ls -la                      the result as one JSON object
  agentkernel run --allow-host 10.1.2.3:5432 psql       what it may reach besides; also --deny-host, --only-hosts
  agentkernel run -p 8080:8000 python3 -m http.server   a port inside at 127.0.0.1:8080 of this host
  agentkernel run --keep --name box make                the sandbox stays: agentkernel exec box ...
  agentkernel run --image python:3.13 -- python3 -V     an image of a registry, fetched when it is not here
  agentkernel run --image redis                         its own command; --entrypoint PROGRAM replaces what it starts
  agentkernel run --backend docker --runtime runsc -- dmesg

Options end at the first word that is not one: what follows is the command and its own arguments. `--` makes that plain.

Exit status: the command's own, 128+n when signal n ended it; 124 timed out, 125 agentkernel failed, 126 cannot be
executed, 127 not found, 2 wrong arguments, 130 Ctrl-C, 141 the reader of the output went away.

Notes about what the policy decided are said once per user; --quiet silences them, --json always lists them.
"""


configure = configure_run


def main(args: Namespace, context: Context) -> int:
    """Runs it; returns what the process exits with."""
    wanted = read_run(args, console_of(context))
    if wanted.keep and not wanted.daemon:
        raise DaemonUnavailable("--keep needs the daemon, which keeps sandboxes", hint="leave --no-daemon out")
    if not wanted.daemon:
        context.here("without a daemon it runs here")
    behind_daemon = wanted.daemon and (wanted.keep or _daemon_answers(wanted, context))
    return execute(wanted, _place(wanted, context), context, context.client() if behind_daemon else context.kernel())


def _place(wanted: Invocation, context: Context) -> Place:
    assert wanted.request is not None  # noqa: S101 - what `run` asks for
    fetch = fetching(context.environment, quietly=wanted.quiet or wanted.json)
    if not wanted.keep:
        return made_for_it(wanted.request, fetch)

    def told(name: str) -> None:
        if not wanted.quiet and not wanted.json:
            say("note", f"the sandbox {name} stays", f"agentkernel exec {name} ...; agentkernel remove --force {name}", context.environment)

    return made_to_last(wanted.request, fetch, told)


def _daemon_answers(wanted: Invocation, context: Context) -> bool:
    """Whether one can be had; where it cannot, a run does without, and says so once."""
    try:
        if hot.no_daemon is not None:
            raise hot.no_daemon
        with context.calls("run") as calls:
            calls.connect()
    except DaemonUnavailable as error:
        if context.elsewhere():
            raise
        lack = Notice(code="no-daemon", message=f"this runs without a daemon: {error.message}", hint=error.hint)
        for notice in unsaid([lack], state_directory(context.environment)) if not (wanted.quiet or wanted.json) else ():
            say("note", notice.message, notice.hint, context.environment)
        return False
    return True
