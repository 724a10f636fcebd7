"""`agentkernel backends`: which isolation backends there are and whether they are ready."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.model.isolation import Fingerprint
from agentkernel.text.records import backend_record
from agentkernel.text.style import printable

HELP = """\
List the isolation backends of this installation in the order of the choice: ready or not, how strongly each isolates, and why one is
not ready. Each that may be here is tried anew.

  agentkernel backends
  agentkernel backends --json
  agentkernel run --backend namespaces -- id         use a particular one

Isolation, from weak to strong: process, container, user-kernel, vm-emulated, vm. `run --min-isolation LEVEL` refuses less.
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def main(args: Namespace, context: Context) -> int:
    """Probes every backend, here or where the daemon is, and lists them."""
    found = asyncio.run(_probed(context))
    if args.json:
        records = [backend_record(one) for one in found]
        sys.stdout.write(json.dumps(records, indent=2) + "\n")
        return 0
    rows = [[one.backend, "yes" if one.ready else "no", one.level.label if one.ready else "-", printable(one.reason)] for one in found]
    sys.stdout.write(table(("NAME", "READY", "ISOLATION", "REASON"), rows))
    return 0


async def _probed(context: Context) -> Sequence[Fingerprint]:
    kernel = context.client() if context.elsewhere() else context.kernel()
    try:
        return await kernel.fingerprints(local_caller())
    finally:
        await kernel.close()
