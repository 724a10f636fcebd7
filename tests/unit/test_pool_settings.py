"""What users may say about warm pools, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkernel.assembly import pool_settings
from agentkernel.config.load import load_settings
from agentkernel.engine.reserve import PoolSettings
from agentkernel.errors import InvalidInput


def environment_with(directory: Path, text: str) -> dict[str, str]:
    """A user whose configuration file says that."""
    file = directory / "agentkernel" / "config.toml"
    file.parent.mkdir()
    file.write_text(text)
    file.chmod(0o600)
    return {"XDG_CONFIG_HOME": str(directory), "HOME": str(directory)}


def test_without_a_word_there_are_pools(tmp_path: Path) -> None:
    assert pool_settings({"HOME": str(tmp_path)}) == PoolSettings()


def test_a_user_can_switch_them_off(tmp_path: Path) -> None:
    assert pool_settings(environment_with(tmp_path, "[pool]\nenabled = false\nminimum = 9\n")) is None


def test_a_user_can_say_how_large_and_how_old(tmp_path: Path) -> None:
    environment = environment_with(tmp_path, '[pool]\nminimum = 1\nmaximum = 2\nage = "1m"\nidle = 30\n')
    assert pool_settings(environment) == PoolSettings(minimum=1, maximum=2, age_s=60, idle_s=30)


def test_the_environment_of_whoever_started_the_daemon_says_nothing(tmp_path: Path) -> None:
    assert pool_settings({"HOME": str(tmp_path), "AGENTKERNEL_PROFILE": "nonsense"}) == PoolSettings()


@pytest.mark.parametrize(
    "text", ["minimum = 0", "minimum = 6", "maximum = 2", "maximum = 101", "maximum = 3.5", "age = 0", 'idle = "0s"', "size = 3"]
)
def test_what_makes_no_pool_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput):
        pool_settings(environment_with(tmp_path, f"[pool]\n{text}\n"))


def test_a_project_has_no_say(tmp_path: Path) -> None:
    (tmp_path / "agentkernel.toml").write_text("[pool]\nenabled = true\n")
    with pytest.raises(InvalidInput, match=r"agentkernel\.toml.*pool\.enabled is not a project's to set"):
        load_settings(cwd=str(tmp_path), config_path=None, environment={"HOME": str(tmp_path / "home")}, flags={})
