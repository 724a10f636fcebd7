"""Completion for bash: a function for `complete -F`."""

from __future__ import annotations

from collections.abc import Sequence

from agentkernel.cli.shells import SANDBOXES, Flag, Kind, Rest, Verb


def bash(verbs: Sequence[Verb]) -> str:
    """The script, to be sourced."""
    names = " ".join(verb.name for verb in verbs)
    cases = "\n".join(_verb(verb) for verb in verbs)
    return f"""\
# bash completion for agentkernel
_agentkernel_command() {{  # completes the words from $1 on as a command line of its own
    if declare -F _command_offset > /dev/null; then
        _command_offset "$1"
    elif (( COMP_CWORD == $1 )); then
        COMPREPLY=($(compgen -c -- "${{COMP_WORDS[COMP_CWORD]}}"))
    else
        COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
    fi
}}
_agentkernel_sandboxes() {{  # their names, with $1 behind each
    compgen -S "$1" -W "$({SANDBOXES})" -- "${{COMP_WORDS[COMP_CWORD]}}"
}}
_agentkernel() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}} i named=0
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W "{names} help --help --version" -- "$cur"))
        return
    fi
    case $verb in
{cases}
    esac
}}
complete -o bashdefault -F _agentkernel agentkernel
"""


def _verb(verb: Verb) -> str:
    lines = [f"        {verb.name})"]
    valued = [flag for flag in verb.flags if flag.kind is not Kind.NONE]
    if verb.rest is not Rest.NONE:
        lines += _up_to_command(verb, valued)
    lines += ["            case $prev in"]
    lines += [f"                {' | '.join(flag.names)}) COMPREPLY=({_values(flag)}); return ;;" for flag in valued]
    lines += ["            esac"]
    operands = _operands(verb)
    if operands:
        lines += ["            if [[ $cur != -* ]]; then", f"                {operands}", "                return", "            fi"]
    words = " ".join([*(name for flag in verb.flags for name in flag.names), *verb.values])
    return "\n".join([*lines, f'            COMPREPLY=($(compgen -W "{words}" -- "$cur")) ;;'])


def _up_to_command(verb: Verb, valued: Sequence[Flag]) -> list[str]:
    """Leaves the rest to the shell where the command has begun: at the first word that is no option, behind the sandbox's name."""
    taking = " | ".join(name for flag in valued for name in flag.names)
    begun = "_agentkernel_command $i; return"
    if verb.rest is Rest.SANDBOX_COMMAND:
        begun = f"if (( named++ )); then {begun}; fi"
    return [
        "            for (( i = 2; i < COMP_CWORD; i++ )); do",
        "                case ${COMP_WORDS[i]} in",
        "                    --) ((i++)); _agentkernel_command $i; return ;;",
        f"                    {taking}) ((i++)) ;;",
        "                    -*) ;;",
        f"                    *) {begun} ;;",
        "                esac",
        "            done",
    ]


def _operands(verb: Verb) -> str:
    commands = 'COMPREPLY=($(compgen -c -- "$cur"))'
    match verb.rest, verb.operand:
        case Rest.COMMAND, _:
            return commands
        case Rest.SANDBOX_COMMAND, _:
            return f'if (( named )); then {commands}; else COMPREPLY=($(_agentkernel_sandboxes "")); fi'
        case _, Kind.SANDBOX:
            return 'COMPREPLY=($(_agentkernel_sandboxes ""))'
        case _ if verb.then is Kind.SANDBOX:
            first = f'COMPREPLY=($(compgen -W "{" ".join(verb.values)}" -- "$cur"))'
            return f'if (( COMP_CWORD == 2 )); then {first}; else COMPREPLY=($(_agentkernel_sandboxes "")); fi'
        case _, Kind.PLACE:
            return 'COMPREPLY=($(compgen -f -- "$cur") $(_agentkernel_sandboxes :/)); compopt -o nospace 2> /dev/null'
        case _:
            return ""


def _values(flag: Flag) -> str:
    match flag.kind:
        case Kind.CHOICE:
            return f'$(compgen -W "{" ".join(flag.values)}" -- "$cur")'
        case Kind.DIRECTORY:
            return '$(compgen -d -- "$cur")'
        case Kind.FILE:
            return '$(compgen -f -- "$cur")'
        case Kind.SANDBOX:
            return '$(_agentkernel_sandboxes "")'
        case _:
            return ""
