"""Finds what somebody meant to type. Written by hand: difflib takes longer to import than `--version` may take."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Returns the candidate that is nearest to `word`, or "" when none is near enough to be a typing error."""
    best, best_distance = "", max(1, len(word) // 3) + 1
    for candidate in candidates:
        distance = _distance(word, candidate)
        if len(word) >= 3 and candidate.startswith(word):
            distance = min(distance, 1)
        if distance < best_distance:
            best, best_distance = candidate, distance
    return best


def _distance(left: str, right: str) -> int:
    """Edit distance with swapped neighbours counted as one (restricted Damerau-Levenshtein)."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        older, before, row = before, row, [i] + [0] * len(right)
        for j, b in enumerate(right, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                row[j] = min(row[j], older[j - 2] + 1)
    return row[-1]
