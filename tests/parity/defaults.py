"""What the four ways do where nothing is said, as far as they differ, and why. All else that is not said means the same on all of them."""

from __future__ import annotations

from typing import Final, NamedTuple


class Default(NamedTuple):
    """One row: what is decided, what each way does and how another wish is said there, and the reason. Empty: it cannot do that at all."""

    what: str
    routes: str
    client: str
    verbs: str
    tools: str
    why: str


DEFAULTS: Final = {
    "force": Default(
        "a sandbox that runs is to be removed",
        "it goes; `?force=false` refuses",
        "refused; `force=True`",
        "refused; `--force`",
        "it goes",
        "clients of the first implementation's API send the name alone and mean it, and a model would only ask once more; "
        "people and programs may have forgotten what runs there",
    ),
    "start": Default(
        "a sandbox is made",
        "it is started, too; `start: false`",
        "likewise; `start=False`",
        "it is not; `--start`",
        "it is started, too",
        "`create` and `start` are two verbs, as they have always been; a program makes a sandbox to use it at once",
    ),
    "kill": Default(
        "a command is to be killed",
        "SIGKILL; `signal` sends others",
        "SIGKILL; `signal` sends others",
        "SIGTERM; `--signal`",
        "SIGKILL; `signal`",
        "the verb is kill(1), whose users expect what can be caught; `DELETE`, `kill()` and a model want the command gone. "
        "Every signal goes to all that the command has started; `tree: false` and `tree=False` spare that",
    ),
    "ended": Default(
        "the commands of a sandbox are listed",
        "those that run; `?ended=true`; of detached ones all",
        "all that are remembered",
        "those that run; `--all`",
        "all detached ones",
        "people look for what to attach to or end; programs and models ask what became of theirs",
    ),
    "parents": Default(
        "a file or directory is written where its parent is missing",
        "files: the parent is made; of streamed ones and directories: refused; `parents`",
        "refused; `parents=True`",
        "made",
        "made",
        "a request for one small file is whole in itself, and so are a copy and a tool's; in a program a wrong path is better an error",
    ),
    "extend": Default(
        "it is said how long a sandbox lives",
        "`by`: from now",
        "from now",
        "from now; `--by`: later than it would be",
        "`by`: from now, 1 hour",
        "asked twice, as programs do after a cut, it is not to last twice as long; who types `--by` does it once",
    ),
}
