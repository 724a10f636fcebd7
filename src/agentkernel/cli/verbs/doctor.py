"""`agentkernel doctor`: what this host can do, proven by doing it, and what would make it better."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from agentkernel import __version__
from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.host import Fact, facts
from agentkernel.cli.output import say
from agentkernel.model.isolation import Feature, Fingerprint, Provision, Support
from agentkernel.text.records import backend_record, features_record
from agentkernel.text.style import BOLD, DIM, GREEN, RED, YELLOW, colourful, paint, printable

HELP = """\
Say what this host can do: every backend builds a real sandbox and reports what it got, feature by feature.

  agentkernel doctor
  agentkernel doctor --json

native: the host does it.  emulated: done in another, weaker way, which is named.  refused: a request for it is an error.
Exit status: 0 when at least one backend is ready, else 1.
"""

_COLOURS = {Support.NATIVE: GREEN, Support.EMULATED: YELLOW, Support.REFUSED: RED}


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: Namespace, context: Context) -> int:
    """Probes, reads, reports."""
    if url := context.elsewhere():
        say("note", "this is about the machine here", f"`agentkernel backends` asks {url}", context.environment)
    found = asyncio.run(context.kernel().fingerprints(local_caller()))
    host = facts()
    ready = any(one.ready for one in found)
    if args.json:
        record = {
            "version": __version__,
            "ready": ready,
            "host": {fact.name: {"value": fact.value, "good": fact.good, "remedy": fact.remedy} for fact in host},
            "backends": [backend_record(one) | features_record(one) for one in found],
        }
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
    else:
        colours = colourful(sys.stdout.isatty(), context.environment)
        lines = [*_host(host, colours), "", *(line for one in found for line in (*_backend(one, colours), ""))]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.write(_verdict(found, colours) + "\n")
    return 0 if ready else 1


def _host(host: Sequence[Fact], colours: bool) -> list[str]:
    width = max(len(fact.name) for fact in host)
    lines = [paint("Host", BOLD, colours)]
    for fact in host:
        value = printable(fact.value)
        lines.append(f"  {fact.name.ljust(width)}  {value if fact.good else paint(value, YELLOW, colours)}")
        if fact.remedy:
            lines.append(f"  {' ' * width}  {paint('to do: ' + fact.remedy, DIM, colours)}")
    return lines


def _backend(found: Fingerprint, colours: bool) -> list[str]:
    state = paint("ready", GREEN, colours) if found.ready else paint("not ready", RED, colours)
    lines = [f"{paint('Backend ' + found.backend, BOLD, colours)}: {state}{f', isolation {found.level.label}' if found.ready else ''}"]
    if not found.ready:
        lines.append(f"  {printable(found.reason)}")
        lines += [f"  {paint('to do: ' + printable(found.remedy), DIM, colours)}"] if found.remedy else []
        return lines
    width = max(len(feature.value) for feature in Feature)
    for feature in Feature:
        provision = found.features.get(feature, Provision(support=Support.REFUSED, reason="not provided by this backend"))
        reason = f"  {printable(provision.reason)}" if provision.reason else ""
        support = paint(provision.support.value.ljust(8), _COLOURS[provision.support], colours)
        lines.append(f"  {feature.value.ljust(width)}  {support}{reason}".rstrip())
        if provision.remedy and provision.support is not Support.NATIVE:
            lines.append(f"  {' ' * width}            {paint('to do: ' + printable(provision.remedy), DIM, colours)}")
    if found.runtimes:
        lines.append(f"  runtimes: {', '.join(f'{printable(each.name)} ({each.level.label})' for each in found.runtimes)}")
    for each in found.runtimes:
        lines += [
            f"  with {printable(each.name)}: {feature.value} {provision.support.value}  {printable(provision.reason)}".rstrip()
            for feature, provision in each.features.items()
        ]
    lines += [f"  {name}: {printable(value)}" for name, value in found.details.items()]
    return lines


def _verdict(found: Sequence[Fingerprint], colours: bool) -> str:
    names = [one.backend for one in found if one.ready]
    if names:
        return paint(f"Ready: agentkernel run works here, with {', '.join(names)}.", GREEN, colours)
    return paint("Not ready: no backend can run here; see `to do` above.", RED, colours)
