"""The programs that build images: docker, podman and buildah, by their command lines."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentkernel.errors import BackendUnavailable, ImageFailed, InvalidInput
from agentkernel.images import lifeline
from agentkernel.model.image import ImageWork

NAMES: Final = ("docker", "podman", "buildah")
MAX_LINE: Final = 2000  # characters of a builder's line that are passed on
_ASK_S: Final = 30.0
_BOTH_VERSIONS: Final = "/sys/fs/cgroup/unified"  # of cgroups (cgroups(7)): version 2 stands there beside version 1
_CHUNK_BYTES: Final = 65536
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_PASSED: Final = frozenset(
    ("PATH", "HOME", "USER", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REGISTRY_AUTH_FILE", *_PROXIES, *map(str.lower, _PROXIES))
)
_PASSED_PREFIXES: Final = ("DOCKER_", "CONTAINER", "BUILDAH_", "BUILDKIT_", "STORAGE_", "XDG_")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """One of them, as it is here."""

    name: str
    program: str  # its absolute path
    environment: Mapping[str, str]

    @property
    def ignore_files(self) -> tuple[str, ...]:
        """Which files say what of the context is left out, the first that is there."""
        return (".dockerignore",) if self.name == "docker" else (".containerignore", ".dockerignore")

    async def answers(self) -> bool:
        """Whether it can work: docker's client may be here without its engine."""
        return self.name != "docker" or bool(await self._asked("version", "--format", "{{.Server.Version}}"))

    async def id_of(self, reference: str) -> str:
        """The id of an image that it has; empty for one that it has not."""
        if self.name == "buildah":
            return await self._asked("inspect", "--type", "image", "--format", "{{.FromImageID}}", reference)
        return await self._asked("image", "inspect", "--format", "{{.Id}}", reference)

    async def build(self, work: ImageWork, reference: str, dockerfile: str, id_file: str, told: Callable[[str], None]) -> str:
        """Builds it and names it; returns its id. `told` gets every line. Raises ImageFailed."""
        words, values = _arguments(work.arguments, self.environment)
        runtime = await self._runtime()
        argv = [
            *(runtime if self.name == "podman" else ()),
            "build",
            *(runtime if self.name == "buildah" else ()),
            *("--file", dockerfile, "--tag", reference, "--iidfile", id_file),
            *(f"{flag}={value}" for flag, value in (("--target", work.target), ("--platform", work.platform)) if value),
            *(("--no-cache",) if work.fresh else ()),
            *(
                ("--force-rm",) if self.name == "docker" else ()
            ),  # its old builder leaves the containers of a failed build; the others never do
            *words,
            work.path,
        ]
        last = await self._run(argv, values, told)
        if last is not None:
            raise ImageFailed(f"{self.name} could not build the image: {last}", hint="its lines above tell more")
        return _read_id(id_file)

    async def save(self, image_id: str, reference: str, path: str) -> None:
        """Writes the image to an archive, as `docker save` does; raises ImageFailed."""
        argv = {
            "docker": ("save", "--output", path, image_id),
            "podman": ("save", "--quiet", "--format", "docker-archive", "--output", path, image_id),
            "buildah": ("push", "--quiet", image_id, f"docker-archive:{path}:{reference}"),
        }[self.name]
        last = await self._run(argv, {}, lambda _: None)
        if last is not None:
            raise ImageFailed(f"{self.name} could not hand over the image: {last}", hint="is the disk full?")

    async def _runtime(self) -> tuple[str, ...]:
        """What runs the steps, where the builder's own choice cannot: crun refuses cgroups of both versions at once."""
        if self.name == "docker" or not os.path.isdir(_BOTH_VERSIONS):  # noqa: ASYNC240 - of the kernel's own file system
            return ()
        wanted = "{{.Host.OCIRuntime.Name}}" if self.name == "podman" else "{{.host.OCIRuntime}}"
        path = shutil.which("runc", path=f"{_absolute(self.environment.get('PATH', os.defpath))}:/usr/sbin:/sbin")
        return ("--runtime", path) if path is not None and "crun" in await self._asked("info", "--format", wanted) else ()

    async def _asked(self, *words: str) -> str:
        """The first line of an answer; empty where there is none."""
        lines: list[str] = []
        try:
            async with asyncio.timeout(_ASK_S):
                failed = await self._run(words, {}, lines.append)
        except TimeoutError:
            return ""
        return lines[0].strip() if lines and failed is None else ""

    async def _run(self, words: Sequence[str], more: Mapping[str, str], told: Callable[[str], None]) -> str | None:
        """None where it succeeded, else the last line that it said. Cancelled, it is killed with all that it started.

        So it is when this process is killed: what ends it then is the end of its standard input.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", lifeline.__file__),
            self.program,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**self.environment, **more},
            start_new_session=True,
        )
        last = ""
        try:
            assert process.stdout is not None  # noqa: S101 - as asked for
            async for line in _lines(process.stdout):
                last = line if line.strip() else last
                told(line)
            return None if await process.wait() == 0 else last.strip() or f"exit status {process.returncode}"
        finally:
            if process.stdin is not None:
                process.stdin.close()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


async def found(wanted: str, first: str, environment: Mapping[str, str]) -> Builder:
    """The builder that is `wanted`, or without one the first that is here and answers; `first` comes before the others.

    Raises BackendUnavailable.
    """
    known = dict.fromkeys((*((first,) if first in NAMES else ()), *NAMES))
    if wanted and wanted not in NAMES:
        raise InvalidInput(f"{wanted!r} is no builder", hint=f"choose one of: {', '.join(NAMES)}")
    passed = _environment(environment)
    silent = []
    for name in (wanted,) if wanted else known:
        program = shutil.which(name, path=_absolute(passed.get("PATH", os.defpath)))
        if program is None:
            continue
        builder = Builder(name=name, program=program, environment=passed)
        if await builder.answers():
            return builder
        silent.append(name)
    if silent:
        others = ", ".join(name for name in NAMES if name not in silent)
        instead = "leave --builder out" if wanted else f"install one of: {others}" if others else ""
        hint = f"start its engine, or {instead}" if instead else "start its engine"
        raise BackendUnavailable(f"{silent[0]} is here, but its engine does not answer", hint=hint)
    if wanted:
        raise BackendUnavailable(f"{wanted} is not installed", hint="install it, or leave --builder out: the first that is here is taken")
    which = "neither docker nor podman nor buildah is installed"
    raise BackendUnavailable(f"nothing here builds images: {which}", hint="install buildah, which needs no engine")


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    return {**kept, "BUILDKIT_PROGRESS": "plain"}


def _absolute(path: str) -> str:
    return os.pathsep.join(each for each in path.split(os.pathsep) if each.startswith("/"))


def _arguments(arguments: Iterable[tuple[str, str]], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """`--build-arg` words, and variables that have their values: those may be secrets, and words of a program are for all to see."""
    words, values = [], {}
    for name, value in arguments:
        if not _ARGUMENT.fullmatch(name) or "\0" in value:
            raise InvalidInput(f"{name!r} cannot be a build argument", hint="write --build-arg NAME=VALUE")
        if name in environment:
            words.append(f"--build-arg={name}={value}")  # the builder itself goes by that variable
        else:
            words.append(f"--build-arg={name}")
            values[name] = value
    return words, values


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines as they come; what is longer than anybody reads is cut."""
    rest = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            yield line[: MAX_LINE * 4].decode(errors="replace")[:MAX_LINE]
        rest = rest[: MAX_LINE * 4]
    if rest:
        yield rest.decode(errors="replace")[:MAX_LINE]


def _read_id(path: str) -> str:
    try:
        with open(path) as file:
            match = _ID.fullmatch(file.read(200).strip())
    except (OSError, UnicodeDecodeError):
        match = None
    if match is None:
        raise ImageFailed("the builder did not say which image it made")
    return f"sha256:{match[1]}"
