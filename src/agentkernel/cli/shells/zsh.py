"""Completion for zsh: a file for $fpath."""

from __future__ import annotations

from collections.abc import Sequence

from agentkernel.cli.shells import SANDBOXES, Flag, Kind, Rest, Verb, quoted


def zsh(verbs: Sequence[Verb]) -> str:
    """The script, as an autoloaded function or to be sourced."""
    described = "\n".join(f"        {quoted(verb.name + ':' + verb.summary)}" for verb in verbs)
    cases = "\n".join(_verb(verb) for verb in verbs)
    return f"""\
#compdef agentkernel
_agentkernel_sandboxes() {{
    local -a names
    names=(${{(f)"$({SANDBOXES})"}})
    compadd "$@" -- $names
}}
_agentkernel_places() {{
    _agentkernel_sandboxes -q -S ':/'
    _files
}}
_agentkernel_command() {{
    shift words  # the sandbox
    (( CURRENT-- ))
    _normal
}}
_agentkernel() {{
    local -a verbs
    verbs=(
{described}
    )
    if (( CURRENT == 2 )); then
        _describe verb verbs
        return
    fi
    local verb=$words[2]
    shift words
    (( CURRENT-- ))
    case $verb in
{cases}
    esac
}}
if [[ $funcstack[1] == _agentkernel ]]; then
    _agentkernel "$@"
else
    compdef _agentkernel agentkernel
fi
"""


def _verb(verb: Verb) -> str:
    stacked = "" if verb.rest is not Rest.NONE else "-s "
    lines = [f"        {verb.name})", f"            _arguments -S {stacked}\\"]
    for flag in verb.flags:
        text = _text(flag.summary)
        lines += [f"                {quoted(f'*{name}[{text}]{_action(flag)}')} \\" for name in flag.names]
    lines += [f"                {quoted(spec)} \\" for spec in _operands(verb)]
    return "\n".join([*lines, "                && return", "            ;;"])


def _operands(verb: Verb) -> list[str]:
    match verb.rest, verb.operand:
        case Rest.COMMAND, _:
            return ["(-)*::command:_normal"]
        case Rest.SANDBOX_COMMAND, _:
            return ["1:sandbox:_agentkernel_sandboxes", "(-)*::command:_agentkernel_command"]
        case _, Kind.SANDBOX:
            return ["*:sandbox:_agentkernel_sandboxes"]
        case _, Kind.PLACE:
            return ["*:place:_agentkernel_places"]
        case _, Kind.CHOICE:
            then = ["*:sandbox:_agentkernel_sandboxes"] if verb.then is Kind.SANDBOX else []
            return [f"1:{verb.name}:({' '.join(verb.values)})", *then]
        case _:
            return []


def _action(flag: Flag) -> str:
    match flag.kind:
        case Kind.NONE:
            return ""
        case Kind.CHOICE:
            return f":value:({' '.join(flag.values)})"
        case Kind.DIRECTORY:
            return ":directory:_files -/"
        case Kind.FILE:
            return ":file:_files"
        case Kind.SANDBOX:
            return ":sandbox:_agentkernel_sandboxes"
        case _:
            return ":value: "


def _text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
