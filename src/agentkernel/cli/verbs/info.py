"""`agentkernel info`: one sandbox, in full."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.host import upstream_proxy
from agentkernel.cli.show import age, base_text, moment, print_json
from agentkernel.model.network import EgressRules
from agentkernel.model.ports import address_text
from agentkernel.model.record import SandboxInfo
from agentkernel.model.spec import NetworkMode
from agentkernel.text.records import rules_record, sandbox_record
from agentkernel.text.style import printable
from agentkernel.units import format_duration

HELP = """\
Describe a sandbox.

  agentkernel info box
  agentkernel info box --json
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: Namespace, context: Context) -> int:
    """Describes it."""
    with context.calls("info") as calls:
        info = calls.info(args.name)
        rules = calls.network(info.sandbox_id) if info.network is NetworkMode.FILTERED else None
    if args.json:
        print_json(sandbox_record(info) | {"rules": None if rules is None else rules_record(rules)})
        return 0
    lines = [(name, printable(value)) for name, value in [*_lines(info), *_network(info, rules)] if value]
    width = max(len(name) for name, _ in lines)
    sys.stdout.write("".join(f"{name.ljust(width)}  {value}\n" for name, value in lines))
    return 0


def _lines(info: SandboxInfo) -> list[tuple[str, str]]:
    return [
        ("name", info.name),
        ("id", info.sandbox_id),
        ("status", f"{info.status.value} ({info.reason})" if info.reason else info.status.value),
        ("backend", info.backend),
        ("isolation", info.isolation.label),
        ("image", info.image),
        ("profile", info.profile),
        ("owner", info.owner),
        ("labels", ", ".join(f"{key}={value}" for key, value in info.labels)),
        ("created", _time(info.created_at)),
        ("started", _time(info.started_at)),
        ("last used", _time(info.used_at)),
        ("expires", moment(info.expires_at) if info.expires_at is not None else ""),
        ("stops after", f"{format_duration(info.idle_s)} without use" if info.idle_s is not None else ""),
    ]


def _network(info: SandboxInfo, rules: EgressRules | None) -> list[tuple[str, str]]:
    mode = info.network.value if rules is None else f"{info.network.value}, by default {base_text(rules.base)}"
    lines = [("network", mode)]
    if rules is not None:
        lines += [(fact.name, fact.value) for fact in upstream_proxy()]
        lines += [
            (name, " ".join(map(str, found)))
            for name, found in (("allowed", rules.allow), ("denied", rules.deny), ("private", rules.private))
        ]
    return [*lines, ("ports", ", ".join(f"{port.port} at {address_text(port)}" for port in info.ports))]


def _time(at: float | None) -> str:
    return f"{moment(at)} ({age(at)} ago)" if at else ""
