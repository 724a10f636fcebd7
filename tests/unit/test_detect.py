"""Languages of commands and projects."""

import os
from pathlib import Path

import pytest

from agentkernel.images.detect import LANGUAGES, detect_command, detect_image, detect_project, is_project, is_project_directory
from agentkernel.images.procfile import commands_of, parse


def test_the_table_has_the_fourteen_promised_rows_in_order() -> None:
    assert [language.image for language in LANGUAGES] == [
        "node:22-alpine",
        "rust:1.85-alpine",
        "golang:1.23-alpine",
        "python:3.12-alpine",
        "ruby:3.3-alpine",
        "eclipse-temurin:21-alpine",
        "eclipse-temurin:21-alpine",
        "mcr.microsoft.com/dotnet/sdk:8.0",
        "gcc:14-bookworm",
        "php:8.3-alpine",
        "elixir:1.16-alpine",
        "alpine:3.20",
        "nickblah/lua:5.4-alpine",
        "hashicorp/terraform:1.10",
    ]
    commands = [command for language in LANGUAGES for command in language.commands]
    assert len(commands) == len(set(commands)), "a command belongs to one language"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("npm", "node"),
        ("cargo", "rust"),
        ("python3", "python"),
        ("/usr/bin/pytest", "python"),
        ("./gradlew", "java"),
        ("make", "c"),
        ("zsh", "shell"),
    ],
)
def test_a_command_tells_its_language_by_its_name(command: str, name: str) -> None:
    language = detect_command(command)
    assert language is not None
    assert language.name == name


@pytest.mark.parametrize("command", ["", "ls", "python3.12", "npm/", "NODE", "cargo-build"])
def test_other_commands_tell_nothing(command: str) -> None:
    assert detect_command(command) is None


@pytest.mark.parametrize(
    ("names", "image"),
    [
        (["README.md", "package.json"], "node:22-alpine"),
        (["Makefile", "pyproject.toml"], "python:3.12-alpine"),
        (["thing.gemspec"], "ruby:3.3-alpine"),
        (["x.tf"], "hashicorp/terraform:1.10"),
        (["main.h"], "gcc:14-bookworm"),
        ([".tf", ".c"], None),
        (["mypackage.json", "Cargo.toml.orig"], None),
        ([], None),
    ],
)
def test_a_project_tells_its_language_by_its_files(names: list[str], image: str | None) -> None:
    assert detect_image((b"ls",), names) == image
    assert is_project(names) is (image is not None)


def test_the_command_comes_before_the_files() -> None:
    assert detect_image((b"cargo", b"build"), ["package.json"]) == "rust:1.85-alpine"
    assert detect_image((), ["package.json"]) == "node:22-alpine"
    assert detect_image((b"\xff\xfe",), []) is None


def test_a_procfile_tells_when_no_file_does(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("# comment\n\nrelease:\nworker: PORT=1 ./run.sh\nweb: bundle exec rails\n")
    language = detect_project(str(tmp_path))
    assert language is not None
    assert language.name == "ruby"
    (tmp_path / "go.mod").touch()
    language = detect_project(str(tmp_path))
    assert language is not None
    assert language.name == "go"


def test_only_the_top_directory_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "package.json").touch()
    assert detect_project(str(tmp_path)) is None
    assert detect_project(str(tmp_path / "missing")) is None


def test_a_home_directory_or_what_holds_it_is_never_a_project(tmp_path: Path) -> None:
    home = tmp_path / "home" / "me"
    project = home / "project"
    project.mkdir(parents=True)
    for directory in (tmp_path, home, project):
        (directory / "package.json").touch()
    (tmp_path / "link").symlink_to(home)
    assert is_project_directory(str(project), str(home))
    assert not is_project_directory(str(home), str(home))
    assert not is_project_directory(str(tmp_path / "link"), str(home))
    assert not is_project_directory(str(home), str(tmp_path / "link"))
    assert not is_project_directory(str(tmp_path), str(home))
    assert not is_project_directory("/", str(home))


def test_a_procfile_that_is_a_link_a_pipe_or_not_text_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "Procfile"
    path.symlink_to("/etc/passwd")
    assert commands_of(str(path)) == ()
    path.unlink()
    os.mkfifo(path)
    assert commands_of(str(path)) == ()
    path.unlink()
    path.write_bytes(b"web: \xff\xfe node\n")
    assert commands_of(str(path)) == ("\ufffd\ufffd",)
    assert commands_of(str(tmp_path / "missing")) == ()


def test_lines_without_a_command_are_skipped() -> None:
    assert parse("web:\nnothing\n: \nx: A=1\ny: npm start: now\n#z: go\n") == ("npm",)
