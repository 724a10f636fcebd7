"""`agentkernel create`: a sandbox that lives on until it is removed."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.fetching import fetching
from agentkernel.cli.output import say
from agentkernel.cli.show import parse_labels, print_json
from agentkernel.client.calls import Calls
from agentkernel.config.load import load_settings
from agentkernel.config.request import request_from_settings
from agentkernel.config.table import add_arguments, flags_given
from agentkernel.errors import AgentKernelError
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import SandboxRequest
from agentkernel.text.network import listening
from agentkernel.text.records import notice_record, sandbox_record
from agentkernel.text.said import state_directory, unsaid
from agentkernel.units import parse_duration

HELP = """\
Make a sandbox that lives on: its files stay when it is stopped, and until it is removed. Prints its name.

  agentkernel create box                                then: agentkernel start box; agentkernel exec box ls
  agentkernel create box --start                        start it as well
  agentkernel create --profile restrictive --memory 1g  a name is made up
  agentkernel create ci --label job=7 --ttl 1h          removed an hour from now
  agentkernel create dev --idle 30m                     stopped after half an hour without use
  agentkernel create web -p 8080:80 --start             port 80 inside at 127.0.0.1:8080, whenever it runs
  agentkernel create db --image postgres:17 --start     an image of a registry

Without NAME the project's sandbox.name is taken. The other options are those of `run`, and hold for every command in it.
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the settings of the table, and what a lasting sandbox has beyond them."""
    parser.usage = "agentkernel create [NAME] [OPTION...]"
    parser.add_argument("name", nargs="?", default=None, metavar="NAME", help="letters, digits, hyphens and underscores")
    add_arguments(parser, "create")
    parser.add_argument("-l", "--label", action="append", default=[], metavar="KEY=VALUE", help="label to find it by (repeatable)")
    parser.add_argument("--ttl", default="0", metavar="TIME", help="remove it so long after now, such as 1h; 0 is never")
    parser.add_argument("--idle", default="0", metavar="TIME", help="stop it after so long without use; 0 is never")
    parser.add_argument("--start", action="store_true", help="start it as well")
    parser.add_argument("-q", "--quiet", action="store_true", help="no notes about what the policy decided")
    parser.add_argument("--json", action="store_true", help="print the sandbox as one JSON object")


def main(args: Namespace, context: Context) -> int:
    """Makes it."""
    cwd = context.cwd()
    settings = load_settings(cwd=cwd, config_path=args.config, environment=context.environment, flags=flags_given(args))
    request = request_from_settings(settings, argv=(), cwd=cwd, environment=context.environment)
    options = CreateOptions(
        name=args.name if args.name is not None else settings.get("sandbox.name"),
        labels=parse_labels(args.label),
        ttl_s=parse_duration(args.ttl) or None,
        idle_s=parse_duration(args.idle) or None,
        start=args.start,
    )
    with context.calls("create") as calls:
        if _fetches(calls, request):
            request = asyncio.run(_with_image(context, request, quietly=args.quiet or args.json))
        info = calls.create(request, options)
    if args.json:
        notices = [notice_record(notice) for notice in info.notices]
        print_json(sandbox_record(info) | {"notices": notices})
        return 0
    if not args.quiet:
        for notice in (*unsaid(info.notices, state_directory(context.environment)), *map(listening, info.ports)):
            say("note", notice.message, notice.hint, context.environment)
    sys.stdout.write(f"{info.name}\n")
    return 0


def _fetches(calls: Calls, request: SandboxRequest) -> bool:
    """Whether its image must be fetched first; where policy says no, `create` is told why."""
    try:
        return calls.grant(request).fetches
    except AgentKernelError:
        return False


async def _with_image(context: Context, request: SandboxRequest, *, quietly: bool) -> SandboxRequest:
    kernel = context.client()
    try:
        return await fetching(context.environment, quietly=quietly)(kernel, local_caller(), request)
    finally:
        await kernel.close()
