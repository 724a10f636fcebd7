"""The limits of the style as tests. Import direction is import-linter's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from style import metrics

MODULES = metrics.read_modules(metrics.SOURCE)
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7  # with self
# Tables of what is imported when it is used; and what asks a library that only some have installed.
LATE_IMPORTERS = ("assembly.py", "cli/extra.py", "cli/verbs/__init__.py", "config/secrets.py")
HOT_PATH = ("__main__.py", "cli/hot.py", "cli/relay.py")  # where whatever is imported is paid for by every `exec`
CONTRACTS = ("abc.py", "errors.py", "model/")  # where public methods are part of the contract too
LEFTOVERS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|NotImplemented" + r"Error|not implemented" + r" yet")
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"}


def _within(module: metrics.Module, *places: str) -> bool:
    name = module.path.relative_to(metrics.PACKAGE).as_posix()
    return any(name == place or (place.endswith("/") and name.startswith(place)) for place in places)


def test_there_is_something_to_measure() -> None:
    assert len(MODULES) > 50


def test_no_module_is_longer_than_500_lines() -> None:
    assert [f"{module.name}: {module.lines}" for module in MODULES if module.lines > MAX_MODULE_LINES] == []


def test_no_function_is_longer_than_60_lines() -> None:
    every = [function for module in MODULES for function in metrics.functions(module)]
    assert [f"{function.where}: {function.lines}" for function in every if function.lines > MAX_FUNCTION_LINES] == []


def test_no_function_of_the_guest_is_longer_than_60_lines() -> None:
    every = [function for path in sorted((metrics.ROOT / "guest").glob("*.c")) for function in metrics.c_functions(path)]
    assert len(every) > 100
    assert [f"{function.where}: {function.lines}" for function in every if function.lines > MAX_FUNCTION_LINES] == []


def test_no_file_of_the_guest_is_longer_than_500_lines() -> None:
    files = sorted((metrics.ROOT / "guest").glob("*.[ch]"))
    assert [path.name for path in files if path.read_text().count("\n") > MAX_MODULE_LINES] == []


def test_no_function_takes_more_than_seven_parameters_with_self() -> None:
    every = [function for module in MODULES for function in metrics.functions(module)]
    assert [f"{function.where}: {function.parameters}" for function in every if function.parameters > MAX_PARAMETERS] == []


def test_every_function_is_fully_annotated() -> None:
    assert [function.where for module in MODULES for function in metrics.functions(module) if not function.annotated] == []


def test_the_package_is_imported_at_the_top_of_modules_only() -> None:
    assert [where for module in MODULES if not _within(module, "assembly.py", *HOT_PATH) for where in metrics.late_imports(module)] == []


def test_only_the_tables_import_by_name() -> None:
    lazy = [
        where
        for module in MODULES
        if not _within(module, *LATE_IMPORTERS) and "def __getattr__" not in module.text
        for where in metrics.dynamic_imports(module)
    ]
    assert lazy == []


def test_nothing_prints_but_the_command_line() -> None:
    assert [where for module in MODULES if not _within(module, "cli/") for where in metrics.prints(module)] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = [module.path.stem if module.path.stem != "__init__" else module.path.parent.name for module in MODULES]
    assert [name for name in names if VAGUE_NAMES & set(name.strip("_").split("_"))] == []


def test_every_exported_class_and_function_has_a_docstring() -> None:
    missing = [where for module in MODULES for where, documented in metrics.exported(module, methods=False) if not documented]
    assert missing == []


def test_every_public_method_of_the_contracts_has_a_docstring() -> None:
    contracts = [module for module in MODULES if _within(module, *CONTRACTS)]
    assert len(contracts) > 5
    assert [where for module in contracts for where, documented in metrics.exported(module, methods=True) if not documented] == []


def test_a_handler_of_everything_raises_again_or_gives_its_reason() -> None:
    assert [where for module in MODULES for where, reasoned in metrics.broad_excepts(module) if not reasoned] == []


def test_the_tree_holds_no_leftovers(tracked_texts: dict[Path, str]) -> None:
    found = [
        f"{path.relative_to(metrics.ROOT)}:{number}: {line.strip()[:80]}"
        for path, text in tracked_texts.items()
        for number, line in enumerate(text.split("\n"), 1)
        if LEFTOVERS.search(line)
    ]
    assert found == []


# What only those who wrote the tree could know: their machine, their papers, how their work was cut up.
TRACES = (
    r"/work/(?:main|shared|\.mirror|\.library)\b",
    r"/tmp/(?:common\.md|venv-|bash_jobs)",
    r"\b(?:DESIGN|STYLE)\.md\b",
    r"\bbuild-machine\b|\boriginal-agentkernel\b|\bshared/(?:seeds|reference|hooks)\b",
    r"(?i)\b(?:previous|earlier|next|later|last|coding|working|parallel|agent's) sessions?\b",
    r"(?i)\bsession (?:number )?#?\d",
    r"(?i)\bissues? #?\d",
    r"(?i)\b(?:fix(?:es|ed)?|close[sd]?|resolve[sd]?|refs?|see) #\d",
    r"(?i)\bas an ai\b|\bai-generated\b|\blanguage model wrote\b|\bco-authored-by: claude\b",
)


@pytest.mark.parametrize("trace", TRACES)
def test_no_file_tells_how_it_was_written(trace: str, tracked_texts: dict[Path, str]) -> None:
    pattern = re.compile(trace)
    found = [
        f"{path.relative_to(metrics.ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for path, text in tracked_texts.items()
        for match in pattern.finditer(text)
    ]
    assert found == []
