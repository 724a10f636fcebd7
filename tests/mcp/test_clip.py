"""Output within a bound."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from agentkernel.mcp.clip import Clip


def clipped(data: bytes, half: int, piece: int) -> Clip:
    clip = Clip(half)
    for start in range(0, len(data), piece):
        clip.add(data[start : start + piece])
    return clip


@given(data=st.binary(max_size=400), half=st.integers(1, 100), piece=st.integers(1, 300))
def test_the_two_ends_are_kept_however_it_comes(data: bytes, half: int, piece: int) -> None:
    clip = clipped(data, half, piece)
    assert clip.total == len(data)
    assert clip.missing == max(0, len(data) - 2 * half)
    if not clip.missing:
        assert clip.text() == data.decode("utf-8", "replace")


@given(text=st.text(alphabet="aä€😀\n", min_size=1, max_size=300), half=st.integers(4, 60), piece=st.integers(1, 200))
def test_no_character_is_cut_and_what_is_missing_is_counted(text: str, half: int, piece: int) -> None:
    data = text.encode()
    shown = clipped(data, half, piece).text()
    assert "\ufffd" not in shown
    parts = re.split(r"\n\[\.\.\. (\d+) bytes left out \.\.\.\]\n", shown)
    if len(parts) == 1:
        assert shown == text
    else:
        head, missing, tail = parts
        assert text.startswith(head) and text.endswith(tail)
        assert len(head.encode()) + int(missing) + len(tail.encode()) == len(data)
