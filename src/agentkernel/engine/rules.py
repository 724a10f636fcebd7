"""Changing a sandbox's egress rules while it exists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agentkernel.errors import InvalidInput
from agentkernel.model.network import EgressChange, EgressRules, Rule
from agentkernel.model.rules import parse_rule
from agentkernel.policy.network import MAX_CHARACTERS, MAX_RULES


def changed(rules: EgressRules, change: EgressChange) -> EgressRules:
    """The rules after a change: what is removed goes first, and what is added takes the place of the very same rule on the other side.

    Raises:
        InvalidInput: a rule is none, or there are too many.
    """
    remove, allow, deny = (_checked(part) for part in (change.remove, change.allow, change.deny))
    if not {*allow}.isdisjoint(deny):
        raise InvalidInput("the same rule is to be allowed and denied", hint="say one of them")
    after = replace(
        rules,
        allow=_with(rules.allow, allow, without={*remove, *deny}),
        deny=_with(rules.deny, deny, without={*remove, *allow}),
        private=_with(rules.private, (), without=set(remove)),
    )
    every = (*after.allow, *after.deny, *after.private)
    if len(every) > MAX_RULES or sum(len(str(rule)) for rule in every) > MAX_CHARACTERS:
        raise InvalidInput(f"these would be {len(every)} rules, which is too much", hint="remove some, or name a suffix or a range")
    return after


def described(change: EgressChange) -> tuple[tuple[str, str], ...]:
    """A change as the audit trail tells it."""
    parts = (("allow", change.allow), ("deny", change.deny), ("remove", change.remove))
    return tuple((name, " ".join(map(str, rules))) for name, rules in parts if rules)


def _checked(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules as they are compared, whoever made them."""
    return tuple(parse_rule(str(rule)) for rule in rules)


def _with(rules: tuple[Rule, ...], more: tuple[Rule, ...], *, without: set[Rule]) -> tuple[Rule, ...]:
    return tuple(dict.fromkeys((*(rule for rule in rules if rule not in without), *more)))
