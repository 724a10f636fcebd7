"""What messages about images say that one should type can be typed: the verb is there, and so is each option."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import agentkernel
from agentkernel.cli.parsing import build
from agentkernel.cli.verbs import VERBS, load

SOURCE = Path(agentkernel.__file__).parent
MODULES = sorted(
    path
    for path in (*SOURCE.glob("images/*.py"), *SOURCE.glob("engine/image*.py"), SOURCE / "engine/granting.py")
    if "agentkernel" in path.read_text()
)
COMMAND = re.compile(r"agentkernel ([a-z][a-z-]+)((?: (?:--?[a-z-]+|\{\}|[A-Za-z0-9./:]+))*)")


def commands() -> list[tuple[str, str, str]]:
    """(module, verb, the words behind it) of every text of the program that names a command of ours; what is put in later is {}."""
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                text = node.value
            else:
                continue
            found += [(path.name, match[1], match[2]) for match in COMMAND.finditer(text)]
    return sorted(set(found))


FOUND = commands()


def test_there_are_such_texts() -> None:
    assert {verb for _, verb, _ in FOUND} >= {"image", "list", "doctor", "daemon"}


@pytest.mark.parametrize(("module", "verb", "words"), FOUND, ids=lambda each: each.strip() or "-")
def test_a_command_that_a_message_names_is_there(module: str, verb: str, words: str) -> None:
    assert verb in VERBS, f"{module} names {verb}"
    parser = build(verb, load(verb))
    options = {option for action in parser._actions for option in action.option_strings}
    assert {word for word in words.split() if word.startswith("-")} <= options
    choices = next((action.choices for action in parser._actions if action.choices and not action.option_strings), None)
    plain = [word for word in words.split() if not word.startswith("-")]
    if choices is not None and plain:
        assert plain[0] in choices
