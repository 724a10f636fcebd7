"""What is told of a sandbox that somebody on this machine made: elsewhere nothing of where on this host it is made of, read-only no variables."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, World

from agentkernel.abc import Caller
from agentkernel.engine.confine import granted, shown
from agentkernel.errors import NotFound, Refused
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.isolation import BackendKind, IsolationLevel
from agentkernel.model.record import CreateOptions, Event, EventFilter, SandboxRecord
from agentkernel.model.request import Grant
from agentkernel.model.spec import Bind, RootFile, RootFilesystem, RootKind, SandboxSpec, Workspace, WorkspaceMode
from agentkernel.model.status import Status

FAR = Caller(principal="ann", remote=True, via="ci")
FAR_HOST = replace(FAR, scopes=frozenset({"full", "host"}))
FAR_LOOKING = replace(FAR, scopes=frozenset({"read-only"}))
RUNNER = replace(FAR, scopes=frozenset({"run-only", "host"}))
LOOKING = Caller(principal="ann", scopes=frozenset({"read-only"}))
ITS_OWN = replace(FAR, scopes=frozenset({"sandbox:one"}))

HERE = "/home/ann/secret-project"
SPEC = SandboxSpec(
    name="one",
    profile="permissive",
    root=RootFilesystem(
        kind=RootKind.HOST,
        directory=HERE,
        entrypoint=("sh",),
        command=("-c", "true"),
        working_directory="/work",
        binds=(Bind(source=HERE, target=HERE),),
        masked=(f"{HERE}/masked",),
        symlinks=(("/link", HERE),),
        files=(RootFile(path="/etc/passwd", content=HERE.encode()),),
        path_directories=(f"{HERE}/bin",),
        environment=(("PYENV_ROOT", "/opt/pyenv"),),
    ),
    workspace=Workspace(mode=WorkspaceMode.WRITABLE, source=HERE, protected=(".git/hooks",)),
    mounts=(Bind(source=f"{HERE}/data", target="/data", writable=True),),
    home_source=HERE,
    trust=f"{HERE}/certificates.pem",
    environment=(("KEY", "value"), ("PATH", "/usr/bin"), ("PYENV_ROOT", "/opt/pyenv")),
)
RECORD = SandboxRecord(
    sandbox_id="00" * 8,
    name="one",
    owner="ann",
    status=Status.RUNNING,
    backend="scripted",
    isolation=IsolationLevel.CONTAINER,
    spec=SPEC,
    created_at=1.0,
)


def _text(what: object) -> str:
    return json.dumps(to_json(what))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.end()


@pytest.mark.parametrize("caller", [FAR, FAR_LOOKING, ITS_OWN])
def test_a_caller_elsewhere_is_told_what_is_inside_and_not_where_it_lies(caller: Caller) -> None:
    seen = shown(caller, RECORD, SPEC)
    assert HERE not in _text(seen)
    assert from_json(SandboxSpec, to_json(seen)) == seen
    assert (seen.workspace.mode, seen.workspace.target) == (WorkspaceMode.WRITABLE, "/workspace")
    assert [(bind.target, bind.writable) for bind in seen.mounts] == [("/data", True)]
    assert seen.home_source == seen.user.home  # that one is shown
    assert (seen.root.entrypoint, seen.root.command, seen.root.working_directory) == (("sh",), ("-c", "true"), "/work")
    assert HERE not in _text(granted(caller, Grant(spec=SPEC, backend="scripted", chosen=BackendKind.CHOSEN)))


@pytest.mark.parametrize("caller", [ANN, FAR_HOST])
def test_who_has_this_host_s_files_is_told_where_they_are(caller: Caller) -> None:
    seen = shown(caller, RECORD, SPEC)
    assert replace(seen, root=SPEC.root) == SPEC
    assert (seen.root.binds, seen.root.files, seen.root.symlinks) == ((), (), ())


@pytest.mark.parametrize(
    ("caller", "environment"), [(FAR, SPEC.environment), (ITS_OWN, SPEC.environment), (FAR_LOOKING, ()), (LOOKING, ())]
)
def test_variables_are_for_those_who_may_run_commands_with_them(caller: Caller, environment: Any) -> None:
    seen = shown(caller, RECORD, SPEC)
    assert (seen.environment, seen.root.environment) == (environment, SPEC.root.environment if environment else ())


async def test_the_door_tells_no_more_of_a_sandbox_that_was_made_here(world: World, tmp_path: Path) -> None:
    project, data = tmp_path / "project", tmp_path / "given"
    project.mkdir()
    data.mkdir()
    engine = world.engine()
    mounts = (Bind(source=str(data), target="/data"),)
    request = replace(world.request(mounts=mounts), directory=str(project), environment={"KEY": "value"})
    await engine.create(ANN, request, CreateOptions(name="one", start=True))
    near, far = await engine.spec(ANN, "one"), await engine.spec(FAR, "one")
    assert (near.workspace.source, near.mounts) == (str(project), mounts)
    assert str(tmp_path) not in _text(far)
    assert dict(far.environment) == dict(near.environment)
    assert (await engine.spec(FAR_LOOKING, "one")).environment == ()


async def test_who_may_only_run_commands_has_what_was_made_for_one_by_its_id(world: World) -> None:
    engine = world.engine()
    await engine.create(ANN, world.request(), CreateOptions(name="lasting", start=True))
    sandbox, _ = await engine.ephemeral(RUNNER, world.request(name="passing"), 5)
    ident = sandbox.sandbox_id
    assert (await engine.info(RUNNER, ident)).name == (await engine.spec(RUNNER, f"passing@{ident}")).name == "passing"
    assert (await engine.open(RUNNER, ident)).sandbox_id == ident
    for act in (engine.info, engine.spec, engine.open):
        with pytest.raises(NotFound):
            await act(RUNNER, "passing")  # whoever it is of: ids are not guessed
        with pytest.raises(Refused):
            await act(RUNNER, "lasting")
        await act(ANN, "passing")
    for forbidden in (engine.stop, engine.remove, engine.start):
        with pytest.raises(Refused):
            await forbidden(RUNNER, ident)


async def test_the_trail_tells_elsewhere_only_the_name_of_an_image_that_is_a_file(world: World) -> None:
    engine = world.engine()
    for image in (f"{HERE}/root.tar", "alpine:3.20"):
        engine._core.audit.append(
            Event(kind="sandbox.created", at=1.0, principal="ann", details=(("image", image), ("profile", "moderate")))
        )

    async def images(caller: Caller) -> list[str]:
        return [dict(event.details)["image"] async for event in engine.events(caller, EventFilter())]

    assert await images(ANN) == await images(FAR_HOST) == [f"{HERE}/root.tar", "alpine:3.20"]
    assert await images(FAR) == ["root.tar", "alpine:3.20"]
