"""Completion scripts from a list of verbs and flags; pure text. After `run` and its flags, the shell's own command completion goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

COMMAND_VERBS = ("run",)  # whose rest is a command line of its own


class Kind(Enum):
    """What follows a flag."""

    NONE = "nothing"
    WORD = "a word that only the user knows"
    CHOICE = "one of a list"
    FILE = "a file"
    DIRECTORY = "a directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag, or (without names) a positional argument with a list of values."""

    names: tuple[str, ...]
    summary: str
    kind: Kind
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb."""

    name: str
    summary: str
    flags: tuple[Flag, ...]


def bash(verbs: Sequence[Verb]) -> str:
    """A function for `complete -F`."""
    names = " ".join(verb.name for verb in verbs)
    cases = "\n".join(_bash_verb(verb) for verb in verbs)
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
_agentkernel() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}} i
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


def _bash_verb(verb: Verb) -> str:
    lines = [f"        {verb.name})"]
    valued = [flag for flag in verb.flags if flag.names and flag.kind is not Kind.NONE]
    if verb.name in COMMAND_VERBS:
        taking = " | ".join(name for flag in valued for name in flag.names)
        lines += [
            "            for (( i = 2; i < COMP_CWORD; i++ )); do  # the command starts at the first word that is no option",
            "                case ${COMP_WORDS[i]} in",
            "                    --) ((i++)); _agentkernel_command $i; return ;;",
            f"                    {taking}) ((i++)) ;;",
            "                    -*) ;;",
            "                    *) _agentkernel_command $i; return ;;",
            "                esac",
            "            done",
        ]
    lines += ["            case $prev in"]
    for flag in valued:
        lines.append(f"                {' | '.join(flag.names)}) COMPREPLY=({_bash_values(flag)}); return ;;")
    words = " ".join(
        [name for flag in verb.flags for name in flag.names] + [value for flag in verb.flags if not flag.names for value in flag.values]
    )
    lines += ["            esac"]
    if verb.name in COMMAND_VERBS:
        lines += [
            "            if [[ $cur != -* ]]; then",
            '                COMPREPLY=($(compgen -c -- "$cur"))',
            "                return",
            "            fi",
        ]
    lines += [f'            COMPREPLY=($(compgen -W "{words}" -- "$cur")) ;;']
    return "\n".join(lines)


def _bash_values(flag: Flag) -> str:
    match flag.kind:
        case Kind.CHOICE:
            return f'$(compgen -W "{" ".join(flag.values)}" -- "$cur")'
        case Kind.DIRECTORY:
            return '$(compgen -d -- "$cur")'
        case Kind.FILE:
            return '$(compgen -f -- "$cur")'
        case _:
            return ""


def zsh(verbs: Sequence[Verb]) -> str:
    """A file for $fpath."""
    described = "\n".join(f"        {_quoted(verb.name + ':' + verb.summary)}" for verb in verbs)
    cases = "\n".join(_zsh_verb(verb) for verb in verbs)
    return f"""\
#compdef agentkernel
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


def _zsh_verb(verb: Verb) -> str:
    stacked = "" if verb.name in COMMAND_VERBS else "-s "
    lines = [f"        {verb.name})", f"            _arguments -S {stacked}\\"]
    for flag in verb.flags:
        text = _zsh_text(flag.summary)
        excluded = f"({' '.join(flag.names)})" if len(flag.names) > 1 else ""
        specs = [f"{excluded or '*'}{name}[{text}]{_zsh_action(flag)}" for name in flag.names]
        lines += [f"                {_quoted(spec)} \\" for spec in specs or [f"1:{text}:({' '.join(flag.values)})"]]
    lines.append("                '(-)*::command:_normal'" if verb.name in COMMAND_VERBS else "                && return")
    return "\n".join([*lines, "            ;;"])


def _zsh_action(flag: Flag) -> str:
    match flag.kind:
        case Kind.NONE:
            return ""
        case Kind.CHOICE:
            return f":value:({' '.join(flag.values)})"
        case Kind.DIRECTORY:
            return ":directory:_files -/"
        case Kind.FILE:
            return ":file:_files"
        case Kind.WORD:
            return ":value: "


def fish(verbs: Sequence[Verb]) -> str:
    """A file for ~/.config/fish/completions."""
    lines = ["# fish completion for agentkernel", "complete -c agentkernel -f"]
    lines += [f"complete -c agentkernel -n __fish_use_subcommand -a {verb.name} -d {_quoted(verb.summary)}" for verb in verbs]
    for verb in verbs:
        seen = f"-n '__fish_seen_subcommand_from {verb.name}'"
        lines += [f"complete -c agentkernel {seen} {_fish_flag(flag)}" for flag in verb.flags]
        if verb.name in COMMAND_VERBS:
            lines.append(f"complete -c agentkernel {seen} -a '(__fish_complete_subcommand --fcs-skip=2)'")
    return "\n".join(lines) + "\n"


def _fish_flag(flag: Flag) -> str:
    words = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    match flag.kind:
        case Kind.CHOICE:
            words.append(f"{'-x ' if flag.names else ''}-a {_quoted(' '.join(flag.values))}")
        case Kind.DIRECTORY:
            words.append("-x -a '(__fish_complete_directories)'")
        case Kind.FILE:
            words.append("-r -F")
        case Kind.WORD:
            words.append("-x")
        case Kind.NONE:
            pass
    return " ".join([*words, f"-d {_quoted(flag.summary)}"])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
