"""`agentkernel network`: who a sandbox may talk to, and whom it has tried to reach."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace

from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.cli.show import base_text, moment, parse_since, print_json
from agentkernel.client.calls import Calls
from agentkernel.config.parsing import Parser
from agentkernel.errors import InvalidInput, NotFound
from agentkernel.model.decisions import KINDS, decisions_of
from agentkernel.model.network import Decision, EgressChange, EgressRules, Rule, Verdict
from agentkernel.model.record import EventFilter
from agentkernel.model.rules import parse_rule
from agentkernel.text.records import decision_record, rules_record
from agentkernel.text.style import printable

HELP = """\
Show and change who a sandbox may talk to, and see whom it has tried to reach.

  agentkernel network show box                           the rules
  agentkernel network allow box example.com              ports 80 and 443 of that very name
  agentkernel network allow box '*.example.com:8443'     of every name below example.com
  agentkernel network allow box db.example.com:5432      any other protocol, through SOCKS
  agentkernel network allow box 10.0.0.0/8:22            private addresses are reached by their range alone
  agentkernel network deny box tracker.example           a denial wins over a permission
  agentkernel network forget box tracker.example         drops a rule, whichever it is
  agentkernel network log box --denied                   what was refused, by which rule, and why
  agentkernel network log box --follow

Rules hold at once, for new connections, and stay with the sandbox; open connections that are denied end. Where no rule says
anything, the default holds: the public internet, or nothing (--only-hosts). --no-network gives a sandbox none at all, and
for good. `log` also knows sandboxes of `run` that are gone. docs/network.md has the details.
"""

_CHANGES = ("allow", "deny", "forget")
_HEADERS = ("TIME", "VERDICT", "PROTOCOL", "HOST", "PORT", "RULE", "REASON")
_WIDTHS = (24, 7, 11, 32, 5, 24)  # of what is followed, where the longest is not known
_PAGE = 500


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    if isinstance(parser, Parser):
        parser.intermixes = True
    parser.usage = "agentkernel network (show | allow | deny | forget | log) NAME [HOST...]"
    parser.add_argument("what", choices=("show", *_CHANGES, "log"), help="what to do")
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument(
        "hosts",
        nargs="*",
        default=[],
        metavar="HOST",
        help="domain, *.domain or address range, and ports: example.com, *.example.com:443,8443",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="log: go on with what happens")
    parser.add_argument("--denied", action="store_true", help="log: only what was refused")
    parser.add_argument("--since", default=None, metavar="TIME", help="log: 10m (ago), 2026-01-31T12:00:00 or @UNIX-SECONDS")
    parser.add_argument("--json", action="store_true", help="print the rules as one JSON object, the log as JSON lines")


def main(args: Namespace, context: Context) -> int:
    """Shows the rules, after a change the new ones; or the log."""
    _check(args)
    if args.what == "log":
        with context.calls("network") as calls:
            _print_log(args, calls)
        return 0
    rules = tuple(parse_rule(word) for word in args.hosts)
    with context.calls("network") as calls:
        found = calls.network(args.name) if args.what == "show" else calls.network_changed(args.name, _change(args.what, rules))
    if args.json:
        print_json(rules_record(found))
    else:
        sys.stdout.write(rules_table(found))
    return 0


def rules_table(rules: EgressRules) -> str:
    """RULE HOST PORTS, with what holds otherwise at the end."""
    rows = [("deny", rule.host, _ports(rule, "all")) for rule in rules.deny]
    rows += [("allow", rule.host, _ports(rule, "80,443")) for rule in rules.allow]
    rows += [("private", rule.host, _ports(rule, "80,443")) for rule in rules.private]
    return table(("RULE", "HOST", "PORTS"), [*rows, ("default", base_text(rules.base), "")])


def _check(args: Namespace) -> None:
    if args.what in _CHANGES and not args.hosts:
        raise InvalidInput(
            f"which hosts? `network {args.what}` wants at least one", hint=f"agentkernel network {args.what} NAME example.com"
        )
    if args.what not in _CHANGES and args.hosts:
        raise InvalidInput(f"`network {args.what}` takes no hosts", hint=f"agentkernel network allow {args.name} {args.hosts[0]}")
    if args.what != "log" and (args.follow or args.denied or args.since is not None):
        raise InvalidInput("--follow, --denied and --since go with `network log`", hint=f"agentkernel network log {args.name}")


def _change(what: str, rules: tuple[Rule, ...]) -> EgressChange:
    match what:
        case "allow":
            return EgressChange(allow=rules)
        case "deny":
            return EgressChange(deny=rules)
        case _:
            return EgressChange(remove=rules)


def _ports(rule: Rule, unsaid: str) -> str:
    return ",".join(map(str, rule.ports)) or unsaid


def _print_log(args: Namespace, calls: Calls) -> None:
    if args.json:
        for decision in _decisions(args, calls):
            sys.stdout.write(json.dumps(decision_record(decision)) + "\n")
            if args.follow:
                sys.stdout.flush()
    elif args.follow:
        _print_line(_HEADERS)
        for decision in _decisions(args, calls):
            _print_line(_row(decision))
    else:
        rows = [_row(decision) for decision in _decisions(args, calls)]
        if rows:
            sys.stdout.write(table(_HEADERS, rows))
        else:
            sys.stderr.write("Nothing was refused.\n" if args.denied else "It has not tried to reach anything.\n")


def _decisions(args: Namespace, calls: Calls) -> Iterator[Decision]:
    """Of the sandbox, or where there is none of that name or id any more, of those that had it."""
    wanted = EventFilter(sandbox=args.name, kinds=KINDS, since=parse_since(args.since), limit=_PAGE)
    try:
        wanted = replace(wanted, sandbox=calls.info(args.name).sandbox_id)
    except NotFound:
        if not any(True for _ in calls.events(EventFilter(sandbox=args.name, limit=1))):
            raise
    for event in calls.events(wanted, follow=args.follow):
        yield from decisions_of(event, Verdict.DENIED if args.denied else None)


def _row(decision: Decision) -> tuple[str, ...]:
    return (
        moment(decision.at),
        decision.verdict.value,
        printable(decision.protocol),
        printable(decision.host),
        str(decision.port or ""),
        printable(decision.rule),
        printable(decision.reason),
    )


def _print_line(cells: Sequence[str]) -> None:
    """One row by itself, at once."""
    *aligned, last = cells
    sys.stdout.write("  ".join([*(cell.ljust(width) for cell, width in zip(aligned, _WIDTHS, strict=True)), last]).rstrip() + "\n")
    sys.stdout.flush()
