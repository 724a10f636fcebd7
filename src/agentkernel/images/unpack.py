"""Unpacks images; a program that runs inside a sandbox, where hostile bytes belong.

    python3 -S -P -m agentkernel.images.unpack [OPTIONS] ARCHIVE... DESTINATION

    (no option)        ARCHIVE is the tar archive of one root file system; `-` is standard input
    --layers           the archives are the layers of an image, the lowest first
    --any-kind         ARCHIVE may hold anything, as an archive of image layers
    --copy             ARCHIVE is a directory
    --diff-id DIGEST   of the next layer, decompressed: sha256:<hex>; as often as there are layers
    --limit-bytes N    of all files together

It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence

from agentkernel.images.beneath import DIRECTORY
from agentkernel.images.copying import Copier
from agentkernel.images.decompress import Source
from agentkernel.images.layers import LayerUnpacker
from agentkernel.images.unpacker import DEFAULT_LIMIT_BYTES, Tally, Unpacker
from agentkernel.tarformat import BadArchiveError

LAYERS, ANY_KIND, COPY, DIFF_ID = "--layers", "--any-kind", "--copy", "--diff-id"


def arguments(tar_path: str, destination: str, limit_bytes: int) -> tuple[str, ...]:
    """Those of `program_arguments` for the archive of one root file system."""
    return program_arguments((), (tar_path,), destination, limit_bytes)


def program_arguments(options: Sequence[str], archives: Sequence[str], destination: str, limit_bytes: int) -> tuple[str, ...]:
    """The arguments for a Python interpreter that finds this package in PYTHONPATH."""
    return ("-S", "-P", "-m", "agentkernel.images.unpack", "--limit-bytes", str(limit_bytes), *options, *archives, destination)


def layer_options(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The options for layers whose decompressed bytes have these digests."""
    return (LAYERS, *(word for diff_id in diff_ids for word in (DIFF_ID, diff_id)))


def main(argv: list[str]) -> int:
    """Unpacks as the arguments say; 0, or 1 with the reason as the last line of stderr."""
    parser = argparse.ArgumentParser(prog="agentkernel.images.unpack", allow_abbrev=False)
    parser.add_argument("--limit-bytes", type=int, default=DEFAULT_LIMIT_BYTES)
    parser.add_argument(LAYERS, action="store_true")
    parser.add_argument(ANY_KIND, action="store_true")
    parser.add_argument(COPY, action="store_true")
    parser.add_argument(DIFF_ID, action="append", default=[], dest="diff_ids")
    parser.add_argument("archives", nargs="+")
    parser.add_argument("destination")
    given = parser.parse_args(argv)
    os.umask(0o077)
    try:
        root = os.open(given.destination, DIRECTORY)
        if given.layers:
            tally = _unpack_layers(LayerUnpacker(root, given.limit_bytes), given.archives, given.diff_ids)
        elif given.copy:
            tally = Copier(root, given.limit_bytes).copy(given.archives[0])
        else:
            tally = _unpack_one(Unpacker(root, given.limit_bytes, given.any_kind), given.archives[0])
    except (BadArchiveError, OSError) as error:
        hint = error.hint if isinstance(error, BadArchiveError) else ""
        _say({"ok": False, "error": str(error), "hint": hint})
        sys.stderr.write(f"{error}; {hint}\n" if hint else f"{error}\n")
        return 1
    _say({"ok": True, **{name: getattr(tally, name) for name in Tally.__slots__}})
    return 0


def _unpack_one(unpacker: Unpacker, archive: str) -> Tally:
    with open(0 if archive == "-" else archive, "rb", buffering=0) as raw:
        return unpacker.unpack(Source(raw))


def _unpack_layers(unpacker: LayerUnpacker, archives: list[str], diff_ids: list[str]) -> Tally:
    if len(diff_ids) not in {0, len(archives)}:
        raise BadArchiveError(f"the image has {len(archives)} layers and tells the digests of {len(diff_ids)}")
    for number, archive in enumerate(archives):
        hasher = hashlib.sha256()
        with open(archive, "rb", buffering=0) as raw:
            unpacker.unpack(Source(raw, hasher.update))
        if diff_ids and diff_ids[number] != f"sha256:{hasher.hexdigest()}":
            raise BadArchiveError(f"layer {number + 1} of the image is not what the image's configuration says")
    return unpacker.tally


def _say(result: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
