"""Completion for fish: a file for ~/.config/fish/completions."""

from __future__ import annotations

from collections.abc import Sequence

from agentkernel.cli.shells import SANDBOXES, Flag, Kind, Rest, Verb, quoted

_FUNCTIONS = r"""
function __agentkernel_verb -d 'whether that is the verb'
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test "$words[2]" = $argv[1]
end
function __agentkernel_operands -d 'operands so far; first: flags end at the first one; then the flags that take a value'
    set -l words (commandline -opc)
    set -l is_value no
    set -l is_over no
    for word in $words[3..-1]
        if test $is_value = yes
            set is_value no
            continue
        end
        if test "$word" = --
            set is_over yes
            continue
        end
        if test $is_over = no; and string match -q -- '-*' $word
            contains -- $word $argv[2..-1]; and set is_value yes
            continue
        end
        test $argv[1] = first; and set is_over yes
        printf '%s\n' $word
    end
end
function __agentkernel_count -d 'whether there are so many operands'
    test (count (__agentkernel_operands $argv[3..-1])) $argv[1] $argv[2]
end
function __agentkernel_command -d 'goes on as the shell would, behind so many operands'
    set -l words (__agentkernel_operands first $argv[2..-1])
    test (count $words) -ge $argv[1]; or return
    test (count $words) -eq $argv[1]; and string match -q -- '-*' (commandline -ct); and return
    set -l from (math $argv[1] + 1)
    set -l text (string join ' ' -- (string escape -- $words[$from..-1]) (commandline -ct))
    complete "--do-complete=$text"
end
"""


def fish(verbs: Sequence[Verb]) -> str:
    """The script."""
    lines = ["# fish completion for agentkernel", _FUNCTIONS.strip("\n"), "complete -c agentkernel -f"]
    lines += [f"complete -c agentkernel -n __fish_use_subcommand -a {verb.name} -d {quoted(verb.summary)}" for verb in verbs]
    for verb in verbs:
        flags = _when(verb, None if verb.rest is Rest.NONE else 0)
        lines += [f"{flags} {_flag(flag)}" for flag in verb.flags]
        lines += _operands(verb)
    return "\n".join(lines) + "\n"


def _when(verb: Verb, operands: int | None = None, *, more: bool = False) -> str:
    """A completion of that verb, where there are so many operands before, or at least so many."""
    condition = f"__agentkernel_verb {verb.name}"
    if operands is not None:
        ends = "all" if verb.rest is Rest.NONE else "first"
        condition += f"; and __agentkernel_count {' '.join(['-ge' if more else '-eq', str(operands), ends, *_with_values(verb)])}"
    return f"complete -c agentkernel -n {quoted(condition)}"


def _with_values(verb: Verb) -> list[str]:
    return [name for flag in verb.flags if flag.kind is not Kind.NONE for name in flag.names]


def _operands(verb: Verb) -> list[str]:
    sandboxes = f"-a {quoted(f'({SANDBOXES})')}"
    match verb.rest, verb.operand:
        case Rest.COMMAND, _:
            return [f"{_when(verb)} {_command(verb, 0)}"]
        case Rest.SANDBOX_COMMAND, _:
            return [f"{_when(verb, 0)} {sandboxes}", f"{_when(verb)} {_command(verb, 1)}"]
        case _, Kind.SANDBOX:
            return [f"{_when(verb)} {sandboxes}"]
        case _, Kind.PLACE:
            places = f"({SANDBOXES} | string replace -r '$' ':/')"
            return [f"{_when(verb)} -F", f"{_when(verb)} -a {quoted(places)}"]
        case _, Kind.CHOICE:
            then = [f"{_when(verb, 1, more=True)} {sandboxes}"] if verb.then is Kind.SANDBOX else []
            return [f"{_when(verb, 0)} -a {quoted(' '.join(verb.values))}", *then]
        case _:
            return []


def _command(verb: Verb, behind: int) -> str:
    return f"-a {quoted(f'(__agentkernel_command {behind} ' + ' '.join(_with_values(verb)) + ')')}"


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
