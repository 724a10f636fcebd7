import subprocess
import sys
from pathlib import Path

import pytest
from textstats import measure


def test_an_empty_text_has_no_words() -> None:
    found = measure("")
    assert (found.lines, found.words, found.longest) == (0, 0, "")


@pytest.mark.parametrize("text, words", [("one two", 2), ("don't stop", 2), ("a-b c_d", 4), ("7 dwarfs", 1)])
def test_words_are_letters_with_at_most_one_apostrophe(text: str, words: int) -> None:
    assert measure(text).words == words


def test_case_does_not_make_a_word_another_word() -> None:
    assert measure("The the THE cat").most_common[0] == ("the", 3)


def test_the_program_prints_a_summary(tmp_path: Path) -> None:
    file = tmp_path / "poem.txt"
    file.write_text("Tyger Tyger,\nburning bright\n")
    done = subprocess.run([sys.executable, "-m", "textstats", str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 lines, 4 words, longest 'burning'")
