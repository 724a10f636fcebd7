"""How gVisor is got: what the package manager has, what is new enough, and what a person is told otherwise."""

from __future__ import annotations

import pytest
from unit.scripted_kernel import ScriptedKernel

from agentkernel import assembly
from agentkernel.cli import getting
from agentkernel.cli.getting import way_to_gvisor
from agentkernel.cli.main import main

MADISON = """\
     runsc | 0.0~20240729.0-4~bpo12+2 | http://deb.debian.org/debian bookworm-backports/main amd64 Packages
     runsc | 0.0~20221219.0-2+b3 | http://deb.debian.org/debian bookworm/main amd64 Packages
"""
OLD = MADISON.splitlines()[1]


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getting.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "apt-get" else None)
    monkeypatch.setattr(getting.os, "geteuid", lambda: 0)


def test_the_newest_package_that_is_new_enough_is_installed(apt: None) -> None:
    way = way_to_gvisor(asked=lambda _: MADISON, system={"VERSION_CODENAME": "bookworm"})
    assert way.commands == (("apt-get", "install", "-y", "--no-install-recommends", "runsc=0.0~20240729.0-4~bpo12+2"),)


def test_a_package_that_is_too_old_is_not_installed_and_backports_are_named(apt: None) -> None:
    way = way_to_gvisor(asked=lambda _: OLD, system={"VERSION_CODENAME": "bookworm"})
    assert way.commands == ()
    assert way.steps[-1] == "apt-get install -t bookworm-backports runsc"


def test_elsewhere_the_steps_get_the_program_and_check_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getting.shutil, "which", lambda _: None)
    monkeypatch.setattr(getting.os, "geteuid", lambda: 1000)
    way = way_to_gvisor(asked=lambda _: pytest.fail("there is no apt"), system={})
    assert way.commands == ()
    assert "sha512sum -c runsc.sha512" in way.steps
    assert way.steps[-1].startswith("sudo install ")


def test_nothing_is_installed_without_consent(apt: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("agentkernel.cli.verbs.setup.way_to_gvisor", lambda: way_to_gvisor(asked=lambda _: MADISON, system={}))
    monkeypatch.setattr(assembly, "build_engine", lambda environment: ScriptedKernel())
    monkeypatch.setattr("agentkernel.cli.verbs.setup.install", lambda _: pytest.fail("nobody has agreed"))
    assert main(["setup", "gvisor"]) == 1
    said = capsys.readouterr().out
    assert "apt-get install" in said and "--yes" in said
