"""The wiring: which backends there are, and what a remembered probe depends on."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from agentkernel import assembly
from agentkernel.assembly import Backends, Row
from agentkernel.errors import BackendUnavailable, UnknownKey
from agentkernel.policy.choose import ORDER


class Stranger:
    """A backend of another package."""

    name = "stranger"


@pytest.fixture
def stranger_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stranger_package", sys.modules[Stranger.__module__])
    point = importlib.metadata.EntryPoint(name="stranger", value="stranger_package:Stranger", group=assembly.ENTRY_POINTS)
    usurper = importlib.metadata.EntryPoint(name="namespaces", value="stranger_package:Stranger", group=assembly.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point, usurper] if group == assembly.ENTRY_POINTS else [])


def test_every_backend_of_the_table_can_be_made() -> None:
    for name in assembly.BACKENDS:
        assert Backends().load(name).name == name


def test_the_memory_backend_exists_only_for_whoever_names_it_when_building() -> None:
    assert "memory" not in Backends().names()
    assert "memory" not in Backends().all_names()
    with pytest.raises(UnknownKey):
        Backends().load("memory")
    assert Backends(("memory",)).load("memory").name == "memory"


def test_an_unknown_backend_names_those_there_are() -> None:
    with pytest.raises(UnknownKey) as caught:
        Backends().load("dokcer")
    assert "namespaces" in caught.value.hint


@pytest.mark.usefixtures("stranger_installed")
def test_a_backend_of_another_package_is_found_but_takes_no_part_in_the_choice() -> None:
    assert "stranger" in Backends().all_names()
    assert "stranger" not in Backends().names()
    assert type(Backends().load("stranger")).__name__ == "Stranger"


@pytest.mark.usefixtures("stranger_installed")
def test_another_package_cannot_take_the_place_of_a_backend() -> None:
    assert Backends().all_names().count("namespaces") == 1
    assert type(Backends().load("namespaces")).__name__ == "NamespacesBackend"


def test_a_backend_that_cannot_be_imported_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        assembly.BACKENDS, "broken", Row("agentkernel.backends.no_such_package:Backend", "agentkernel.backends._presence:linux")
    )
    with pytest.raises(BackendUnavailable, match="broken"):
        Backends().load("broken")


def test_building_an_engine_imports_and_touches_nothing(tmp_path: Path) -> None:
    assembly.build_engine({"HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_a_remembered_probe_depends_on_the_guest_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = tmp_path / "guest"
    guest.write_text("one")
    guest.chmod(0o755)
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest))
    first = assembly.standing()
    assert first == assembly.standing()
    guest.write_text("another")
    assert assembly.standing() != first
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(tmp_path / "missing"))
    assert "no guest" in assembly.standing()


def test_every_backend_of_the_table_tells_whether_it_may_be_here_without_being_loaded() -> None:
    program = "import sys; from agentkernel.assembly import BACKENDS, Backends; found = [Backends().presence(name) for name in BACKENDS]; "
    program += "assert all(one.identity or (one.reason and one.remedy) for one in found), found; "
    program += "print([name for name in sys.modules if name.startswith('agentkernel.backends.') and '._' not in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.usefixtures("stranger_installed")
def test_a_backend_that_is_not_in_the_table_may_be_here() -> None:
    assert Backends().presence("stranger").identity
    assert Backends(("memory",)).presence("memory").identity


def test_the_table_is_in_the_order_of_the_choice() -> None:
    assert sorted(assembly.BACKENDS, key=ORDER.index) == list(assembly.BACKENDS)
