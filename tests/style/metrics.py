"""The shape of the source tree in numbers: `python tests/style/metrics.py` prints the table, test_style.py holds the limits.

Only the standard library, and nothing of the package is imported: what is measured need not work.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "agentkernel"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One function or method: where it stands, and what is limited about it."""

    where: str  # path:line name
    lines: int
    parameters: int
    annotated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One Python file."""

    path: Path
    lines: int
    tree: ast.Module = field(repr=False)
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        """The path as a reader of the repository writes it."""
        return self.path.relative_to(ROOT).as_posix()

    def at(self, node: ast.stmt | ast.expr | ast.excepthandler) -> str:
        """`path:line` of a node."""
        return f"{self.name}:{node.lineno}"


def read_modules(directory: Path) -> list[Module]:
    """Every Python file under a directory, parsed."""
    modules = []
    for path in sorted(directory.rglob("*.py")):
        text = path.read_text()
        modules.append(Module(path=path, lines=text.count("\n"), tree=ast.parse(text), text=text))
    return modules


def functions(module: Module) -> Iterator[Measured]:
    """Every function and method, nested ones too; a decorator's lines are not counted."""
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            arguments = _arguments(node.args)
            bare = [each for each in arguments if each.annotation is None and each.arg not in ("self", "cls")]
            yield Measured(
                where=f"{module.at(node)} {node.name}",
                lines=(node.end_lineno or node.lineno) - node.lineno + 1,
                parameters=len(arguments),
                annotated=not bare and node.returns is not None,
            )


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    starred = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def late_imports(module: Module) -> list[str]:
    """First-party imports inside functions, but for a package's lazy `__getattr__`."""
    found = []
    for function in ast.walk(module.tree):
        if not isinstance(function, Function) or function.name == "__getattr__":
            continue
        for node in ast.walk(function):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = ["agentkernel"] if node.level else [node.module or ""]
            found += [module.at(node) for name in names if name.split(".")[0] == "agentkernel" and isinstance(node, ast.stmt)]
    return found


def dynamic_imports(module: Module) -> list[str]:
    """Calls of import_module and __import__."""
    return [
        module.at(node) for node in ast.walk(module.tree) if isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__")
    ]


def prints(module: Module) -> list[str]:
    """Calls of print."""
    return [module.at(node) for node in ast.walk(module.tree) if isinstance(node, ast.Call) and _called(node) == "print"]


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def broad_excepts(module: Module) -> list[tuple[str, bool]]:
    """Handlers of everything that do not raise again: (where, whether the line gives a reason)."""
    found = []
    lines = module.text.split("\n")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not isinstance(node.body[-1], ast.Raise):
            reasoned = re.search(r"# (?:noqa: BLE001 - )?(?!noqa)\w+ \w+", lines[node.lineno - 1]) is not None
            found.append((module.at(node), reasoned))
    return found


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_is_broad(each) for each in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


def exported(module: Module, *, methods: bool) -> list[tuple[str, bool]]:
    """Public classes and functions of a module (and their public methods): (where, whether there is a docstring)."""
    found = []
    for node in module.tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        found.append((f"{module.at(node)} {node.name}", ast.get_docstring(node) is not None))
        if methods and isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    found.append((f"{module.at(inner)} {node.name}.{inner.name}", ast.get_docstring(inner) is not None))
    return found


def tracked_files() -> list[Path]:
    """What git knows or would add; raises OSError or CalledProcessError where there is no git or no repository."""
    argv = ("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@dataclass(frozen=True, slots=True, kw_only=True)
class CFunction:
    """One function of the guest."""

    where: str
    lines: int


def c_functions(path: Path) -> Iterator[CFunction]:
    """Functions of a C file in this project's layout: the head starts in the first column, and so does the closing brace."""
    head = 0
    for number, line in enumerate(path.read_text().split("\n"), 1):
        if re.match(r"[a-z_].*\(", line) and not line.rstrip().endswith(";"):
            head = number
        elif line == "}" and head:
            yield CFunction(where=f"{path.relative_to(ROOT).as_posix()}:{head}", lines=number - head + 1)
            head = 0
        elif line.startswith("};"):
            head = 0


def _ninetieth(values: list[int]) -> int:
    return round(quantiles(values, n=10)[-1])


def _c_lines() -> list[tuple[str, str]]:
    files = sorted((ROOT / "guest").glob("*.[ch]"))
    sizes = [path.read_text().count("\n") for path in files]
    lengths = [each.lines for path in files for each in c_functions(path)]
    return [
        ("guest: files / lines", f"{len(files)} / {sum(sizes):,}"),
        ("guest: largest file", f"{max(sizes)}"),
        ("guest: function median / 90th / longest", f"{median(lengths):.0f} / {_ninetieth(lengths)} / {max(lengths)}"),
    ]


def table() -> list[tuple[str, str]]:
    """Every figure, in the order of the style guide."""
    modules = read_modules(SOURCE)
    sizes = [module.lines for module in modules]
    every = [function for module in modules for function in functions(module)]
    lengths = [function.lines for function in every]
    documented = [has for module in modules for _, has in exported(module, methods=False)]
    tests = sum(path.read_text().count("\n") for path in (ROOT / "tests").rglob("*.py"))
    tests += sum(path.read_text().count("\n") for path in (ROOT / "guest" / "tests").rglob("*.[ch]"))
    suite = sum(module.lines for module in modules if "/testing/" in module.name)
    late = [where for module in modules if module.path.name != "assembly.py" for where in late_imports(module)]
    library = [module for module in modules if "/cli/" not in module.name]
    return [
        ("modules / lines", f"{len(modules)} / {sum(sizes):,}"),
        ("module median", f"{median(sizes):.0f}"),
        ("module 90th percentile", f"{_ninetieth(sizes)}"),
        ("largest module", f"{max(sizes)}"),
        ("modules over 500 / 1,000", f"{sum(size > 500 for size in sizes)} / {sum(size > 1000 for size in sizes)}"),
        ("function median / 90th", f"{median(lengths):.0f} / {_ninetieth(lengths)}"),
        ("longest function", f"{max(lengths)}"),
        ("functions over 60 lines", f"{sum(length > 60 for length in lengths)}"),
        ("most parameters", f"{max(function.parameters for function in every)}"),
        ("first-party imports inside functions", f"{len(late)} outside assembly"),
        ("public docstrings", f"{100 * sum(documented) / len(documented):.0f}%"),
        ("functions fully annotated", f"{100 * sum(function.annotated for function in every) / len(every):.0f}%"),
        ("broad excepts per 1,000 lines", f"{1000 * sum(len(broad_excepts(module)) for module in modules) / sum(sizes):.2f}"),
        ("`print` in library", f"{sum(len(prints(module)) for module in library)} outside cli"),
        ("test : source lines", f"{(tests + suite) / (sum(sizes) - suite):.2f}"),
        *_c_lines(),
    ]


def main() -> None:
    """Prints the table as Markdown."""
    print("| point | now |\n| --- | --- |")
    for point, value in table():
        print(f"| {point} | {value} |")


if __name__ == "__main__":
    main()
