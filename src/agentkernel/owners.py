"""The ids of a sandbox that uid 0 makes, and the note by which the unpacker of an image says whose a file is. No I/O.

Imports only the standard library: images are unpacked inside a sandbox. What is noted there is as hostile as the image.
"""

from __future__ import annotations

from typing import Final

RANGE_SIZE: Final = 0x10000  # ids 0-65535
NOBODY: Final = RANGE_SIZE - 2  # an id that no sandbox has, or that is none
IMAGE_IDS: Final = 0x7FFF0000  # the first on the host of those to which files of unpacked images belong (docs/adr/0008-id-ranges.md)
ATTRIBUTE: Final = b"user.agentkernel.owner"  # of a file that is not root's, extended: the note


def note(uid: int, gid: int) -> bytes:
    """The attribute's value."""
    return b"%d:%d" % (uid, gid)


def parse_note(noted: bytes) -> tuple[int, int]:
    """uid and gid, both below `RANGE_SIZE`; what is no such id is nobody's."""
    uid, _, gid = noted.partition(b":")
    return _id(uid), _id(gid)


def _id(text: bytes) -> int:
    return int(text) if len(text) <= 5 and text.isdigit() and int(text) < RANGE_SIZE else NOBODY
