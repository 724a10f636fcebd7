"""The digest of all that a build may read: the key under which its result is found again."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from typing import Final

from agentkernel.errors import InvalidInput, NotFound
from agentkernel.images.ignore import Ignored, Pattern, parse

MAX_ENTRIES: Final = 1_000_000
MAX_DEPTH: Final = 200
MAX_FILE_BYTES: Final = 1024 * 1024  # of a Dockerfile, of a list of what is left out
_CHUNK_BYTES: Final = 1024 * 1024
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def digest_of(directory: str, ignore_files: Iterable[str], more: Iterable[str]) -> str:
    """64 hexadecimal digits over the names, kinds, modes and bytes of everything in the directory that is not left out, and over `more`.

    `ignore_files`: names of which the first one that is there says what is left out. Symbolic links count as they are. Times and owners do
    not count: builders do not copy them.

    Raises:
        InvalidInput: it is too much, or too deep.
        NotFound: something in it cannot be read.
    """
    hasher = _Hasher()
    for text in more:
        hasher.add(b"given", text.encode("utf-8", "surrogateescape"))
    hasher.directory(directory, Ignored(_patterns(directory, ignore_files)), 0)
    return hasher.digest()


def read_text(path: str) -> str | None:
    """A small file of the context; None where there is none. Raises InvalidInput for what is no file, or no small one."""
    try:
        descriptor = os.open(path, _FLAGS & ~os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidInput(f"{path!r} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path!r} is no file of at most {MAX_FILE_BYTES} bytes")
        return os.pread(descriptor, MAX_FILE_BYTES, 0).decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)


def _patterns(directory: str, names: Iterable[str]) -> tuple[Pattern, ...]:
    for name in names:
        text = read_text(f"{directory}/{name}")
        if text is not None:
            return parse(text)
    return ()


class _Hasher:
    """Every part with its length before it, so that no two trees look alike."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._entries = 0

    def add(self, *parts: bytes) -> None:
        """One fact."""
        for part in parts:
            self._sha.update(len(part).to_bytes(8, "little"))
            self._sha.update(part)

    def digest(self) -> str:
        """Of all that was added."""
        return self._sha.hexdigest()

    def directory(self, path: str, ignored: Ignored, depth: int) -> None:
        """Everything in it, by name."""
        if depth > MAX_DEPTH:
            raise InvalidInput(f"the context is deeper than {MAX_DEPTH} directories: {path!r}")
        try:
            with os.scandir(path) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            raise _unreadable(path, error) from error
        for name in names:
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise InvalidInput(
                    f"the context has more than {MAX_ENTRIES} entries", hint="leave out what the build does not need: .dockerignore"
                )
            below = ignored.below(name)
            if not below.is_all_left_out:
                self._entry(f"{path}/{name}", below, depth)

    def _entry(self, path: str, ignored: Ignored, depth: int) -> None:
        try:
            status = os.lstat(path)
            mode = f"{stat.S_IMODE(status.st_mode):o}".encode()
            name = os.fsencode(path.rsplit("/", 1)[-1])
            if stat.S_ISDIR(status.st_mode):
                self.add(b"directory", name, mode if not ignored.is_left_out else b"")
                self.directory(path, ignored, depth + 1)
                self.add(b"end")
            elif ignored.is_left_out:
                return
            elif stat.S_ISLNK(status.st_mode):
                self.add(b"link", name, os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(status.st_mode):
                self.add(b"file", name, mode)
                self._file(path)
            else:
                self.add(b"other", name, f"{stat.S_IFMT(status.st_mode):o}".encode())
        except OSError as error:
            raise _unreadable(path, error) from error

    def _file(self, path: str) -> None:
        content = hashlib.sha256()
        with open(os.open(path, _FLAGS), "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                content.update(chunk)
        self.add(content.digest())


def _unreadable(path: str, error: OSError) -> NotFound:
    return NotFound(
        f"{path!r} cannot be read: {error.strerror}", hint="the build reads all of the directory but what .dockerignore leaves out"
    )
