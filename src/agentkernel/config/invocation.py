"""The words of `run` and `exec`, parsed into what they ask for: by the command line itself, or by the daemon for the hot path."""

from __future__ import annotations

import os
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from agentkernel.config.console import Console
from agentkernel.config.load import Settings, load_settings, settings_of_flags, users_settings
from agentkernel.config.parsing import Parser, parse
from agentkernel.config.request import given_environment, passes_environment, request_from_settings
from agentkernel.config.table import add_arguments, flags_given
from agentkernel.errors import Conflict, DaemonUnavailable, InvalidInput
from agentkernel.model.command import Command
from agentkernel.model.names import validate_inside_path
from agentkernel.model.request import SandboxRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What the words ask for: of `run` a request, of `exec` the name or id of a sandbox; and the command."""

    verb: str
    command: Command
    request: SandboxRequest | None = None
    sandbox: str = ""
    backend: str | None = None  # exec: the one that the sandbox must be of
    quiet: bool = False  # no notes
    json: bool = False  # the result as one JSON object
    keep: bool = False  # run: the sandbox stays
    daemon: bool = True  # False: in process


def read_words(words: Sequence[str], console: Console) -> Invocation:
    """Parses the words of the hot path; prints nothing and never exits.

    Raises:
        UnknownKey, InvalidInput, NotTrusted: as the verbs do.
        DaemonUnavailable: the words want what only the caller's own process can do: a sandbox in process, or its whole environment.
    """
    verb = words[0] if words else ""
    if verb not in _READERS:
        raise InvalidInput(f"{verb!r} is no verb of the hot path")
    configure, read = _READERS[verb]
    found = read(parse(_parser(verb, configure), words[1:]), console)
    if not found.daemon:
        raise DaemonUnavailable("the settings say that no daemon is to be used", hint="--daemon")
    return found


def check_backend(wanted: str | None, actual: str, sandbox: str) -> None:
    """A sandbox remembers its backend; raises Conflict when another one is asked for."""
    if wanted is not None and wanted != actual:
        raise Conflict(
            f"sandbox {sandbox!r} is of backend {actual!r}, not {wanted!r}",
            hint=f"leave --backend out, or make another: agentkernel create --backend {wanted} NAME",
        )


def configure_run(parser: ArgumentParser) -> None:
    """Declares the settings of the table, and what only concerns this terminal."""
    parser.usage = "agentkernel run [OPTION...] [--] COMMAND [ARGUMENT...]"
    add_arguments(parser, "run")
    parser.add_argument("-k", "--keep", action="store_true", help="keep the sandbox, as one made by `create`, after the command")
    _add_surroundings(parser)
    parser.add_argument("command", nargs=REMAINDER, metavar="COMMAND", help="program and arguments; no shell is involved")


def configure_exec(parser: ArgumentParser) -> None:
    """Declares the settings that concern one command, and what only concerns this terminal."""
    parser.usage = "agentkernel exec [OPTION...] NAME [OPTION...] [--] COMMAND [ARGUMENT...]"
    add_arguments(parser, "exec")
    parser.add_argument("-d", "--detach", action="store_true", help="leave it running; print its id, for attach, logs and kill")
    _add_surroundings(parser)
    parser.add_argument("command", nargs=REMAINDER, metavar="NAME COMMAND", help="the sandbox, then program and arguments")


def read_run(args: Namespace, console: Console) -> Invocation:
    """What parsed words of `run` ask for; raises InvalidInput, UnknownKey, NotTrusted."""
    settings = load_settings(cwd=console.cwd, config_path=args.config, environment=console.environment, flags=flags_given(args))
    if not console.whole and passes_environment(settings):
        raise DaemonUnavailable("the command gets the caller's whole environment, which was not sent")
    _check_here(settings, console)
    if not console.whole and settings.get("secrets"):
        raise DaemonUnavailable("values of secrets are read by the caller's own process")
    names_one = _names_command(settings.get("sandbox.base_image"))
    argv = _argv(args.command, "run python3 -c 'print(1)'", may_be_empty=names_one)
    request = request_from_settings(settings, argv=argv, cwd=console.cwd, environment=console.environment)
    return Invocation(
        verb="run",
        command=_command(args, argv, settings, console),
        request=request,
        quiet=args.quiet,
        json=args.json,
        keep=args.keep,
        daemon=settings.get("daemon"),
    )


def read_exec(args: Namespace, console: Console) -> Invocation:
    """What parsed words of `exec` ask for; options may stand before the sandbox's name and behind it.

    Of the user's files only settings of the command line itself count (`timeout`): the sandbox has its own since it was made, and a
    project's file is for sandboxes of that project.
    """
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not words:
        raise InvalidInput("which sandbox?", hint="for example: agentkernel exec my-box ls -l; `agentkernel list` shows what there is")
    sandbox, rest = words[0], words[1:]
    if rest and rest[0].startswith("-") and rest[0] != "--":
        args = parse(_parser("exec", configure_exec), rest, _without_command(args))
        rest = args.command
    argv = _argv(rest, f"exec {sandbox} ls -l")
    settings = users_settings(cwd=console.cwd, environment=console.environment, flags=flags_given(args))
    _check_here(settings, console)
    given = settings_of_flags(flags_given(args), cwd=console.cwd)
    command = _command(args, argv, settings, console)
    environment = given_environment(given.get("environment"), console.environment)
    return Invocation(
        verb="exec",
        command=replace(
            command,
            environment=command.environment | {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
            user=ids_of(given.get("user")),
            detached=args.detach,
            stdin=command.stdin and not args.detach,
        ),
        sandbox=sandbox,
        backend=given.get("backend"),
        quiet=args.quiet,
        json=args.json,
        daemon=settings.get("daemon"),
    )


_Read = Callable[[Namespace, Console], Invocation]
_READERS: Mapping[str, tuple[Callable[[ArgumentParser], None], _Read]] = {
    "run": (configure_run, read_run),
    "exec": (configure_exec, read_exec),
}


def _check_here(settings: Settings, console: Console) -> None:
    """Words that were sent to this machine's daemon are for it; raises DaemonUnavailable where the user's file names another."""
    if not console.whole and settings.get("host"):
        raise DaemonUnavailable("the settings name a daemon elsewhere")


@cache
def _parser(verb: str, configure: Callable[[ArgumentParser], None]) -> Parser:
    parser = Parser(verb)
    configure(parser)
    return parser


def _without_command(args: Namespace) -> Namespace:
    """What was parsed so far, for the options behind the sandbox's name."""
    return Namespace(**{name: value for name, value in vars(args).items() if name != "command"})


def _add_surroundings(parser: ArgumentParser) -> None:
    parser.add_argument("-w", "--workdir", default=None, metavar="DIRECTORY", help="where in the sandbox the command runs")
    terminal = parser.add_mutually_exclusive_group()
    terminal.add_argument("-t", "--tty", action="store_true", help="a terminal inside (without it: when stdin and stdout are terminals)")
    terminal.add_argument("--no-tty", action="store_true", help="no terminal inside, though stdin and stdout are one")
    parser.add_argument("-q", "--quiet", action="store_true", help="no notes about what the policy decided")
    parser.add_argument("--json", action="store_true", help="print the result, with the output in it, as one JSON object")


def _command(args: Namespace, argv: tuple[bytes, ...], settings: Settings, console: Console) -> Command:
    shown = console.terminals[0] and console.terminals[1] and not args.no_tty and not args.json and not getattr(args, "detach", False)
    in_terminal = args.tty or shown
    return Command(
        argv=argv,
        environment=_terminal_environment(console.environment) if in_terminal else {},
        terminal=console.size if in_terminal else None,
        stdin=console.has_input,
        cwd=None if args.workdir is None else validate_inside_path(args.workdir),
        timeout_s=settings.get("timeout") or None,  # 0 is never
    )


def _names_command(image: str | None) -> bool:
    """Whether it is one that says itself what is to be run: an image by name, not a directory or an archive."""
    return image is not None and not image.startswith("/")


def _argv(words: Sequence[str], example: str, *, may_be_empty: bool = False) -> tuple[bytes, ...]:
    argv = words[1:] if words[:1] == ["--"] else words
    if not argv and may_be_empty:
        return ()
    if not argv:
        raise InvalidInput("there is no command to run", hint=f"for example: agentkernel {example}")
    if not argv[0]:
        raise InvalidInput("the command's name is empty", hint="a variable that is not set, perhaps?")
    return tuple(os.fsencode(word) for word in argv)


def _terminal_environment(environment: Mapping[str, str]) -> dict[bytes, bytes]:
    """Programs draw for the terminal that they are really shown on."""
    return {name.encode(): os.fsencode(environment[name]) for name in ("TERM", "COLORTERM") if environment.get(name)}


def ids_of(user: str | None) -> tuple[int, int] | None:
    """The uid and gid of a value of the setting `user`; None is the sandbox's own user."""
    if user is None or user == "user":
        return None
    uid, _, gid = ("0" if user == "root" else user).partition(":")
    return int(uid), int(gid or uid)
