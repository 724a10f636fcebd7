"""Images by name behind the door: looked for, fetched, decided twice, worked on, listed, removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, BOB, World
from unit.image_world import EngineBackend, Registry, Shelf

from agentkernel.abc import Caller
from agentkernel.engine import imagejobs, imagekeepers
from agentkernel.engine.engine import Engine
from agentkernel.engine.imagejobs import MAX_RUNNING, MAX_STEPS, REMEMBERED, ImageJobs
from agentkernel.engine.reserve import PoolSettings
from agentkernel.errors import Busy, Conflict, DaemonUnavailable, ImageFailed, InvalidInput, NotFound, Refused, UnknownKey, Unsupported
from agentkernel.model.image import (
    Image,
    ImageConfig,
    ImageLimits,
    ImageProgress,
    ImageRecord,
    ImageStage,
    ImageWork,
    ImageWorkKind,
    PullPolicy,
)
from agentkernel.model.record import CreateOptions, EventFilter
from agentkernel.model.spec import RootKind

APP = "registry/app"


@dataclass
class Images:
    """A world with a store, an engine that keeps images, and a registry for both."""

    world: World
    registry: Registry = field(default_factory=Registry)

    def __post_init__(self) -> None:
        self.store = Shelf(self.registry, base=str(self.world.directory / "data" / "images"))
        self.shipyard = Shelf(self.registry)
        self.world.others["shipyard"] = EngineBackend(self.world, self.shipyard)
        self.world.images |= {"canonical": self.canonical, "library": self.library, "logins": self.logins, "default_image": lambda: "base"}
        self.registry.gate.set()

    @staticmethod
    def canonical(text: str) -> str:
        if " " in text:
            raise InvalidInput(f"{text!r} is not the name of an image")
        return text if text.startswith("registry/") else f"registry/{text}"

    def library(self, directory: str, **more: Any) -> Shelf:
        assert directory == self.store.base
        self.store.in_use = more["in_use"]
        return self.store

    async def logins(self, reference: str) -> tuple[str, str, str] | None:
        return None

    def request(self, image: str | None = "app", **changes: Any) -> Any:
        return self.world.request(image=image, **changes)

    def kinds(self, prefix: str) -> list[tuple[str, str]]:
        return [(event.kind, event.outcome) for event in self.world.store.events(EventFilter(kinds=(prefix,), limit=1000))]


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[Images]:
    (tmp_path / "home").mkdir()
    images = Images(World(directory=tmp_path))
    yield images
    await images.world.end()


# -- the decision


async def test_an_image_that_is_not_here_is_granted_and_fetched_with_the_sandbox(images: Images) -> None:
    images.registry.add("app", environment=(("A", "1"),), working_directory="/srv", user="1234")
    engine = images.world.engine(Engine)
    grant = await engine.grant(ANN, images.request())
    assert (grant.fetches, grant.backend, images.store.asked) == (True, "scripted", [])
    async with engine.sandbox(ANN, images.request()) as (sandbox, granted):
        assert sandbox.spec.root.kind is RootKind.DIRECTORY
        assert sandbox.spec.root.directory == f"{images.store.base}/0001"
        assert (dict(sandbox.spec.environment)["A"], sandbox.spec.user.uid, sandbox.spec.root.working_directory) == ("1", 1234, "/srv")
        assert granted.spec.linger_s == 15.0
    assert images.store.asked == [(APP, PullPolicy.MISSING, "")]
    assert not (await engine.grant(ANN, images.request())).fetches


@pytest.mark.parametrize("what", [".ssh", ".aws/keys.tar", "", "link", "data"], ids=str)
async def test_what_no_sandbox_is_shown_is_no_image_either(images: Images, what: str) -> None:
    """Neither `image import` nor `--image` takes up what `--mount` refuses."""
    home = images.world.directory / "home"
    (home / ".ssh").mkdir()
    (home / ".aws").mkdir()
    (home / ".aws/keys.tar").touch()
    (home / "link").symlink_to(".ssh")
    (images.world.directory / "data").mkdir(exist_ok=True)
    path = str(images.world.directory / what) if what == "data" else str(home / what)
    engine = images.world.engine(Engine)
    with pytest.raises(Refused, match="cannot be shown in a sandbox"):
        await engine.image_begin(ANN, ImageWork(kind=ImageWorkKind.IMPORT, reference="mine", path=path))
    with pytest.raises(Refused, match="cannot be shown in a sandbox"):
        await engine.grant(ANN, images.request(path))
    assert ("image.imported", "refused") in images.kinds("image.imported")


async def test_work_that_takes_too_long_is_ended_and_says_so(images: Images) -> None:
    """A registry that never comes to an end, for a job and for a sandbox that needs its image."""
    images.world.images["limits"] = lambda: ImageLimits(work_s=0.05)
    images.registry.gate.clear()
    images.registry.add("app")
    engine = images.world.engine(Engine)
    job = await engine.image_begin(ANN, ImageWork(kind=ImageWorkKind.PULL, reference="app"))
    *_, last = [step async for step in engine.image_follow(ANN, job, follow=True)]
    assert (last.stage, last.error_code, last.error) == (ImageStage.FAILED, "image_failed", "it took longer than 50ms")
    assert "images.timeout" in last.hint
    assert images.kinds("image.pulled") == [("image.pulled", "image_failed")]
    with pytest.raises(ImageFailed, match="it took longer than 50ms"):
        async with engine.sandbox(ANN, images.request()):
            pytest.fail("there is no image")


async def test_what_is_here_is_in_the_grant(images: Images) -> None:
    images.store.put(images.registry.add("app", command=("serve",)))
    grant = await images.world.engine(Engine).grant(ANN, images.request(name="mine"))
    assert (grant.fetches, grant.spec.root.command, grant.spec.root.digest[-1], grant.spec.name) == (False, ("serve",), "1", "mine")
    assert images.store.asked == []


async def test_always_fetches_and_never_does_not(images: Images) -> None:
    images.store.put(images.registry.add("app", 1))
    images.registry.add("app", 2)
    engine = images.world.engine(Engine)
    always = images.request(pull=PullPolicy.ALWAYS)
    assert (await engine.grant(ANN, always)).fetches
    async with engine.sandbox(ANN, always) as (sandbox, _):
        assert sandbox.spec.root.digest[-1] == "2"
    with pytest.raises(NotFound, match="other") as missing:
        await engine.grant(ANN, images.request("other", pull=PullPolicy.NEVER))
    assert "agentkernel image pull other" in missing.value.hint
    assert not (await engine.grant(ANN, images.request(pull=PullPolicy.NEVER))).fetches


async def test_an_engine_that_has_the_image_is_taken_and_told_the_digest(images: Images) -> None:
    images.shipyard.put(images.registry.add("app", entrypoint=("/entry",)))
    engine = images.world.engine(Engine)
    async with engine.sandbox(ANN, images.request()) as (sandbox, grant):
        assert (grant.backend, grant.chosen.name) == ("shipyard", "CHOSEN")
        assert (sandbox.spec.root.kind, sandbox.spec.root.reference, sandbox.spec.root.entrypoint) == (RootKind.IMAGE, APP, ("/entry",))
    assert images.shipyard.asked == []
    assert images.shipyard.logins == images.logins


async def test_a_backend_that_was_asked_for_is_alone_asked_for_the_image(images: Images) -> None:
    images.shipyard.put(images.registry.add("app"))
    engine = images.world.engine(Engine)
    grant = await engine.grant(ANN, images.request(backend="scripted"))
    assert (grant.backend, grant.fetches, images.shipyard.found) == ("scripted", True, 0)
    async with (
        engine.sandbox(ANN, images.request("new", backend="scripted")) if images.registry.add("new") else pytest.fail() as (sandbox, _)
    ):
        assert sandbox.spec.root.kind is RootKind.DIRECTORY


async def test_an_engine_that_does_not_answer_has_no_images(images: Images) -> None:
    images.shipyard.broken = ImageFailed("the engine died")
    images.registry.add("app")
    engine = images.world.engine(Engine)
    assert (await engine.grant(ANN, images.request())).backend == "scripted"
    assert await engine.images(ANN) == []
    with pytest.raises(ImageFailed):
        await engine.images(ANN, "shipyard")


async def test_all_images_are_listed_at_the_same_time_and_nothing_is_probed_for_it(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other."""
    together = asyncio.Barrier(2)

    async def probed() -> None:
        pytest.fail("what a sandbox could be made with is no question of a list")

    monkeypatch.setattr(images.world.others["shipyard"], "probe", probed)
    images.shipyard.put(images.registry.add("theirs"))
    images.store.put(images.registry.add("ours", 2))
    images.shipyard.listing = images.store.listing = together.wait
    found = await images.world.engine(Engine).images(ANN)
    assert [(each.reference, each.backend) for each in found] == [("registry/ours", ""), ("registry/theirs", "shipyard")]


async def test_an_engine_that_hangs_holds_up_no_list(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagekeepers, "LIST_S", 0.05)
    images.store.put(images.registry.add("ours"))
    images.shipyard.listing = asyncio.Event().wait
    assert [each.reference for each in await images.world.engine(Engine).images(ANN)] == ["registry/ours"]


async def test_an_engine_gets_the_image_of_the_table_where_none_is_named(images: Images) -> None:
    images.registry.add("base", command=("x",))
    async with images.world.engine(Engine).sandbox(ANN, images.request(None, backend="shipyard")) as (sandbox, grant):
        assert (sandbox.spec.root.reference, sandbox.spec.root.command) == ("registry/base", ())
        assert "image-picked" in [notice.code for notice in grant.notices]


async def test_an_archive_is_taken_up_by_an_engine_once(images: Images) -> None:
    archive = images.world.directory / "rootfs.tar"
    archive.write_bytes(b"bytes")
    engine = images.world.engine(Engine)
    for _ in range(2):
        async with engine.sandbox(ANN, images.request(str(archive), backend="shipyard")) as (sandbox, grant):
            assert (sandbox.spec.root.kind, sandbox.spec.root.label, grant.tar_image) == (RootKind.IMAGE, "rootfs.tar", None)
            assert sandbox.spec.root.reference.startswith("registry/localhost/agentkernel-tar:")
    assert len(images.shipyard.images_here) == 1


async def test_an_image_that_cannot_be_had_is_told_and_nothing_is_made(images: Images) -> None:
    engine = images.world.engine()
    with pytest.raises(NotFound, match="no registry"):
        await engine.create(ANN, images.request(), CreateOptions(start=True))
    with pytest.raises(InvalidInput):
        await engine.create(ANN, images.request("two words"), CreateOptions())
    assert images.world.machines == {}
    assert images.kinds("sandbox.") == [("sandbox.created", "not_found"), ("sandbox.created", "invalid_input")]


async def test_a_lasting_sandbox_starts_again_without_asking_for_its_image(images: Images) -> None:
    images.registry.add("app")
    engine = images.world.engine()
    info = await engine.create(ANN, images.request(), CreateOptions(name="box", start=True))
    assert info.image == "app"
    await engine.stop(ANN, "box")
    asked = len(images.store.asked)
    await engine.start(ANN, "box")
    assert len(images.store.asked) == asked
    with pytest.raises(Conflict):
        await engine.image_remove(ANN, "app")
    assert await engine.image_prune(ANN, 0.0) == ()
    await engine.remove(ANN, "box", force=True)
    assert await engine.image_prune(ANN, 0.0) == (APP,)


async def test_a_command_may_decline_to_wait_for_an_image(images: Images) -> None:
    images.registry.add("app")
    engine = images.world.engine()
    with pytest.raises(DaemonUnavailable):
        await engine.ephemeral(ANN, images.request(), 7, fetches=False)
    assert (images.store.asked, images.world.machines, images.kinds("sandbox.")) == ([], {}, [])
    sandbox, _ = await engine.ephemeral(ANN, images.request(), 7)
    assert sandbox.spec.root.digest
    stored = images.world.store.find_exec(7)
    assert stored is not None
    assert stored.spec.root.digest == sandbox.spec.root.digest
    await engine.dispose(7)
    await engine.ephemeral(ANN, images.request(), 8, fetches=False)


# -- work


def pull(name: str = "app", **changes: Any) -> ImageWork:
    return ImageWork(kind=ImageWorkKind.PULL, reference=name, **changes)


async def followed(engine: Any, job: str, caller: Caller = ANN) -> list[ImageProgress]:
    return [step async for step in engine.image_follow(caller, job, follow=True)]


async def test_work_is_told_step_by_step_to_its_end(images: Images) -> None:
    images.registry.add("app")
    engine = images.world.engine()
    job = await engine.image_begin(ANN, pull(platform="linux/arm64"))
    steps = await followed(engine, job)
    assert [step.stage for step in steps[:2]] == [ImageStage.RESOLVING, ImageStage.DOWNLOADING]
    assert [step.done_bytes for step in steps if step.stage is ImageStage.DOWNLOADING] == [0, 100]
    assert steps[-1].image == ImageRecord(reference=APP, digest=images.registry.images[APP].digest, size_bytes=100, obtained_at=1.0)
    assert images.store.asked == [(APP, PullPolicy.ALWAYS, "linux/arm64")]
    assert [step async for step in engine.image_follow(ANN, job, follow=True)] == steps
    assert images.kinds("image.") == [("image.pulled", "ok")]


async def test_it_goes_on_when_nobody_looks_and_keeps_the_daemon_busy(images: Images) -> None:
    images.registry.add("app")
    images.registry.gate.clear()
    engine = images.world.engine()
    job = await engine.image_begin(ANN, pull())
    seen: list[ImageProgress] = []

    async def look() -> None:
        async for step in engine.image_follow(ANN, job, follow=True):
            seen.append(step)

    looking = asyncio.create_task(look())
    while not seen:
        await asyncio.sleep(0)
    looking.cancel()
    assert engine.busy() == 1
    images.registry.gate.set()
    assert (await followed(engine, job))[-1].stage is ImageStage.DONE
    assert engine.busy() == 0


async def test_a_failure_is_its_last_step(images: Images) -> None:
    engine = images.world.engine()
    last = (await followed(engine, await engine.image_begin(ANN, pull())))[-1]
    assert (last.stage, last.error_code, last.hint) == (ImageStage.FAILED, "not_found", "check the name")
    images.registry.failure = OSError(28, "No space left on device")
    last = (await followed(engine, await engine.image_begin(ANN, pull())))[-1]
    assert (last.error_code, "No space left" in last.error) == ("image_failed", True)
    assert images.kinds("image.") == [("image.pulled", "not_found"), ("image.pulled", "image_failed")]


async def test_what_cannot_be_is_refused_at_once(images: Images) -> None:
    engine = images.world.engine()
    for work, error in (
        (pull("two words"), InvalidInput),
        (pull(backend="shipyrad"), UnknownKey),
        (ImageWork(kind=ImageWorkKind.IMPORT, reference="a", path="relative"), InvalidInput),
        (ImageWork(kind=ImageWorkKind.IMPORT, reference="a", path="/no/such/file"), NotFound),
        (ImageWork(kind=ImageWorkKind.BUILD, reference="a", path="/no/such/directory"), NotFound),
    ):
        with pytest.raises(error):
            await engine.image_begin(ANN, work)
    assert len(images.kinds("image.")) == 5


async def test_the_backend_that_is_named_keeps_the_image(images: Images) -> None:
    images.registry.add("app")
    engine = images.world.engine()
    done = (await followed(engine, await engine.image_begin(ANN, pull(backend="shipyard"))))[-1]
    assert done.image is not None
    assert (done.image.backend, list(images.shipyard.images_here), images.store.images_here) == ("shipyard", [APP], {})
    await followed(engine, await engine.image_begin(ANN, pull(backend="scripted")))
    assert list(images.store.images_here) == [APP]
    assert [(each.reference, each.backend) for each in await engine.images(ANN)] == [(APP, ""), (APP, "shipyard")]
    assert [each.backend for each in await engine.images(ANN, "shipyard")] == ["shipyard"]


async def test_removing_says_who_else_has_it(images: Images) -> None:
    images.shipyard.put(images.registry.add("app"))
    engine = images.world.engine()
    with pytest.raises(NotFound, match="shipyard has it") as elsewhere:
        await engine.image_remove(ANN, "app")
    assert "--backend shipyard" in elsewhere.value.hint
    await engine.image_remove(ANN, "app", "shipyard")
    with pytest.raises(NotFound):
        await engine.image_remove(ANN, "app")
    assert [outcome for _, outcome in images.kinds("image.removed")] == ["not_found", "ok", "not_found"]
    with pytest.raises(InvalidInput):
        await engine.image_prune(ANN, -1.0)


@pytest.mark.parametrize("backend", ["", "shipyard"])
async def test_what_only_a_warm_pool_has_is_not_in_use(images: Images, backend: str) -> None:
    (images.shipyard if backend else images.store).put(images.registry.add("app"))
    engine = images.world.engine(pool=PoolSettings(minimum=1, maximum=2, settle_s=0))
    images.shipyard.in_use = engine._core.images_in_use
    for exec_id in (1, 2):
        await engine.ephemeral(ANN, images.request(backend=backend or "scripted"), exec_id)
        if exec_id == 1:
            with pytest.raises(Conflict):
                await engine.image_remove(ANN, "app", backend)
        await engine.dispose(exec_id)
    assert [pool.image for pool in (await engine.status(ANN)).pools] == ["app"]
    await engine.image_remove(ANN, "app", backend)
    assert (await engine.status(ANN)).pools == () and not images.world.machines


async def test_an_image_of_a_block_is_in_use(images: Images) -> None:
    images.registry.add("app")
    engine = images.world.engine(Engine)
    async with engine.sandbox(ANN, images.request()):
        with pytest.raises(Conflict):
            await engine.image_remove(ANN, "app")
    await engine.image_remove(ANN, "app")


async def test_an_import_and_a_build_go_the_same_way(images: Images, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "rootfs.tar").touch()
    seen: list[Any] = []

    async def build(work: ImageWork, reference: str, place: Any, report: Any) -> Image:
        seen.append((work.target, reference, place.keeper, place.directory))
        report(ImageProgress(stage=ImageStage.BUILDING, item="STEP 1"))
        return images.store.put(Image(reference=reference, digest="sha256:" + "b" * 64, config=ImageConfig()))

    work = ImageWork(kind=ImageWorkKind.BUILD, reference="built", path=str(tmp_path / "project"), target="t")
    engine = images.world.engine()
    last = (await followed(engine, await engine.image_begin(ANN, work)))[-1]
    assert last.error_code == "unsupported"
    images.world.images["build"] = build
    engine = images.world.engine()
    steps = await followed(engine, await engine.image_begin(ANN, work))
    assert [(step.stage, step.item) for step in steps[:-1]] == [(ImageStage.BUILDING, "STEP 1")]
    assert seen == [("t", "registry/built", images.store, images.store.base)]
    imported = ImageWork(kind=ImageWorkKind.IMPORT, reference="imported", path=str(tmp_path / "rootfs.tar"))
    assert (await followed(engine, await engine.image_begin(ANN, imported)))[-1].stage is ImageStage.DONE
    assert [kind for kind, outcome in images.kinds("image.") if outcome == "ok"] == ["image.built", "image.imported"]


async def test_callers_follow_their_own_work_and_do_what_their_scopes_allow(images: Images) -> None:
    images.registry.add("app")
    engine = images.world.engine()
    job = await engine.image_begin(ANN, pull())
    for job_id, caller in ((job, BOB), ("0" * 16, ANN)):
        with pytest.raises(NotFound):
            await followed(engine, job_id, caller)
    assert await followed(engine, job, Caller(principal="root", scopes=frozenset({"admin"})))
    for scope in ("run-only", "read-only"):
        narrow = Caller(principal="ann", scopes=frozenset({scope}))
        assert await engine.images(narrow)
        for act in (
            engine.image_begin(narrow, pull()),
            engine.image_remove(narrow, "app"),
            engine.image_prune(narrow, 0.0),
        ):
            with pytest.raises(Refused):
                await act
    with pytest.raises(Refused):
        await engine.images(Caller(principal="ann", scopes=frozenset({"sandbox:box"})))


async def test_the_end_of_an_engine_breaks_off_what_is_under_way(images: Images) -> None:
    images.registry.add("app")
    images.registry.gate.clear()
    engine = images.world.engine()
    job = await engine.image_begin(ANN, pull())
    looking = asyncio.create_task(followed(engine, job))
    await asyncio.sleep(0)
    await engine.close()
    images.world.engines.remove(engine)
    assert (await looking)[-1].stage is ImageStage.FAILED
    assert images.store.closed


async def test_without_a_store_images_by_name_are_unsupported(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    with pytest.raises(Unsupported):
        await world.engine().grant(ANN, world.request(image="app"))
    world.images["canonical"] = Images.canonical
    with pytest.raises(Unsupported):
        await world.engine().image_begin(ANN, pull())
    await world.end()


async def test_the_next_engine_keeps_what_the_sandboxes_of_its_store_need(images: Images) -> None:
    images.registry.add("app")
    engine = images.world.engine()
    await engine.create(ANN, images.request(), CreateOptions(name="box"))
    again = images.world.engine()
    await again.recover()
    assert images.store.kept == {images.registry.images[APP].digest}


async def test_an_engine_in_process_leaves_what_the_durable_store_needs(images: Images) -> None:
    images.registry.add("app")
    needed: set[str] = set()
    engine = images.world.engine(Engine, images_stored=lambda: needed)
    async with engine.sandbox(ANN, images.request()) as (sandbox, _):
        needed.add(sandbox.spec.root.digest)
    with pytest.raises(Conflict):
        await engine.image_remove(ANN, "app")
    assert await engine.image_prune(ANN, 0.0) == ()
    needed.clear()
    assert await engine.image_prune(ANN, 0.0) == (APP,)


# -- jobs


async def _nothing(_: Any) -> ImageRecord:
    return ImageRecord(reference=APP, digest="", size_bytes=0, obtained_at=0.0)


async def test_jobs_that_have_ended_are_forgotten_and_few_run_at_once() -> None:
    jobs = ImageJobs()
    ids = []
    for _ in range(REMEMBERED + 5):
        ids.append(jobs.begin(ANN, _nothing))
        _ = [step async for step in jobs.follow(ANN, ids[-1], follow=True)]
    with pytest.raises(NotFound):
        await anext(jobs.follow(ANN, ids[0], follow=False))
    held = asyncio.Event()

    async def wait(_: Any) -> ImageRecord:
        await held.wait()
        return await _nothing(_)

    for _ in range(MAX_RUNNING):
        jobs.begin(ANN, wait)
    with pytest.raises(Busy):
        jobs.begin(ANN, wait)
    held.set()
    await jobs.close()
    assert len(jobs) == 0


async def test_a_builder_that_talks_without_end_is_heard_for_a_while_and_its_end_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagejobs, "MAX_STEPS", 10)
    assert MAX_STEPS > 1000

    async def talk(report: Any) -> ImageRecord:
        for number in range(100):
            report(ImageProgress(stage=ImageStage.BUILDING, item=str(number)))
        raise ImageFailed("in the end")

    jobs = ImageJobs()
    steps = [step async for step in jobs.follow(ANN, jobs.begin(ANN, talk), follow=True)]
    assert [step.item for step in steps[:-1]] == [str(number) for number in range(10)]
    assert steps[-1].error == "in the end"


async def test_bytes_are_told_now_and_then() -> None:
    now = 0.0
    jobs = ImageJobs(clock=lambda: now)

    async def load(report: Any) -> ImageRecord:
        nonlocal now
        for done in range(1000):
            now += 0.01
            report(replace(ImageProgress(stage=ImageStage.DOWNLOADING, item="a", total_bytes=999), done_bytes=done))
        return await _nothing(report)

    steps = [step async for step in jobs.follow(ANN, jobs.begin(ANN, load), follow=True)]
    assert 90 <= len(steps) <= 110
    assert steps[-2].done_bytes == 999
