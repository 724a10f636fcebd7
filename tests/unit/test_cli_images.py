"""What the command line shows of work on images, and which words of `image` go together."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from agentkernel.abc import Caller
from agentkernel.cli import parsing, progress
from agentkernel.cli.context import Context
from agentkernel.cli.progress import Progress
from agentkernel.cli.verbs import image
from agentkernel.client.imagework import fetched, worked
from agentkernel.errors import AgentKernelError, ImageFailed, InvalidInput, NotFound, ProtocolViolation, Refused, UnknownKey
from agentkernel.model.image import ImageProgress, ImageRecord, ImageStage, ImageWork, ImageWorkKind, PullPolicy
from agentkernel.model.isolation import BackendKind
from agentkernel.model.request import Grant, SandboxRequest
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec

ME = Caller(principal="me")
RECORD = ImageRecord(reference="docker.io/library/app:1", digest="sha256:" + "a" * 64, size_bytes=1, obtained_at=1.0)
DONE = ImageProgress(stage=ImageStage.DONE, image=RECORD)
TERMINAL = {"TERM": "xterm", "NO_COLOR": "1"}


class Screen(io.StringIO):
    """A stream that says whether it is a terminal, and what a terminal would show."""

    def __init__(self, *, live: bool) -> None:
        super().__init__()
        self.live = live

    def isatty(self) -> bool:
        return self.live

    @property
    def lines(self) -> list[str]:
        """After all that was written: cursor up and erase below are all that is understood."""
        shown: list[str] = [""]
        for piece in self.getvalue().replace("\x1b[J", "\x1b[0A\x1b[J").split("\x1b["):
            if piece.startswith("J"):
                piece = piece[1:]
            elif "A" in piece[:4] and piece[0].isdecimal():
                count, _, piece = piece.partition("A")
                shown = shown[: len(shown) - int(count)] if int(count) else shown
                shown = shown or [""]
                shown[-1] = "" if int(count) else shown[-1]
            for letter in piece:
                shown = [*shown, ""] if letter == "\n" else [*shown[:-1], shown[-1] + letter]
        return shown


def loading(item: str, done: int, total: int = 100) -> ImageProgress:
    return ImageProgress(stage=ImageStage.DOWNLOADING, item=item, done_bytes=done, total_bytes=total)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_S", 0.0)


def test_layers_have_bars_until_they_are_whole_and_nothing_stays() -> None:
    screen = Screen(live=True)
    with Progress("fetching app", TERMINAL, stream=screen) as shown:
        shown(ImageProgress(stage=ImageStage.RESOLVING, item="app"))
        assert screen.lines[0] == "fetching app: looking it up"
        shown(loading("sha256:" + "1" * 64, 50))
        shown(loading("sha256:" + "2" * 64, 7, 0))
        assert screen.lines[:3] == ["fetching app", "  111111111111  [############            ]  50B of 100B", "  222222222222  7B"]
        shown(loading("sha256:" + "1" * 64, 100))
        assert screen.lines[:2] == ["fetching app", "  222222222222  7B"]
        shown(ImageProgress(stage=ImageStage.UNPACKING, item="app"))
        assert screen.lines[0] == "fetching app: unpacking"
        shown(DONE)
    assert screen.lines == [""]


def test_what_a_builder_says_stays_without_its_escapes() -> None:
    screen = Screen(live=True)
    with Progress("building app", TERMINAL, stream=screen) as shown:
        shown(ImageProgress(stage=ImageStage.BUILDING, item="Step 1\x1b[2J"))
        shown(ImageProgress(stage=ImageStage.BUILDING, item="Step 2"))
    assert screen.lines == ["Step 1\\x1b[2J", "Step 2", ""]


def test_without_a_terminal_it_is_one_line() -> None:
    screen = Screen(live=False)
    with Progress("fetching app", {}, stream=screen) as shown:
        for step in (loading("a", 1), loading("a", 100), DONE):
            shown(step)
    assert screen.getvalue() == "fetching app ...\n"
    quiet = Screen(live=True)
    with Progress("fetching app", TERMINAL, quietly=True, stream=quiet) as shown:
        shown(loading("a", 1))
    assert quiet.getvalue() == ""


def test_more_layers_than_lines_and_longer_ones_than_columns_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen = Screen(live=True)
    with Progress("fetching " + "x" * 500, TERMINAL, stream=screen) as shown:
        for number in range(100):
            shown(loading(f"layer{number}", 1))
        assert len(screen.lines) <= 24
        assert max(map(len, screen.lines)) < 80


def test_a_reader_that_has_gone_is_no_reason_to_fail() -> None:
    class Gone(Screen):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Progress("fetching app", TERMINAL, stream=Gone(live=True)) as shown:
        shown(loading("a", 1))
        shown(loading("a", 2))


# -- waiting for it


class Kernel:
    """Tells what it is given, one list for each time that work is begun."""

    def __init__(self, *stories: list[ImageProgress] | AgentKernelError, grant: Grant | AgentKernelError | None = None) -> None:
        self.stories = list(stories)
        self.begun: list[ImageWork] = []
        self.found = grant

    async def image_begin(self, caller: Caller, work: ImageWork) -> str:
        self.begun.append(work)
        return str(len(self.begun) - 1)

    async def image_follow(self, caller: Caller, job_id: str, *, follow: bool) -> Any:
        story = self.stories[int(job_id)]
        if isinstance(story, AgentKernelError):
            raise story
        for step in story:
            yield step

    async def grant(self, caller: Caller, request: SandboxRequest) -> Grant:
        assert self.found is not None
        if isinstance(self.found, AgentKernelError):
            raise self.found
        return self.found


WORK = ImageWork(kind=ImageWorkKind.PULL, reference="app:1")


async def test_work_ends_with_the_image_or_with_its_error() -> None:
    kernel: Any = Kernel([loading("a", 1), DONE])
    steps: list[ImageProgress] = []
    assert await worked(kernel, ME, WORK, steps.append) == RECORD
    assert steps == [loading("a", 1), DONE]
    failed = ImageProgress(stage=ImageStage.FAILED, error_code="refused", error="log in", hint="docker login")
    kernel = Kernel([failed])
    with pytest.raises(Refused, match="log in") as caught:
        await worked(kernel, ME, WORK, steps.append)
    assert caught.value.hint == "docker login"
    kernel = Kernel([ImageProgress(stage=ImageStage.FAILED, error_code="not_found", error="no such image")])
    with pytest.raises(NotFound):
        await worked(kernel, ME, WORK, steps.append)
    assert len(kernel.begun) == 1


async def test_what_a_lost_daemon_was_at_is_begun_again() -> None:
    kernel: Any = Kernel(NotFound("an earlier daemon"), [loading("a", 1)], [DONE])
    assert await worked(kernel, ME, WORK, lambda _: None) == RECORD
    assert kernel.begun == [WORK] * 3
    kernel = Kernel(*[NotFound("again")] * 10)
    with pytest.raises(ProtocolViolation):
        await worked(kernel, ME, WORK, lambda _: None)


def granted(reference: str = "docker.io/library/app:1", digest: str = "") -> Grant:
    root = RootFilesystem(kind=RootKind.IMAGE, reference=reference, digest=digest, label="app:1")
    return Grant(spec=SandboxSpec(name="x", root=root, profile="moderate"), backend="docker", chosen=BackendKind.CHOSEN)


async def test_an_image_is_fetched_where_the_grant_says_so() -> None:
    named: list[str] = []

    def watching(name: str) -> Any:
        named.append(name)
        return nullcontext(lambda _: None)

    request = SandboxRequest(image="app:1", pull=PullPolicy.ALWAYS)
    kernel: Any = Kernel([DONE], grant=granted())
    assert (await fetched(kernel, ME, request, watching)).pull is PullPolicy.MISSING
    assert (named, kernel.begun[0].backend, kernel.begun[0].policy) == (["app:1"], "docker", PullPolicy.ALWAYS)
    for grant in (granted(digest="sha256:1"), granted(reference=""), ImageFailed("policy or host says no")):
        kernel = Kernel(grant=grant)
        assert await fetched(kernel, ME, request, watching) is request
    kernel = Kernel()
    assert (await fetched(kernel, ME, SandboxRequest(image="/srv/image"), watching)).image == "/srv/image"
    assert named == ["app:1"]


# -- words


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.chdir(tmp_path)
    nothing: Any = None
    return Context(environment={}, open_kernel=nothing, open_client=nothing, open_calls=nothing)


def work_of(context: Context, *words: str) -> ImageWork:
    args = parsing.parse("image", image, words)
    image._check(args)
    return image._work(args, context)


def test_what_is_typed_becomes_work(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert work_of(context, "pull", "--platform", "linux/arm64", "alpine", "-B", "docker") == ImageWork(
        kind=ImageWorkKind.PULL, reference="alpine", platform="linux/arm64", backend="docker"
    )
    assert work_of(context, "import", "x.tar", "mine") == ImageWork(
        kind=ImageWorkKind.IMPORT, reference="mine", path=str(tmp_path / "x.tar")
    )
    assert work_of(context, "build", "-t", "app").path == str(tmp_path)
    monkeypatch.setenv("TOKEN", "of-the-caller")
    built = work_of(
        context,
        "build",
        "sub",
        "-t",
        "app",
        "-f",
        "other/Dockerfile",
        "--target=t",
        "--build-arg",
        "A=1=2",
        "--build-arg=TOKEN",
        "--no-cache",
    )
    assert built == ImageWork(
        kind=ImageWorkKind.BUILD,
        reference="app",
        path=str(tmp_path / "sub"),
        dockerfile="../other/Dockerfile",
        target="t",
        arguments=(("A", "1=2"), ("TOKEN", "of-the-caller")),
        fresh=True,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("pull",),
        ("pull", "a", "b"),
        ("import", "a"),
        ("build", "."),
        ("build", "-t", "a", "b", "c"),
        ("build", "-t", "a", "--build-arg", "NOT_SET_ANYWHERE"),
        ("list", "a"),
        ("remove",),
        ("prune", "a"),
        ("pull", "a", "-t", "b"),
        ("remove", "a", "--no-cache"),
        ("import", "a", "b", "--platform", "x"),
        ("build", "-t", "a", "--builder", "make"),
        ("fetch", "a"),
    ],
)
def test_words_that_do_not_go_together(context: Context, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        work_of(context, *words)


def test_a_flag_that_does_not_exist_is_told_with_the_nearest(context: Context) -> None:
    with pytest.raises(UnknownKey) as wrong:
        work_of(context, "pull", "a", "--platfrom", "x")
    assert "--platform" in wrong.value.hint
