"""Which language a command or a project is of, and which image has it. The table is data; rows match in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from agentkernel.images.procfile import commands_of

DEFAULT_IMAGE = "alpine:3.20"


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """One row: `files` are names, or `*.x` for any name with that ending, in a project's top directory; `commands` are program names."""

    name: str
    image: str
    files: tuple[str, ...]
    commands: tuple[str, ...] = ()

    def has_file(self, names: frozenset[str]) -> bool:
        """Whether one of `names` marks a project of this language."""
        return any(
            any(name.endswith(pattern[1:]) and name != pattern[1:] for name in names) if pattern.startswith("*") else pattern in names
            for pattern in self.files
        )


def _row(name: str, image: str, files: str, commands: str = "") -> Language:
    return Language(name=name, image=image, files=tuple(files.split()), commands=tuple(commands.split()))


# fmt: off
LANGUAGES: tuple[Language, ...] = (
    _row("node", "node:22-alpine", "package.json package-lock.json yarn.lock pnpm-lock.yaml bun.lockb",
         "node npm npx yarn pnpm bun tsx ts-node"),
    _row("rust", "rust:1.85-alpine", "Cargo.toml Cargo.lock", "cargo rustc rustup rustfmt clippy"),
    _row("go", "golang:1.23-alpine", "go.mod go.sum", "go gofmt"),
    _row("python", "python:3.12-alpine", "pyproject.toml requirements.txt setup.py setup.cfg Pipfile poetry.lock uv.lock",
         "python python3 pip pip3 poetry uv pytest ruff"),
    _row("ruby", "ruby:3.3-alpine", "Gemfile Gemfile.lock *.gemspec", "ruby gem bundle bundler rake rails"),
    _row("java", "eclipse-temurin:21-alpine", "pom.xml build.gradle build.gradle.kts settings.gradle", "java javac mvn gradle gradlew"),
    _row("kotlin", "eclipse-temurin:21-alpine", "*.kt"),
    _row("dotnet", "mcr.microsoft.com/dotnet/sdk:8.0", "*.csproj *.fsproj *.sln global.json", "dotnet csc fsc"),
    _row("c", "gcc:14-bookworm", "Makefile CMakeLists.txt configure *.c *.cpp *.h", "gcc g++ clang clang++ make cmake cc"),
    _row("php", "php:8.3-alpine", "composer.json composer.lock *.php", "php composer"),
    _row("elixir", "elixir:1.16-alpine", "mix.exs mix.lock", "elixir mix iex"),
    _row("shell", "alpine:3.20", "*.sh", "sh bash zsh ash"),
    _row("lua", "nickblah/lua:5.4-alpine", "*.lua .luacheckrc", "lua luajit luarocks"),
    _row("terraform", "hashicorp/terraform:1.10", "*.tf *.tfvars terraform.tfstate", "terraform"),
)
# fmt: on

_NAMES = frozenset(pattern for language in LANGUAGES for pattern in language.files if not pattern.startswith("*"))
_ENDINGS = tuple(pattern[1:] for language in LANGUAGES for pattern in language.files if pattern.startswith("*"))

MAX_ENTRIES = 10_000  # of a directory that is looked at: a project's top directory is not larger


def detect_command(argv0: str) -> Language | None:
    """The language of a program, by its name without directories."""
    name = argv0.rsplit("/", 1)[-1]
    return next((language for language in LANGUAGES if name in language.commands), None)


def detect_project(directory: str) -> Language | None:
    """The language of a project, by the names in its top directory, then by its Procfile."""
    names = _names(directory)
    found = next((language for language in LANGUAGES if language.has_file(names)), None)
    if found is not None or "Procfile" not in names:
        return found
    words = commands_of(os.path.join(directory, "Procfile"))
    return next((language for word in words if (language := detect_command(word)) is not None), None)


def detect_image(argv: Sequence[bytes], names: Iterable[str]) -> str | None:
    """The image for a run, by its command, else by the names in the project's top directory; None when neither tells."""
    language = detect_command(os.fsdecode(argv[0])) if argv else None
    language = language or _of_files(frozenset(names))
    return language.image if language is not None else None


@lru_cache(maxsize=8)
def _of_files(names: frozenset[str]) -> Language | None:
    """Of a project, by the names in it: it is asked for every command that is run there."""
    return next((language for language in LANGUAGES if language.has_file(names)), None)


def default_image() -> str:
    """The image where nothing tells the language."""
    return DEFAULT_IMAGE


def image_of_language(name: str) -> str | None:
    """The image of a language of the table; None for what is none."""
    return next((language.image for language in LANGUAGES if language.name == name), None)


def is_project(names: Iterable[str]) -> bool:
    """Whether a directory with these names in it is a project's."""
    return any(name in _NAMES or (name.endswith(_ENDINGS) and name not in _ENDINGS) for name in names)


def is_project_directory(directory: str, home: str) -> bool:
    """Whether `directory` is a project's; never the home directory, what holds it, or the root."""
    resolved, resolved_home = os.path.realpath(directory), os.path.realpath(home)
    if resolved == "/" or resolved == resolved_home or resolved_home.startswith(resolved + "/"):
        return False
    return is_project(_names(resolved))


def _names(directory: str) -> frozenset[str]:
    names = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) >= MAX_ENTRIES:
                    break
    except OSError:
        return frozenset()
    return frozenset(names)
