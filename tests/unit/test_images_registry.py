"""Pulling from a real registry: with and without login, through networks that break, from servers that lie."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import random
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from registry_proxy import Answer, Asked, Proxy, running_proxy, running_tunnel
from registry_world import (
    INDEX,
    MANIFEST,
    PASSWORD,
    USER,
    MadeImage,
    RunningRegistry,
    digest_of,
    htpasswd,
    make_authority,
    make_image,
    make_index,
    running_registry,
    running_token_server,
    tar_of,
)
from unit.images_world import World, needs_registry, tree

from agentkernel.errors import ImageFailed, NotFound, Refused, Unsupported
from agentkernel.images import transfers
from agentkernel.model.image import ImageStage, PullPolicy

pytestmark = needs_registry

NOISE = random.Random(1).randbytes(3_000_000)
BASE = tar_of("etc/", ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:44::/:/bin/sh\n"), ("noise", NOISE))
TOP = tar_of("srv/", ("srv/hello", b"hello"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def proxy(registry: RunningRegistry) -> Iterator[Proxy]:
    with running_proxy(registry.address) as running:
        yield running


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(transfers, "FIRST_PAUSE_S", 0.001)
    world = World(tmp_path)
    yield world
    world.library.close()


@pytest.fixture(scope="module")
def image(registry: RunningRegistry) -> MadeImage:
    made = make_image(BASE, TOP, config={"Env": ["A=1"], "Cmd": ["/bin/sh"], "User": "web", "WorkingDir": "/srv"})
    registry.push("team/app", "1", made)
    return made


async def pull(world: World, reference: str, *, policy: PullPolicy = PullPolicy.MISSING, platform: str = ""):
    return await world.library.obtain(reference, policy, world.report, platform=platform)


async def test_an_image_comes_whole_and_says_what_its_configuration_does(world: World, registry: RunningRegistry, image: MadeImage) -> None:
    pulled = await pull(world, f"{registry.address}/team/app:1")
    assert pulled.digest == image.digest
    assert pulled.config.environment == (("A", "1"),)
    assert (pulled.config.user, pulled.config.working_directory, pulled.config.command) == ("web", "/srv", ("/bin/sh",))
    assert pulled.users == (("root", 0, 0), ("web", 33, 44))
    assert Path(pulled.directory, "noise").read_bytes() == NOISE
    assert Path(pulled.directory, "srv/hello").read_bytes() == b"hello"


async def test_progress_tells_of_each_layer_until_it_is_whole(world: World, registry: RunningRegistry, image: MadeImage) -> None:
    await pull(world, f"{registry.address}/team/app:1")
    assert world.told[0].stage is ImageStage.RESOLVING
    assert world.told[-1].stage is ImageStage.UNPACKING
    for digest in image.layers:
        steps = [each for each in world.told if each.item == digest]
        assert {each.total_bytes for each in steps} == {len(image.blobs[digest])}
        assert [each.done_bytes for each in steps] == sorted(each.done_bytes for each in steps)
        assert steps[-1].done_bytes == len(image.blobs[digest])


async def test_what_is_here_is_not_asked_for_again(world: World, proxy: Proxy, image: MadeImage) -> None:
    first = await pull(world, f"{proxy.address}/team/app:1")
    count = len(proxy.asked)
    assert await pull(world, f"{proxy.address}/team/app:1") == first
    assert await pull(world, f"{proxy.address}/team/app:1", policy=PullPolicy.NEVER) == first
    assert len(proxy.asked) == count
    assert await world.library.find(f"{proxy.address}/team/app:1") == first


async def test_always_asks_for_the_digest_alone_while_the_tag_stands_for_the_same(world: World, proxy: Proxy, image: MadeImage) -> None:
    first = await pull(world, f"{proxy.address}/team/app:1")
    proxy.asked.clear()
    assert await pull(world, f"{proxy.address}/team/app:1", policy=PullPolicy.ALWAYS) == first
    assert [(each.method, each.path) for each in proxy.of("/team/")] == [("HEAD", "/v2/team/app/manifests/1")]


async def test_always_brings_what_the_tag_stands_for_now(world: World, registry: RunningRegistry) -> None:
    registry.push("moving", "now", make_image(tar_of(("version", b"1"))))
    before = await pull(world, f"{registry.address}/moving:now")
    registry.push("moving", "now", make_image(tar_of(("version", b"2"))))
    same = await pull(world, f"{registry.address}/moving:now")
    after = await pull(world, f"{registry.address}/moving:now", policy=PullPolicy.ALWAYS)
    assert same == before != after
    assert tree(after.directory) == {"version": "2"}
    assert tree(before.directory) == {"version": "1"}, "a sandbox may run on it"


async def test_never_asks_nobody(world: World, proxy: Proxy, image: MadeImage) -> None:
    with pytest.raises(NotFound, match="is not here") as caught:
        await pull(world, f"{proxy.address}/team/app:1", policy=PullPolicy.NEVER)
    assert "image pull" in caught.value.hint
    assert proxy.asked == []


async def test_concurrent_callers_fetch_it_once(world: World, proxy: Proxy, image: MadeImage) -> None:
    found = await asyncio.gather(*(pull(world, f"{proxy.address}/team/app:1") for _ in range(5)))
    assert len({each.directory for each in found}) == 1
    assert len(proxy.of("/blobs/")) == len(image.blobs)
    assert len(world.unpacked) == 1


async def test_processes_that_share_the_store_fetch_it_once(world: World, proxy: Proxy, image: MadeImage) -> None:
    libraries = [world.another() for _ in range(3)]
    name = f"{proxy.address}/team/app:1"
    found = await asyncio.gather(*(library.obtain(name, PullPolicy.MISSING, world.report) for library in libraries))
    assert len({each.directory for each in found}) == 1
    assert len(proxy.of("/blobs/")) == len(image.blobs)
    assert len(world.unpacked) == 1
    for library in libraries:
        library.close()


async def test_a_digest_stands_for_one_image(world: World, registry: RunningRegistry, image: MadeImage) -> None:
    pulled = await pull(world, f"{registry.address}/team/app@{image.digest}")
    assert pulled.digest == image.digest
    other = digest_of(b"another")
    with pytest.raises(NotFound, match="there is no image"):
        await pull(world, f"{registry.address}/team/app@{other}")


async def test_layers_that_are_here_do_not_come_again(world: World, registry: RunningRegistry, proxy: Proxy, image: MadeImage) -> None:
    registry.push("team/app", "2", make_image(BASE, tar_of(("srv/bye", b"bye"))))
    await pull(world, f"{proxy.address}/team/app:1")
    proxy.asked.clear()
    second = await pull(world, f"{proxy.address}/team/app:2")
    assert not proxy.of(image.layers[0])
    assert Path(second.directory, "noise").read_bytes() == NOISE


async def test_the_platform_of_this_host_is_chosen(world: World, registry: RunningRegistry) -> None:
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    images = {name: make_image(tar_of(("for", name.encode())), architecture=name) for name in (here, "s390x", "riscv64")}
    for name, made in images.items():
        registry.push("many", f"only-{name}", made)
    registry.push_manifest("many", "all", make_index(*((made, f"linux/{name}") for name, made in images.items())), INDEX)
    pulled = await pull(world, f"{registry.address}/many:all")
    assert tree(pulled.directory) == {"for": here}
    other = await pull(world, f"{registry.address}/many:all", platform="linux/s390x")
    assert tree(other.directory) == {"for": "s390x"}
    with pytest.raises(NotFound, match="not made for linux/ppc64le") as caught:
        await pull(world, f"{registry.address}/many:all", platform="linux/ppc64le")
    assert "linux/s390x" in caught.value.hint
    with pytest.raises(NotFound, match="not made for"):
        await pull(world, f"{registry.address}/many:only-riscv64")


@pytest.mark.parametrize("missing", ["team/app:none", "nobody/nothing:1"])
async def test_what_the_registry_does_not_have_is_not_found(
    world: World, registry: RunningRegistry, image: MadeImage, missing: str
) -> None:
    with pytest.raises(NotFound, match="there is no image"):
        await pull(world, f"{registry.address}/{missing}")
    assert await world.library.images() == []


async def test_a_registry_that_nobody_runs_cannot_be_reached(world: World) -> None:
    with pytest.raises(ImageFailed, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
        await pull(world, "127.0.0.1:9/app:1")
    assert caught.value.hint == "is it running?"


async def test_a_registry_that_takes_its_time_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkernel.images.registry.DOCUMENT_TIMEOUT_S", 0.3)
    ended = asyncio.Event()

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nEndless: ")
        try:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except OSError:
            ended.set()  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ImageFailed, match=r"does not answer in 0\.3 s"):
            await pull(world, f"127.0.0.1:{port}/app:1")
        await ended.wait()


# -- networks that break ----------------------------------------------------------------------------------------------------------------


def only(part: str, *answers: Answer):
    """These answers, one after the other, for paths with that in it."""

    def decide(asked: Asked) -> Answer | None:
        return answers[asked.before] if part in asked.path and asked.before < len(answers) else None

    return decide


async def test_a_transfer_that_breaks_off_goes_on_where_it_ended(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = only(image.layers[0], Answer(cut_after=1_000_000), Answer(cut_after=500_000), Answer(cut_after=0))
    pulled = await pull(world, f"{proxy.address}/team/app:1")
    assert Path(pulled.directory, "noise").read_bytes() == NOISE
    ranges = [each.headers.get("range") for each in proxy.of(image.layers[0])]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1500000-"]


async def test_a_pull_that_failed_goes_on_where_it_ended(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = only(image.layers[0], Answer(cut_after=1_234_567), *[Answer(cut_after=0)] * 50)
    with pytest.raises(ImageFailed, match="does not come") as caught:
        await pull(world, f"{proxy.address}/team/app:1")
    assert "1234567 of" in caught.value.hint
    assert await world.library.images() == []
    count = len(proxy.of(image.layers[0]))
    assert count == transfers.ATTEMPTS
    proxy.decide = lambda _asked: None
    await pull(world, f"{proxy.address}/team/app:1")
    assert [each.headers.get("range") for each in proxy.of(image.layers[0])[count:]] == ["bytes=1234567-"]


async def test_a_pull_that_was_cancelled_goes_on_where_it_ended(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = only(image.layers[0], Answer(cut_after=1_500_000), *[Answer(cut_after=0)] * 50)
    transfers.FIRST_PAUSE_S = 60.0
    some = asyncio.Event()
    world.report = lambda progress: some.set() if progress.done_bytes >= 1_000_000 else None  # type: ignore[method-assign]
    task = asyncio.create_task(pull(world, f"{proxy.address}/team/app:1"))
    await some.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    count = len(proxy.of(image.layers[0]))
    transfers.FIRST_PAUSE_S, proxy.decide = 0.001, lambda _asked: None
    pulled = await pull(world, f"{proxy.address}/team/app:1")
    assert Path(pulled.directory, "noise").read_bytes() == NOISE
    (again,) = [each.headers.get("range", "") for each in proxy.of(image.layers[0])[count:]]
    assert 1_000_000 <= int(again.removeprefix("bytes=").removesuffix("-")) <= 1_500_000


async def test_one_caller_that_gives_up_does_not_stop_the_others(world: World, proxy: Proxy, image: MadeImage) -> None:
    begun = asyncio.Event()
    world.report = lambda _progress: begun.set()  # type: ignore[method-assign]
    tasks = [asyncio.create_task(pull(world, f"{proxy.address}/team/app:1")) for _ in range(3)]
    await begun.wait()
    tasks[0].cancel()
    assert (await tasks[1]).digest == (await tasks[2]).digest == image.digest
    assert tasks[0].cancelled()


async def test_a_server_that_knows_no_ranges_is_heard_from_the_beginning(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = only(image.layers[0], Answer(cut_after=1_000_000), Answer(whole=True))
    pulled = await pull(world, f"{proxy.address}/team/app:1")
    assert Path(pulled.directory, "noise").read_bytes() == NOISE


async def test_a_server_that_has_less_than_we_is_heard_from_the_beginning(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = only(image.layers[0], Answer(cut_after=1_000_000), Answer(status=416))
    assert (await pull(world, f"{proxy.address}/team/app:1")).digest == image.digest


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_that_fails_for_a_while_is_asked_again(world: World, proxy: Proxy, image: MadeImage, status: int) -> None:
    proxy.decide = only(image.layers[0], Answer(status=status), Answer(status=status))
    assert (await pull(world, f"{proxy.address}/team/app:1")).digest == image.digest


async def test_too_many_requests_are_said_so_and_not_made_more(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = lambda asked: Answer(status=429, body=b'{"errors": [{"message": "slow down"}]}') if "manifests" in asked.path else None
    with pytest.raises(ImageFailed, match=r"too many requests from here \(slow down\)") as caught:
        await pull(world, f"{proxy.address}/team/app:1")
    assert "docker login" in caught.value.hint
    assert len(proxy.of("manifests")) == 1


# -- servers that lie -------------------------------------------------------------------------------------------------------------------


async def test_a_damaged_layer_is_not_kept(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = only(image.layers[0], Answer(flip_at=77_777))
    with pytest.raises(ImageFailed, match="is something else"):
        await pull(world, f"{proxy.address}/team/app:1")
    assert not [name for name in world.files() if image.layers[0].removeprefix("sha256:") in name]
    assert (await pull(world, f"{proxy.address}/team/app:1")).digest == image.digest


async def test_what_was_damaged_on_the_disk_comes_once_more(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = only(image.layers[0], Answer(cut_after=1_000_000), *[Answer(cut_after=0)] * 50)
    with pytest.raises(ImageFailed):
        await pull(world, f"{proxy.address}/team/app:1")
    part = world.directory / "blobs/sha256" / (image.layers[0].removeprefix("sha256:") + ".part")
    part.write_bytes(bytes(part.stat().st_size))  # as a power failure leaves it
    proxy.decide = lambda _asked: None
    pulled = await pull(world, f"{proxy.address}/team/app:1")
    assert Path(pulled.directory, "noise").read_bytes() == NOISE


async def test_a_blob_that_was_damaged_on_the_disk_is_found_out_before_it_is_used(
    world: World, registry: RunningRegistry, proxy: Proxy, image: MadeImage
) -> None:
    registry.push("team/app", "3", make_image(BASE, tar_of(("srv/three", b"3"))))
    await pull(world, f"{proxy.address}/team/app:1")
    blob = world.directory / "blobs/sha256" / image.layers[0].removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    pulled = await pull(world, f"{proxy.address}/team/app:3")
    assert Path(pulled.directory, "noise").read_bytes() == NOISE
    assert digest_of(blob.read_bytes()) == image.layers[0]


async def test_more_bytes_than_announced_are_refused(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = lambda asked: Answer(more=b"x") if image.layers[1] in asked.path else None
    with pytest.raises(ImageFailed, match="more comes as"):
        await pull(world, f"{proxy.address}/team/app:1")


async def test_a_part_that_nobody_asked_for_is_refused(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = only(image.layers[0], Answer(cut_after=1000), Answer(headers={"Content-Range": f"bytes 999-{len(BASE)}/{len(BASE)}"}))
    with pytest.raises(ImageFailed, match="a part of a layer that nobody asked for"):
        await pull(world, f"{proxy.address}/team/app:1")


async def test_a_manifest_that_is_not_what_its_digest_says_is_refused(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = lambda asked: Answer(flip_at=len(image.manifest) - 2) if "manifests" in asked.path else None
    with pytest.raises(ImageFailed, match="sent another manifest"):
        await pull(world, f"{proxy.address}/team/app@{image.digest}")
    with pytest.raises(ImageFailed, match="sent another manifest"):
        await pull(world, f"{proxy.address}/team/app:1")


async def test_another_image_of_an_index_is_refused(world: World, registry: RunningRegistry, proxy: Proxy, image: MadeImage) -> None:
    registry.push_manifest("team/app", "indexed", make_index((image, f"linux/{os.uname().machine}")), INDEX)
    other = make_image(TOP)
    headers = {"Content-Type": MANIFEST}
    proxy.decide = lambda asked: Answer(status=200, body=other.manifest, headers=headers) if image.digest in asked.path else None
    with pytest.raises(ImageFailed, match=r"is something else|sent another"):
        await pull(world, f"{proxy.address}/team/app:indexed")


async def test_a_document_without_end_is_not_read_to_its_end(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = lambda asked: Answer(status=200, body=b" " * (5 << 20)) if "manifests" in asked.path else None
    with pytest.raises(ImageFailed, match="a document of more than"):
        await pull(world, f"{proxy.address}/team/app:1")


@pytest.mark.parametrize(
    ("body", "error", "match"),
    [
        (b"not json", ImageFailed, "not JSON"),
        (b"[" * 100_000, ImageFailed, "not JSON"),
        (b"[]", ImageFailed, "not what it must be"),
        (b'{"schemaVersion": 1, "fsLayers": []}', Unsupported, "schema 1"),
        (b'{"schemaVersion": 2, "mediaType": "application/x-helm"}', Unsupported, "not the type"),
        (b'{"schemaVersion": 2, "manifests": [], "layers": [], "config": {}}', ImageFailed, "an index as well"),
        (b'{"schemaVersion": 2, "manifests": []}', NotFound, "not made for"),
    ],
)
async def test_a_manifest_that_is_none_is_refused(world: World, proxy: Proxy, body: bytes, error: type[Exception], match: str) -> None:
    proxy.decide = lambda asked: Answer(status=200, body=body) if "manifests" in asked.path else None
    with pytest.raises(error, match=match):
        await pull(world, f"{proxy.address}/team/app:1")


async def test_a_layer_that_is_hostile_leaves_no_image(world: World, registry: RunningRegistry) -> None:
    registry.push("evil", "1", make_image(tar_of(("../escape", b"x"))))
    with pytest.raises(Exception, match="outside of its root"):
        await pull(world, f"{registry.address}/evil:1")
    assert await world.library.images() == []
    assert not [name for name in world.files() if name.startswith("rootfs")]


async def test_a_layer_that_is_not_what_the_configuration_says_is_refused(world: World, registry: RunningRegistry) -> None:
    made = make_image(BASE, TOP)
    configuration = json.loads(made.blobs[json.loads(made.manifest)["config"]["digest"]])
    configuration["rootfs"]["diff_ids"].reverse()
    data = json.dumps(configuration).encode()
    manifest = json.loads(made.manifest)
    manifest["config"].update(digest=digest_of(data), size=len(data))
    registry.push("turned", "1", MadeImage(manifest=json.dumps(manifest).encode(), blobs={**made.blobs, digest_of(data): data}, layers=()))
    with pytest.raises(Exception, match="layer 1 of the image is not what"):
        await pull(world, f"{registry.address}/turned:1")


async def test_layers_that_cannot_be_read_are_refused_before_they_come(world: World, registry: RunningRegistry, proxy: Proxy) -> None:
    made = make_image(tar_of(("x", b"x")), media_type="application/vnd.oci.image.layer.v1.tar+encrypted")
    registry.push("sealed", "1", made)
    with pytest.raises(Unsupported, match="is of type"):
        await pull(world, f"{proxy.address}/sealed:1")
    assert not proxy.of("blobs")


# -- who may --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path: Path, stack: ExitStack) -> RunningRegistry:
    """A registry with name and password."""
    directory = tmp_path / "closed"
    directory.mkdir()
    running = stack.enter_context(running_registry(directory, **htpasswd(directory)))
    running.headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    running.push("private/app", "1", make_image(TOP))
    return running


async def test_a_password_opens_a_registry(world: World, closed: RunningRegistry) -> None:
    with pytest.raises(Refused, match="not logged in") as caught:
        await pull(world, f"{closed.address}/private/app:1")
    assert caught.value.hint == f"run `docker login {closed.address}`, or podman's"
    world.log_in(closed.address, auth=base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    assert tree((await pull(world, f"{closed.address}/private/app:1")).directory) == {"srv": "/", "srv/hello": "hello"}


async def test_a_wrong_password_does_not(world: World, closed: RunningRegistry) -> None:
    world.log_in(closed.address, auth=base64.b64encode(b"ali:guess").decode())
    with pytest.raises(Refused, match="to this login") as caught:
        await pull(world, f"{closed.address}/private/app:1")
    assert "guess" not in f"{caught.value.message} {caught.value.hint}"


@pytest.fixture
def tokens(tmp_path: Path, stack: ExitStack):
    """A registry that wants tokens, and the server that gives them."""
    directory = tmp_path / "tokens"
    directory.mkdir()
    server = stack.enter_context(running_token_server(make_authority("localhost")))
    running = stack.enter_context(running_registry(directory, **server.configuration(directory)))
    running.headers["Authorization"] = f"Bearer {server.token(actions=['pull', 'push'], repository='team/app')}"
    running.push("team/app", "1", make_image(BASE, TOP))
    return running, server


@pytest.mark.parametrize(
    "login", [{"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}, {"identitytoken": "identity-of-ali"}]
)
async def test_a_login_gets_a_token_for_this_repository(world: World, tokens, login: dict[str, str]) -> None:
    registry, server = tokens
    world.log_in(registry.address, **login)
    await pull(world, f"{registry.address}/team/app:1")
    assert len(server.asked) == 1, "one token serves for the whole pull"
    assert server.asked[0][1]["scope"] == "repository:team/app:pull"
    assert server.asked[0][1]["service"] == server.service


async def test_without_a_login_an_anonymous_token_is_asked_for(world: World, tokens) -> None:
    registry, server = tokens
    with pytest.raises(Refused, match=r"not logged in, or has none \(who are you\?\)"):
        await pull(world, f"{registry.address}/team/app:1")
    server.anonymous = True
    assert (await pull(world, f"{registry.address}/team/app:1")).digest


async def test_a_token_that_runs_out_is_replaced(world: World, tokens, stack: ExitStack) -> None:
    registry, server = tokens
    server.anonymous = True
    front = stack.enter_context(running_proxy(registry.address))
    challenge = (
        f'Bearer realm="http://{server.address}/token",service="{server.service}",scope="repository:team/app:pull",error="invalid_token"'
    )
    refusal = Answer(status=401, headers={"WWW-Authenticate": challenge})
    front.decide = lambda asked: refusal if "/blobs/" in asked.path and asked.before == 0 else None
    assert (await pull(world, f"{front.address}/team/app:1")).digest
    assert len(server.asked) == 1 + 3, "one for the manifest, then one for each blob"


async def test_the_password_goes_nowhere_but_to_the_registry(world: World, closed: RunningRegistry, stack: ExitStack) -> None:
    """Registries send their clients elsewhere for blobs; whoever is there learns nothing."""
    front, elsewhere = (stack.enter_context(running_proxy(closed.address)) for _ in range(2))
    front.decide = lambda asked: (
        Answer(status=307, headers={"Location": f"http://{elsewhere.address}/somewhere"}) if "/blobs/" in asked.path else None
    )
    content = make_image(TOP).blobs
    elsewhere.decide = lambda _asked: Answer(status=200, body=content[front.of("/blobs/")[-1].path.rpartition("/")[2]])
    world.log_in(front.address, auth=base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    await pull(world, f"{front.address}/private/app:1")
    assert all("authorization" in each.headers for each in front.of("/blobs/"))
    assert elsewhere.asked
    assert not any("authorization" in each.headers for each in elsewhere.asked)


@pytest.mark.parametrize("place", ["http://registry.example/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://[bad", ""])
async def test_a_registry_sends_nobody_to_where_it_is_not_safe(world: World, proxy: Proxy, image: MadeImage, place: str) -> None:
    proxy.decide = lambda asked: Answer(status=307, headers={"Location": place}) if "/blobs/" in asked.path else None
    with pytest.raises(ImageFailed, match="sends its clients"):
        await pull(world, f"{proxy.address}/team/app:1")


async def test_a_registry_cannot_send_its_clients_in_circles(world: World, proxy: Proxy, image: MadeImage) -> None:
    proxy.decide = lambda asked: Answer(status=302, headers={"Location": asked.path}) if "/manifests/" in asked.path else None
    with pytest.raises(ImageFailed, match="in circles"):
        await pull(world, f"{proxy.address}/team/app:1")


# -- TLS and proxies --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path, stack: ExitStack):
    """A registry with TLS, and the file of its authority."""
    directory = tmp_path / "secure"
    directory.mkdir()
    certificate, key = make_authority("localhost", "registry.test").write(directory)
    running = stack.enter_context(running_registry(directory, http={"tls": {"certificate": str(certificate), "key": str(key)}}))
    running.context = ssl.create_default_context(cafile=str(certificate))
    running.push("team/app", "1", make_image(TOP))
    return running, certificate


async def test_a_registry_with_tls_is_trusted_by_the_users_certificates(tmp_path: Path, secure) -> None:
    registry, certificate = secure
    distrustful = World(tmp_path)
    with pytest.raises(ImageFailed, match="cannot be reached") as caught:
        await pull(distrustful, f"{registry.address}/team/app:1")
    assert "SSL_CERT_FILE" in caught.value.hint
    trusting = World(tmp_path, {"SSL_CERT_FILE": str(certificate)})
    assert (await pull(trusting, f"{registry.address}/team/app:1")).digest


async def test_certificates_of_one_registry_are_where_podman_has_them(tmp_path: Path, secure) -> None:
    registry, certificate = secure
    world = World(tmp_path)
    directory = world.home / ".config/containers/certs.d" / registry.address
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(certificate.read_bytes())
    assert (await pull(world, f"{registry.address}/team/app:1")).digest


async def test_other_registries_are_reached_through_the_proxy_of_the_environment(tmp_path: Path, secure, stack: ExitStack) -> None:
    registry, certificate = secure
    address, asked = stack.enter_context(running_tunnel({"registry.test:443": registry.address}))
    environment = {"SSL_CERT_FILE": str(certificate), "HTTPS_PROXY": address}
    world = World(tmp_path, environment)
    assert (await pull(world, "registry.test/team/app:1")).digest
    assert set(asked) == {"registry.test:443"}
    asked.clear()
    await pull(world, f"{registry.address}/team/app:1")
    assert asked == [], "this host itself is not beyond the proxy"
    with pytest.raises(ImageFailed, match="cannot be reached"):
        await pull(World(tmp_path, {**environment, "NO_PROXY": "other.test,.test"}), "registry.test/team/app:1", policy=PullPolicy.ALWAYS)


async def test_no_other_registry_is_spoken_to_without_tls(tmp_path: Path, registry: RunningRegistry, stack: ExitStack, image) -> None:
    address, asked = stack.enter_context(running_tunnel({"registry.test:443": registry.address}))
    with pytest.raises(ImageFailed, match="cannot be reached"):
        await pull(World(tmp_path, {"https_proxy": address, "http_proxy": address}), "registry.test/team/app:1")
    assert set(asked) == {"registry.test:443"}


async def test_gzip_of_several_members_and_plain_layers_are_read(world: World, registry: RunningRegistry) -> None:
    data = tar_of(("one", b"1" * 5000))
    registry.push("forms", "members", make_image(data, compress=lambda each: gzip.compress(each[:3000]) + gzip.compress(each[3000:])))
    registry.push("forms", "plain", make_image(data, compress=bytes, media_type="application/vnd.oci.image.layer.v1.tar"))
    for tag in ("members", "plain"):
        assert tree((await pull(world, f"{registry.address}/forms:{tag}")).directory) == {"one": "1" * 5000}
