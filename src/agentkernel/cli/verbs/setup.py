"""`agentkernel setup`: what is there, what is missing, and the exact command that gets it. It installs what is named, after asking."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.getting import install, way_to_gvisor
from agentkernel.cli.host import Fact, compiler, guest_binary, user_namespaces
from agentkernel.cli.output import say, table
from agentkernel.errors import InvalidInput, SandboxFailed
from agentkernel.model.isolation import Fingerprint
from agentkernel.text.style import printable

HELP = """\
Say what is installed, what is missing and the exact command that gets it. Nothing is installed or changed
unless you name it and agree.

  agentkernel setup              what to do now, if anything
  agentkernel setup gvisor       install gVisor by the package manager, after asking; or the exact steps
  agentkernel setup gvisor --yes the same without asking
  agentkernel setup --check      the whole list; exit status 1 when something needed is missing
  agentkernel setup --check --json
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("what", nargs="?", choices=("gvisor",), metavar="gvisor", help="what to install")
    parser.add_argument("--yes", action="store_true", help="install without asking")
    parser.add_argument("--check", action="store_true", help="list everything, also what is there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: Namespace, context: Context) -> int:
    """Checks; returns 0 when a sandbox can be made here, or when what was asked for is installed."""
    if args.what is not None and args.json:
        raise InvalidInput("--json is for what is here and what is missing", hint="agentkernel setup --json")
    if args.yes and args.what is None:
        raise InvalidInput("--yes is for what is to be installed", hint="agentkernel setup gvisor --yes")
    if url := context.elsewhere():
        say("note", "this is about the machine here", f"`agentkernel backends` asks {url}", context.environment)
    found = asyncio.run(context.kernel().fingerprints(local_caller()))
    if args.what is not None:
        return _gvisor(found, agreed=args.yes)
    parts = _parts(found)
    ready = any(one.ready for one in found)
    if args.json:
        records = [{"name": part.name, "state": part.value, "ok": part.good, "install": part.remedy} for part in parts]
        sys.stdout.write(json.dumps({"ready": ready, "parts": records}, indent=2) + "\n")
    elif args.check:
        rows = [[part.name, "ok" if part.good else "missing", printable(part.value), part.remedy] for part in parts]
        sys.stdout.write(table(("PART", "STATE", "DETAIL", "INSTALL"), rows))
    elif ready:
        names = ", ".join(one.backend for one in found if one.ready)
        sys.stdout.write(f"There is nothing to install: {names} works here. Try: agentkernel run -- echo hello\n")
        if not _has_gvisor(found):
            sys.stdout.write("Stronger isolation, without hardware for it: agentkernel setup gvisor\n")
    else:
        remedies = dict.fromkeys(part.remedy for part in parts if part.remedy and not part.good)
        sys.stdout.write("No backend can run here yet. To get one:\n" + "".join(f"  {remedy}\n" for remedy in remedies))
    return 0 if ready else 1


def _has_gvisor(found: Sequence[Fingerprint]) -> bool:
    return any(one.ready for one in found if one.backend == "gvisor")


def _gvisor(found: Sequence[Fingerprint], *, agreed: bool) -> int:
    if _has_gvisor(found):
        sys.stdout.write("gVisor is installed, and works here: agentkernel run --backend gvisor -- dmesg\n")
        return 0
    return _install(agreed=agreed)


def _install(*, agreed: bool) -> int:
    way = way_to_gvisor()
    may = bool(way.commands) and os.geteuid() == 0
    sys.stdout.write("To get gVisor:\n" + "".join(f"  {step}\n" for step in way.steps))
    if not may:
        sys.stdout.write("Then `agentkernel backends` tells whether it works here.\n")
        return 1
    if not (agreed or _agrees()):
        return 1
    sys.stdout.flush()
    if not install(way):
        raise SandboxFailed("the package manager could not install gVisor", hint="see what it said above")
    sys.stdout.write("gVisor is installed. `agentkernel backends` tells whether it works here.\n")
    return 0


def _agrees() -> bool:
    """Whether the person at the terminal says yes; nobody there is no."""
    if not sys.stdin.isatty():
        sys.stdout.write("Nothing was done: say --yes to have it done.\n")
        return False
    sys.stdout.write("Do that now? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _parts(found: Sequence[Fingerprint]) -> list[Fact]:
    """What a sandbox needs. A missing compiler matters only where the guest binary has to be built."""
    guest = guest_binary()
    build = compiler()
    if guest.good and not build.good:
        build = Fact(name=build.name, value="none, and none is needed: the guest binary is there")
    backends = [
        Fact(name=f"backend {one.backend}", value="ready" if one.ready else one.reason, good=one.ready, remedy=one.remedy) for one in found
    ]
    return [guest, build, user_namespaces(), *backends]
