"""Completion for fish: a file for ~/.config/fish/completions."""

from __future__ import annotations

from collections.abc import Sequence

from agentkernel.cli.shells import SANDBOXES, Flag, Kind, Rest, Verb, quoted


def fish(verbs: Sequence[Verb]) -> str:
    """The script."""
    lines = ["# fish completion for agentkernel", "complete -c agentkernel -f"]
    lines += [f"complete -c agentkernel -n __fish_use_subcommand -a {verb.name} -d {quoted(verb.summary)}" for verb in verbs]
    for verb in verbs:
        seen = f"complete -c agentkernel -n '__fish_seen_subcommand_from {verb.name}'"
        lines += [f"{seen} {_flag(flag)}" for flag in verb.flags]
        lines += [f"{seen} {words}" for words in _operands(verb)]
    return "\n".join(lines) + "\n"


def _operands(verb: Verb) -> list[str]:
    sandboxes = f"-a '({SANDBOXES})'"
    match verb.rest, verb.operand:
        case Rest.COMMAND, _:
            return ["-a '(__fish_complete_subcommand --fcs-skip=2)'"]
        case Rest.SANDBOX_COMMAND, _:
            return [sandboxes, "-a '(__fish_complete_subcommand --fcs-skip=3)'"]
        case _, Kind.SANDBOX:
            return [sandboxes]
        case _, Kind.PLACE:
            return ["-F", f"-a '({SANDBOXES} | string replace -r $ :/)'"]
        case _, Kind.CHOICE:
            chosen = f"-n '__fish_seen_subcommand_from {verb.name}; and __fish_seen_subcommand_from {' '.join(verb.values)}' {sandboxes}"
            return [f"-a {quoted(' '.join(verb.values))}", *([chosen] if verb.then is Kind.SANDBOX else [])]
        case _:
            return []


def _flag(flag: Flag) -> str:
    words = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    match flag.kind:
        case Kind.CHOICE:
            words.append(f"-x -a {quoted(' '.join(flag.values))}")
        case Kind.DIRECTORY:
            words.append("-x -a '(__fish_complete_directories)'")
        case Kind.FILE:
            words.append("-r -F")
        case Kind.SANDBOX:
            words.append(f"-x -a '({SANDBOXES})'")
        case Kind.NONE:
            pass
        case _:
            words.append("-x")
    return " ".join([*words, f"-d {quoted(flag.summary)}"])
