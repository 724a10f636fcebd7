"""What is said about a sandbox's network: where its ports listen, and what was refused while a command failed."""

from __future__ import annotations

from collections.abc import Sequence

from agentkernel.model.decisions import MAX_DENIALS
from agentkernel.model.network import Decision, PublishedPort
from agentkernel.model.ports import address_text
from agentkernel.model.request import Notice
from agentkernel.text.outcome import Line

_WITHOUT_SAYING = (80, 443)  # ports of a rule that names none
_NO_RULE = "none"  # what refused it, where nothing but a rule that allows is missing


def listening(port: PublishedPort) -> Notice:
    """Where a published port is reached."""
    return Notice(code="published-port", message=f"port {port.port} of the sandbox is at {address_text(port)}")


def denials(denied: Sequence[Decision], sandbox: str) -> list[Line]:
    """One line about attempts that the rules refused; none when there were none. At most `MAX_DENIALS` are given."""
    if not denied:
        return []
    told = [decision for decision in denied if decision.host]
    first = told[0] if told else denied[0]
    is_all = len(denied) < MAX_DENIALS and len(told) == len(denied)
    count = _count(len(told), is_all)
    verb, place = ("was", "to") if is_all and len(told) == 1 else ("were", "the first to")
    rule = f" (rule: {first.rule})" if first.rule else ""
    where = f", {place} {_destination(first)}{rule}" if told else ""
    hint = f"`agentkernel network log {sandbox}` tells all"
    if first.rule == _NO_RULE:
        hint = f"--allow-host {_rule_for(first)} allows it; {hint}"
    return [Line("note", f"{count} to reach the network {verb} refused{where}", hint)]


def _destination(decision: Decision) -> str:
    host = f"[{decision.host}]" if ":" in decision.host else decision.host
    return f"{host}:{decision.port}" if decision.port else decision.host


def _rule_for(decision: Decision) -> str:
    return decision.host if decision.port in (0, *_WITHOUT_SAYING) else _destination(decision)


def _count(told: int, is_all: bool) -> str:
    if is_all:
        return "an attempt" if told == 1 else f"{told} attempts"
    return f"{told} or more attempts" if told else "attempts"
