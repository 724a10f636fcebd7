"""The documents name only what is there: files, functions, links, verbs and options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from style import metrics

from agentkernel.cli import parsing
from agentkernel.cli.verbs import VERBS, load

ROOT = metrics.ROOT
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("README.md")])
PLACES = (ROOT, metrics.PACKAGE, ROOT / "guest")  # what a path in a document may start from, besides the document's own directory
_PATH = re.compile(r"^[\w.*-]+(?:/[\w.*-]+)*/?$")
_SUFFIXES = (".py", ".c", ".h", ".md", ".sh", ".json")


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _prose(document: Path) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def _links(document: Path) -> Iterator[str]:
    for match in re.finditer(r"\]\(([^)\s]+)\)", _prose(document)):
        if not re.match(r"[a-z]+:", match.group(1)):
            yield match.group(1)


def _anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", _prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _named_paths(document: Path) -> Iterator[tuple[str, str]]:
    """Paths in code spans, with the name after the colon in `path:name`."""
    for span in re.findall(r"`([^`\n]+)`", _prose(document)):
        path, _, name = span.partition(":")
        is_directory = path.endswith("/") and any((place / path.split("/")[0]).is_dir() for place in PLACES)
        if _PATH.match(path) and (is_directory or (path.endswith(_SUFFIXES) and ("/" in path or name))):
            yield path, name


def _found(path: str, document: Path) -> list[Path]:
    return [found for place in (*PLACES, document.parent) for found in place.glob(path.rstrip("/"))]


def _defines(file: Path, name: str) -> bool:
    """Whether a file defines `name`, `Class.name` or, in C, a function of that name."""
    text = file.read_text()
    if file.suffix in (".c", ".h"):
        return re.search(rf"^[a-z_].*\b{re.escape(name)}\(", text, flags=re.MULTILINE) is not None
    return all(re.search(rf"^\s*(?:(?:async )?def|class) {part}\b|^\s*{part}\b.*=", text, flags=re.MULTILINE) for part in name.split("."))


def test_the_documents_that_a_reader_expects_are_there() -> None:
    names = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE", "docs/glossary.md"}
    assert {name for name in names if not (ROOT / name).is_file()} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    broken = []
    for link in _links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    assert [path for path, _ in _named_paths(document) if not _found(path, document)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_function_that_a_document_names_is_defined_there(document: Path) -> None:
    wrong = []
    for path, name in _named_paths(document):
        if re.fullmatch(r"[A-Za-z_][\w.]*", name) and not any(_defines(file, name) for file in _found(path, document)):
            wrong.append(f"{path}:{name}")
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_command_of_a_document_is_one_that_the_command_line_takes(document: Path) -> None:
    refused = []
    for line in _commands(document):
        words = shlex.split(line, comments=True)[1:]
        if words and words[0].startswith("-"):
            continue
        try:
            parsing.parse(words[0], load(words[0]), words[1:])
        except Exception as error:
            refused.append(f"{line}: {error}")
        except SystemExit as end:
            if end.code:
                refused.append(line)
    assert refused == []


def _commands(document: Path) -> Iterator[str]:
    """Lines of shell examples that start agentkernel, without pipes and redirections."""
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```$", document.read_text(), flags=re.MULTILINE | re.DOTALL):
        for line in block.split("\n"):
            command = line.removeprefix("$ ")
            if command.startswith("agentkernel "):
                yield re.split(r" [|>] | 2>", command)[0]


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if f"agentkernel {verb}" not in text] == []


def test_every_decision_is_numbered_once_and_listed() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert [record.name for record in records if f"({record.name})" not in index] == []
