"""`agentkernel image`: the images that sandboxes are made of."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

from agentkernel.abc import Caller, Kernel
from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.each import Tally
from agentkernel.cli.output import table
from agentkernel.cli.progress import Progress
from agentkernel.cli.show import age, print_json
from agentkernel.client.imagework import worked
from agentkernel.config.parsing import Parser
from agentkernel.errors import InvalidInput
from agentkernel.images.reference import parse
from agentkernel.model.image import ImageRecord, ImageWork, ImageWorkKind
from agentkernel.text.records import image_record
from agentkernel.text.style import printable
from agentkernel.units import format_size, parse_duration

HELP = """\
Fetch, import, build, list and remove images. They are kept in agentkernel's own store, which needs no container engine;
with --backend docker or podman in that engine's.

  agentkernel image pull python:3.13-slim                  from Docker Hub; ghcr.io/owner/name:tag, localhost:5000/name
  agentkernel image pull --platform linux/arm64 alpine
  agentkernel image import rootfs.tar.gz mine:1            an archive of a file system, of `docker save`, OCI; or a directory
  agentkernel image build -t app .                         a Dockerfile, by docker, podman or buildah
  agentkernel image build -t app:test --target test --build-arg V=2 -f docker/Dockerfile .
  agentkernel image list
  agentkernel image remove app:test
  agentkernel image prune --unused 7d                      what nobody used for so long and no sandbox needs

Then: agentkernel run --image app ...  Credentials are those of `docker login` and `podman login`. docs/images.md has the details.
"""

_WHAT = ("pull", "import", "build", "list", "remove", "prune")
_BUILD = ("file", "target", "build_arg", "builder", "no_cache", "tag")
_HINTS = {
    "pull": "agentkernel image pull alpine:3.20",
    "import": "agentkernel image import rootfs.tar NAME",
    "build": "agentkernel image build -t NAME DIRECTORY",
    "remove": "agentkernel image remove NAME",
}
T = TypeVar("T")


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    if isinstance(parser, Parser):
        parser.intermixes = True
    parser.usage = "agentkernel image (pull | import | build | list | remove | prune) [OPTION...] [ARGUMENT...]"
    parser.add_argument("what", choices=_WHAT, help="what to do")
    parser.add_argument("arguments", nargs="*", default=[], metavar="ARGUMENT", help="names of images, paths")
    parser.add_argument("-B", "--backend", default="", metavar="NAME", help="the engine that keeps the image: docker, podman")
    parser.add_argument("--platform", default="", metavar="PLATFORM", help="pull, build: another than this host's, such as linux/arm64")
    parser.add_argument("-t", "--tag", default="", metavar="NAME", help="build: the image's name")
    parser.add_argument("-f", "--file", default="", metavar="FILE", help="build: the Dockerfile, when it has another name or place")
    parser.add_argument("--target", default="", metavar="STAGE", help="build: the stage to stop at")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="build: for its ARG (repeatable)")
    parser.add_argument(
        "--builder", default="", choices=("docker", "podman", "buildah"), help="build: by which; else the first that is here"
    )
    parser.add_argument("--no-cache", action="store_true", help="build: without what an earlier build left")
    parser.add_argument("--unused", default="7d", metavar="TIME", help="prune: for so long; default %(default)s")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress; list: names only")
    parser.add_argument("--json", action="store_true", help="print the images as JSON")


def main(args: Namespace, context: Context) -> int:
    """Does it."""
    _check(args)
    if args.what in ("import", "build"):
        context.here(
            f"`image {args.what}` reads files of the daemon's machine", hint="put it into a registry, then: agentkernel image pull NAME"
        )
    if args.what in ("list", "remove", "prune"):
        return _KEEPING[args.what](args, context)
    record = _done(context, lambda kernel, caller: _worked(kernel, caller, _work(args, context), args, context))
    if args.json:
        print_json(image_record(record))
    else:
        sys.stdout.write(f"{_short(record.reference)}\n")
    return 0


def _check(args: Namespace) -> None:
    """Raises InvalidInput for words that do not go together."""
    least, most = {"pull": (1, 1), "import": (2, 2), "build": (0, 1), "list": (0, 0), "remove": (1, 1000), "prune": (0, 0)}[args.what]
    if not least <= len(args.arguments) <= most:
        few = len(args.arguments) < least
        raise InvalidInput(f"`image {args.what}` has too {'few' if few else 'many'} arguments", hint=f"for example: {_hint(args.what)}")
    if args.what != "build" and any(getattr(args, name) for name in _BUILD):
        raise InvalidInput("-t, -f, --target, --build-arg, --builder and --no-cache go with `image build`", hint=_HINTS["build"])
    if args.platform and args.what not in ("pull", "build"):
        raise InvalidInput("--platform goes with `image pull` and `image build`", hint=_HINTS["pull"])
    if args.what == "build" and not args.tag:
        raise InvalidInput("which name is the image to have?", hint=_HINTS["build"])


def _hint(what: str) -> str:
    return _HINTS.get(what, f"agentkernel image {what}")


def _work(args: Namespace, context: Context) -> ImageWork:
    if args.what == "pull":
        return ImageWork(kind=ImageWorkKind.PULL, reference=args.arguments[0], backend=args.backend, platform=args.platform)
    if args.what == "import":
        path = os.path.join(context.cwd(), args.arguments[0])
        return ImageWork(kind=ImageWorkKind.IMPORT, reference=args.arguments[1], backend=args.backend, path=os.path.realpath(path))
    place = os.path.realpath(os.path.join(context.cwd(), *args.arguments[:1]))
    return ImageWork(
        kind=ImageWorkKind.BUILD,
        reference=args.tag,
        backend=args.backend,
        platform=args.platform,
        path=place,
        dockerfile=os.path.relpath(os.path.realpath(os.path.join(context.cwd(), args.file)), place) if args.file else "",
        target=args.target,
        arguments=tuple(_argument(word) for word in args.build_arg),
        builder=args.builder,
        fresh=args.no_cache,
    )


def _argument(word: str) -> tuple[str, str]:
    """NAME=VALUE; NAME alone has the caller's own value, as `docker build` has it."""
    name, equals, value = word.partition("=")
    if not equals:
        if name not in os.environ:
            raise InvalidInput(f"--build-arg {name}: there is no such variable here", hint=f"set it, or write --build-arg {name}=VALUE")
        value = os.environ[name]
    return name, value


async def _worked(kernel: Kernel, caller: Caller, work: ImageWork, args: Namespace, context: Context) -> ImageRecord:
    title = {"pull": "fetching", "import": "importing", "build": "building"}[args.what]
    with Progress(f"{title} {work.reference}", context.environment, quietly=args.quiet or args.json) as progress:
        return await worked(kernel, caller, work, progress)


def _list(args: Namespace, context: Context) -> int:
    found = _done(context, lambda kernel, caller: kernel.images(caller, args.backend))
    if args.json:
        print_json([image_record(each) for each in found])
    elif args.quiet:
        sys.stdout.write("".join(f"{_short(each.reference)}\n" for each in found))
    elif found:
        sys.stdout.write(_table(found))
    else:
        sys.stderr.write("No images found.\nFetch one with: agentkernel image pull alpine:3.20\n")
    return 0


def _table(found: Sequence[ImageRecord]) -> str:
    rows = [
        (
            _short(each.reference),
            each.digest.removeprefix("sha256:")[:12],
            each.backend or "agentkernel",
            each.platform,
            format_size(each.size_bytes),
            age(each.obtained_at) if each.obtained_at else "",
        )
        for each in found
    ]
    return table(("IMAGE", "DIGEST", "KEPT BY", "PLATFORM", "SIZE", "AGE"), rows)


def _short(reference: str) -> str:
    """As people write it; an engine may keep images under names that nobody else would."""
    try:
        return parse(reference).short
    except InvalidInput:
        return printable(reference)


def _remove(args: Namespace, context: Context) -> int:
    tally = Tally(context, as_json=args.json)

    async def remove(kernel: Kernel, caller: Caller) -> None:
        for name in args.arguments:
            with tally.attempt(name):
                await kernel.image_remove(caller, name, args.backend)
                tally.did(name, name)
            if tally.is_hopeless:
                break

    _done(context, remove)
    return tally.finish()


def _prune(args: Namespace, context: Context) -> int:
    unused_for_s = parse_duration(args.unused)
    lines = _done(context, lambda kernel, caller: kernel.image_prune(caller, unused_for_s, args.backend))
    if args.json:
        print_json(list(lines))
    else:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    return 0


_KEEPING = {"list": _list, "remove": _remove, "prune": _prune}


def _done(context: Context, act: Callable[[Kernel, Caller], Coroutine[object, object, T]]) -> T:
    """Asks the daemon's kernel, or one in this process where there is to be no daemon."""

    async def work() -> T:
        kernel = context.any_kernel()
        try:
            return await act(kernel, local_caller())
        finally:
            await kernel.close()

    return asyncio.run(work())
