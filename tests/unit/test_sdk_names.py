"""The SDK's names: exactly these, each where it says, and loaded when it is first used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import agentkernel
from agentkernel import sdk

NAMES = {
    "AgentKernelError", "AsyncClient", "AsyncConnection", "AsyncFiles", "AsyncImages", "AsyncProcess", "ImageProgress", "ImageRecord", "Images", "AsyncSandbox", "AsyncStream", "Chunk", "Client",
    "CommandFailed", "Connection", "Copied", "Decision", "EgressRules", "Event", "ExitStatus", "FileRecord", "Files", "LogEntry", "Process", "ProcessRecord", "PublishedPort", "Result",
    "Sandbox", "SandboxInfo", "SandboxStatistics", "Status", "Stream", "WatchEvent",
}  # fmt: skip
TWINS = ("Client", "Connection", "Files", "Images", "Process", "Sandbox", "Stream")


def test_the_package_offers_these_names_and_its_version() -> None:
    assert set(dir(agentkernel)) == NAMES | {"__version__"}
    assert sorted(agentkernel.__all__) == sorted(NAMES)
    assert {name for name in NAMES if getattr(agentkernel, name).__name__ != name} == set()
    assert sdk.__doc__


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="SandBox"):
        _ = agentkernel.SandBox


def test_importing_the_package_loads_nothing_of_it() -> None:
    code = "import sys, agentkernel; print(sorted(name for name in sys.modules if name.startswith(('agentkernel.', 'asyncio'))))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip() == "[]"


def test_nothing_of_the_daemons_client_pulls_in_an_engine() -> None:
    code = "import sys; from agentkernel import Client; print([n for n in sys.modules if n.startswith(('agentkernel.engine', 'agentkernel.back'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip() == "[]"


def _public(kind: type) -> dict[str, inspect.Signature | None]:
    members = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    return {name: inspect.signature(member) if callable(member) else None for name, member in members.items()}


@pytest.mark.parametrize("name", TWINS)
def test_sync_and_async_classes_have_the_same_methods_with_the_same_parameters(name: str) -> None:
    sync, twin = _public(getattr(agentkernel, name)), _public(getattr(agentkernel, f"Async{name}"))
    assert sync.keys() == twin.keys()
    for member, signature in sync.items():
        other = twin[member]
        if signature is None or other is None:
            assert signature is other, member
            continue
        assert [(each.name, each.kind, each.default) for each in signature.parameters.values()] == [
            (each.name, each.kind, each.default) for each in other.parameters.values()
        ], member


_SAID_OTHERWISE = (
    ("`async with client", "`with client"),
    ("`async for chunk in", "`for chunk in"),
    ("an async iterator of pieces", "an iterable of pieces"),
    ("AsyncSandbox", "Sandbox"),
    ("AsyncClient", "Client"),
)


@pytest.mark.parametrize("name", TWINS)
def test_sync_and_async_methods_are_documented_alike(name: str) -> None:
    for member, thing in inspect.getmembers(getattr(agentkernel, f"Async{name}")):
        if not member.startswith("_"):
            text = inspect.getdoc(thing) or ""
            for there, here in _SAID_OTHERWISE:
                text = text.replace(there, here)
            assert inspect.getdoc(getattr(getattr(agentkernel, name), member)) == text, member


@pytest.mark.parametrize("name", [f"{prefix}{name}" for name in TWINS for prefix in ("Async", "")])
def test_every_class_says_which_errors_its_calls_raise(name: str) -> None:
    text = " ".join((getattr(agentkernel, name).__doc__ or "").split())
    assert "Every call raises" in text or "every call raises" in text


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_method_says_what_it_does(name: str) -> None:
    kind = getattr(agentkernel, name)
    silent = [each for each, member in vars(kind).items() if not each.startswith("_") and inspect.isfunction(member) and not member.__doc__]
    assert kind.__doc__ and silent == []
