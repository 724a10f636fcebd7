"""The engine on scripted backends: what is probed and remembered, decided, built, and always removed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agentkernel.abc import Caller
from agentkernel.engine.ending import to_the_end
from agentkernel.engine.engine import Engine
from agentkernel.engine.fingerprints import MAX_AGE_S, UNREADY_AGE_S, FingerprintCache, from_json, to_json
from agentkernel.engine.parts import ImageParts, Parts
from agentkernel.errors import BackendUnavailable, InvalidInput, LaunchFailed, NotFound, UnknownKey
from agentkernel.model.command import Command, ExecResult, ExitStatus
from agentkernel.model.isolation import BackendKind, Feature, Fingerprint, IsolationLevel, Presence, Provision, Runtime, Support
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec
from agentkernel.store.memory import MemoryStore

CALLER = Caller(principal="tester")
NATIVE = Provision(support=Support.NATIVE)


@dataclass
class FakeSandbox:
    spec: SandboxSpec
    backend: Any
    destroy_takes_s: float = 0.0
    destroyed: bool = False
    sandbox_id: str = "00112233445566aa"

    async def exec(self, command: Command, *, stdin: bytes = b"") -> ExecResult:
        return self.backend.run(self, command)

    async def destroy(self) -> None:
        await asyncio.sleep(self.destroy_takes_s)
        self.destroyed = True


def _succeeds(sandbox: FakeSandbox, command: Command) -> ExecResult:
    return ExecResult(status=ExitStatus(exit_code=0), stdout=b"", stderr=b"")


@dataclass
class FakeBackend:
    """Implements `abc.Backend`; keeps everything that it was asked for."""

    name: str = "namespaces"
    ready: bool = True
    fails: bool = False
    destroy_takes_s: float = 0.0
    run: Callable[[FakeSandbox, Command], ExecResult] = _succeeds
    probes: int = 0
    sweeps: int = 0
    made: list[FakeSandbox] = field(default_factory=list)

    async def probe(self) -> Fingerprint:
        self.probes += 1
        level = IsolationLevel.CONTAINER
        if not self.ready:
            return Fingerprint(backend=self.name, ready=False, level=level, reason="broken", remedy="repair it")
        return Fingerprint(backend=self.name, ready=True, level=level, features=dict.fromkeys(Feature, NATIVE))

    async def create(self, spec: SandboxSpec) -> FakeSandbox:
        if self.fails:
            raise LaunchFailed("the host changed its mind")
        sandbox = FakeSandbox(spec=spec, backend=self, destroy_takes_s=self.destroy_takes_s)
        self.made.append(sandbox)
        return sandbox

    async def sweep(self) -> int:
        self.sweeps += 1
        return 0


@dataclass
class FakeSource:
    """Implements `BackendSource` over backends that exist already; `hidden` ones never take part in the choice."""

    backends: dict[str, FakeBackend]
    hidden: tuple[str, ...] = ()
    unloadable: tuple[str, ...] = ()
    loaded: list[str] = field(default_factory=list)
    present: dict[str, Presence] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.backends if name not in self.hidden)

    def all_names(self) -> tuple[str, ...]:
        return tuple(self.backends)

    def presence(self, name: str) -> Presence:
        return self.present.get(name, Presence(identity="here"))

    def load(self, name: str) -> Any:
        self.loaded.append(name)
        if name in self.unloadable:
            raise BackendUnavailable(f"backend {name!r} cannot be loaded", hint="install it")
        return self.backends[name]


@dataclass
class World:
    """An engine's surroundings in a temporary directory."""

    directory: Path
    source: FakeSource
    standing: str = "boot 1"
    environment: dict[str, str] = field(default_factory=dict)

    def engine(self) -> Engine:
        """A new engine, as a new process would have it."""
        images = ImageParts(
            host_root=_host_root,
            is_project=lambda directory, home: os.path.exists(f"{directory}/package.json"),
            image_for=lambda argv, names: "node:22-alpine" if argv[:1] == (b"node",) else None,
            unpack_argv=lambda options, archives, destination, limit: ("-m", "unpack", *options, *archives, destination, str(limit)),
            canonical=lambda text: f"registry/{text}",
        )
        return Engine(
            Parts(
                backends=self.source,
                images=images,
                environment=self.environment,
                home=str(self.directory / "home"),
                uid=1000,
                cache_directory=str(self.directory / "cache"),
                standing=lambda: self.standing,
                open_store=MemoryStore,
                data_directory=str(self.directory / "data"),
                runtime_directory=str(self.directory / "run"),
            )
        )

    def request(self, **changes: Any) -> SandboxRequest:
        return SandboxRequest(argv=(b"true",), cwd=str(self.directory / "work"), profile="restrictive", **changes)


def _host_root(**facts: Any) -> RootFilesystem | None:
    return None if facts["argv"][:1] == (b"no-such-command",) else RootFilesystem(kind=RootKind.HOST, path_directories=("/usr/bin",))


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def world(tmp_path: Path, backend: FakeBackend) -> World:
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    return World(directory=tmp_path, source=FakeSource({backend.name: backend}))


async def _build(world: World, **changes: Any) -> None:
    async with world.engine().sandbox(CALLER, world.request(**changes)):
        pass


async def test_a_sandbox_is_built_as_granted_and_destroyed_at_the_end(world: World, backend: FakeBackend) -> None:
    async with world.engine().sandbox(CALLER, world.request(memory_bytes=64 * 2**20)) as (sandbox, grant):
        assert grant.backend == "namespaces"
        assert grant.chosen is BackendKind.CHOSEN
        assert sandbox.spec == grant.spec
        assert sandbox.spec.resources.memory_bytes == 64 * 2**20
        assert sandbox.spec.linger_s == 15.0
        assert not backend.made[0].destroyed
    assert backend.made[0].destroyed


async def test_it_is_destroyed_when_the_block_fails(world: World, backend: FakeBackend) -> None:
    with pytest.raises(ZeroDivisionError):
        async with world.engine().sandbox(CALLER, world.request()):
            raise ZeroDivisionError
    assert backend.made[0].destroyed


async def test_it_is_destroyed_when_the_block_is_cancelled_again_and_again(world: World, backend: FakeBackend) -> None:
    backend.destroy_takes_s = 0.05
    inside = asyncio.Event()

    async def hold() -> None:
        async with world.engine().sandbox(CALLER, world.request()):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await inside.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.005)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.made[0].destroyed


async def test_to_the_end_passes_on_what_went_wrong() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await to_the_end(fail())


async def test_deciding_builds_nothing(world: World, backend: FakeBackend) -> None:
    grant = await world.engine().grant(CALLER, world.request())
    assert grant.spec.profile == "restrictive"
    assert (backend.made, backend.sweeps) == ([], 0)


async def test_what_crashes_left_is_swept_once_before_the_first_sandbox(world: World, backend: FakeBackend) -> None:
    engine = world.engine()
    for _ in range(2):
        async with engine.sandbox(CALLER, world.request()):
            assert backend.sweeps == 1


async def test_a_probe_is_remembered_for_the_next_process(world: World, backend: FakeBackend) -> None:
    await _build(world)
    await _build(world)
    assert (backend.probes, len(backend.made)) == (1, 2)


async def test_another_standing_is_probed_anew(world: World, backend: FakeBackend) -> None:
    await _build(world)
    world.standing = "boot 2"
    await _build(world)
    assert backend.probes == 2


async def test_a_failed_launch_forgets_what_was_remembered(world: World, backend: FakeBackend) -> None:
    await _build(world)
    backend.fails = True
    with pytest.raises(LaunchFailed):
        await _build(world)
    backend.fails = False
    await _build(world)
    assert backend.probes == 2


async def test_a_backend_that_is_not_ready_is_probed_every_time(world: World, backend: FakeBackend) -> None:
    backend.ready = False
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="broken"):
            await _build(world)
    assert backend.probes == 2
    backend.ready = True
    await _build(world)


async def test_asking_for_fingerprints_always_probes(world: World, backend: FakeBackend) -> None:
    await _build(world)
    assert [found.backend for found in await world.engine().fingerprints(CALLER)] == ["namespaces"]
    assert backend.probes == 2


async def test_a_backend_that_cannot_be_loaded_is_a_fingerprint_with_the_reason(world: World) -> None:
    world.source.backends["docker"] = FakeBackend(name="docker")
    world.source.unloadable = ("docker",)
    found = {one.backend: one for one in await world.engine().fingerprints(CALLER)}
    assert (found["docker"].ready, found["docker"].reason, found["docker"].remedy) == (
        False,
        "backend 'docker' cannot be loaded",
        "install it",
    )
    assert found["namespaces"].ready


async def test_a_backend_of_another_package_is_used_only_when_it_is_named(world: World) -> None:
    stranger = FakeBackend(name="stranger")
    world.source.backends["stranger"] = stranger
    world.source.hidden = ("stranger",)
    await _build(world)
    assert "stranger" not in world.source.loaded
    await _build(world, backend="stranger")
    assert len(stranger.made) == 1


async def test_an_unknown_backend_is_an_error_before_anything_is_done(world: World, backend: FakeBackend) -> None:
    with pytest.raises(UnknownKey):
        await _build(world, backend="namspaces")
    assert backend.made == []


async def test_the_level_of_a_backend_is_what_the_probe_found(world: World) -> None:
    engine = world.engine()
    with pytest.raises(NotFound):
        engine.isolation_of("namespaces")
    await engine.grant(CALLER, world.request())
    assert engine.isolation_of("namespaces") is IsolationLevel.CONTAINER
    assert world.engine().isolation_of("namespaces") is IsolationLevel.CONTAINER


@pytest.mark.parametrize(
    "garbage", ["", "{", "[]", "null", '{"a": 1}', '{"namespaces\\nboot 1": {"at": 1e99, "fingerprint": {}}}', "[" * 100_000]
)
async def test_a_damaged_cache_is_an_empty_one(garbage: str, world: World, backend: FakeBackend) -> None:
    await _build(world)
    (world.directory / "cache" / "fingerprints.json").write_text(garbage)
    await _build(world)
    assert backend.probes == 2
    await _build(world)
    assert backend.probes == 2


async def test_a_cache_that_cannot_be_written_costs_a_probe_and_nothing_else(world: World, backend: FakeBackend) -> None:
    (world.directory / "cache").write_text("in the way")
    await _build(world)
    await _build(world)
    assert (backend.probes, len(backend.made)) == (2, 2)


def test_a_remembered_probe_grows_old(tmp_path: Path) -> None:
    now = 1000.0
    cache = FingerprintCache(str(tmp_path), lambda: "here", lambda: now)
    cache.put(Fingerprint(backend="b", ready=True, level=IsolationLevel.VM), "")
    now += MAX_AGE_S
    assert cache.get("b", "") is not None
    now += 1
    assert cache.get("b", "") is None
    now = 1.0  # the clock was set back: an entry of the future is not trusted either
    assert cache.get("b", "") is None


def test_that_a_backend_is_not_ready_is_remembered_for_a_shorter_time_and_apart(tmp_path: Path) -> None:
    now = 1000.0
    cache = FingerprintCache(str(tmp_path), lambda: "here", lambda: now)
    found = Fingerprint(backend="b", ready=False, level=IsolationLevel.VM, reason="broken")
    cache.put(found, "one")
    assert cache.get("b", "one") is None
    now += UNREADY_AGE_S
    assert cache.unready("b", "one") == found
    now += 1
    assert cache.unready("b", "one") is None
    cache.put(replace(found, ready=True, reason=""), "one")
    assert cache.unready("b", "one") is None
    assert cache.get("b", "one") is not None


def test_a_remembered_probe_is_of_one_program_or_socket(tmp_path: Path) -> None:
    cache = FingerprintCache(str(tmp_path), lambda: "here")
    cache.put(Fingerprint(backend="b", ready=True, level=IsolationLevel.VM), "the old program")
    assert cache.get("b", "the old program") is not None
    assert cache.get("b", "the new program") is None


def test_the_cache_stays_small(tmp_path: Path) -> None:
    for number in range(100):
        cache = FingerprintCache(str(tmp_path), lambda number=number: f"standing {number}", lambda number=number: float(number))
        cache.put(Fingerprint(backend="b", ready=True, level=IsolationLevel.VM), "")
    kept = json.loads((tmp_path / "fingerprints.json").read_text())
    assert len(kept) == 32
    assert "b\nstanding 99" in kept
    assert [path.name for path in tmp_path.iterdir()] == ["fingerprints.json"]


def test_a_fingerprint_survives_json() -> None:
    found = Fingerprint(
        backend="b",
        ready=True,
        level=IsolationLevel.VM_EMULATED,
        features={Feature.EXEC: Provision(support=Support.EMULATED, reason="why", remedy="what")},
        runtimes=(Runtime(name="runsc", level=IsolationLevel.USER_KERNEL),),
        details={"kernel": "6.1"},
    )
    assert from_json(json.loads(json.dumps(to_json(found)))) == found


def _unpacks(sandbox: FakeSandbox, command: Command) -> ExecResult:
    """What the unpacker does, without the sandbox: the destination is the one writable mount."""
    (destination,) = (bind.source for bind in sandbox.spec.mounts if bind.writable)
    (Path(destination) / "bin").mkdir()
    return ExecResult(status=ExitStatus(exit_code=0), stdout=b"", stderr=b"")


@pytest.fixture
def tar(world: World) -> Path:
    path = world.directory / "image.tar"
    path.write_bytes(b"pretend")
    return path


async def test_a_tar_image_is_unpacked_in_a_sandbox_once(world: World, backend: FakeBackend, tar: Path) -> None:
    backend.run = _unpacks
    async with world.engine().sandbox(CALLER, world.request(image=str(tar))) as (sandbox, grant):
        rootfs = Path(sandbox.spec.root.directory)
        assert sandbox.spec.root.kind is RootKind.DIRECTORY
        assert grant.spec == sandbox.spec
        assert [path.name for path in rootfs.iterdir()] == ["bin"]
    unpacker, first = backend.made
    assert unpacker.destroyed
    assert (unpacker.spec.network.value, unpacker.spec.linger_s) == ("none", 15.0)
    assert [bind.writable for bind in unpacker.spec.mounts] == [False, True, False]
    await _build(world, image=str(tar))
    assert [one.spec.root.directory for one in backend.made[1:]] == [str(rootfs), str(rootfs)]
    assert first.spec.root.directory.startswith(str(world.directory / "cache" / "images"))


async def test_the_same_bytes_under_another_name_are_not_unpacked_again(world: World, backend: FakeBackend, tar: Path) -> None:
    backend.run = _unpacks
    await _build(world, image=str(tar))
    copy = tar.with_name("copy.tar")
    copy.write_bytes(tar.read_bytes())
    await _build(world, image=str(copy))
    assert len(backend.made) == 3


async def test_a_changed_tar_is_another_image(world: World, backend: FakeBackend, tar: Path) -> None:
    backend.run = _unpacks
    await _build(world, image=str(tar))
    tar.write_bytes(b"something else")
    await _build(world, image=str(tar))
    assert len({one.spec.root.directory for one in backend.made if one.spec.root.directory}) == 2


async def test_concurrent_runs_unpack_an_image_once(world: World, backend: FakeBackend, tar: Path) -> None:
    backend.run = _unpacks
    await asyncio.gather(*(_build(world, image=str(tar)) for _ in range(4)))
    assert sum(not one.spec.root.directory for one in backend.made) == 1


@pytest.mark.parametrize(
    ("said", "hint"),
    [(b'{"ok": false, "error": "no tar file", "hint": "do this"}\n', "do this"), (b"garbage", ""), (b"[1]", "")],
)
async def test_an_image_that_cannot_be_unpacked_leaves_nothing(
    said: bytes, hint: str, world: World, backend: FakeBackend, tar: Path
) -> None:
    def fail(sandbox: FakeSandbox, command: Command) -> ExecResult:
        _unpacks(sandbox, command)
        return ExecResult(status=ExitStatus(exit_code=1), stdout=said, stderr=b"noise\nno tar file\n")

    backend.run = fail
    with pytest.raises(InvalidInput, match="no tar file") as caught:
        await _build(world, image=str(tar))
    assert caught.value.hint == hint
    assert all(one.destroyed for one in backend.made)
    left = [path for path in (world.directory / "cache" / "images").iterdir() if path.is_dir() and path.name != "known"]
    assert left == []


async def test_a_command_that_the_host_lacks_is_not_found(world: World, backend: FakeBackend) -> None:
    with pytest.raises(Exception, match="no command 'no-such-command'") as caught:
        async with world.engine().sandbox(CALLER, replace(world.request(), argv=(b"no-such-command",))):
            pass
    assert caught.type.__name__ == "CommandNotFound"
    assert backend.made == []
