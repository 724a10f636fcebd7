"""Root runs the Podman suite once more as a plain user: rootless, with ids of its own as `useradd` gives them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.plain_user import PLAIN_UID, run_as_plain_user

NAME = "ak-rootless"
FIRST_ID = 700_000
# What is made in another way than for root: ids, mounts, limits, sockets. The rest is the agent's, and the same.
SELECT = " or ".join(
    (
        *("container_of_an_image", "every_feature_is_declared", "refused_is_refused", "destroying_leaves_nothing", "cannot_be_built"),
        *("copy_on_write", "workspace", "protected", "named_files", "mount", "read_only_root", "set_user_id"),
        *("more_memory", "more_processes", "processor_time", "disk_limit", "storage_on_disk", "at_its_limits"),
        *("system_calls", "another_user", "harmed", "without_network_there_is_only", "hosts_network_is_reached"),
        *("engine_is_killed", "can_be_stopped_started_and_removed", "discarding_leaves", "sweep_removes", "http_tls_and_raw_connections"),
    )
)


@pytest.fixture
def with_a_name() -> Iterator[tuple[str, ...]]:
    """What a program is started with so that the plain user has a name and 65,536 further ids: in a mount namespace of its own, so that
    the host's files stay as they are."""
    with tempfile.TemporaryDirectory(prefix="ak-ids-", dir="/var/tmp") as name:
        own = Path(name)
        own.chmod(0o755)
        lines = {
            "passwd": f"{NAME}:x:{PLAIN_UID}:{PLAIN_UID}::/nonexistent:/bin/sh\n",
            "group": f"{NAME}:x:{PLAIN_UID}:\n",
            "subuid": f"{NAME}:{FIRST_ID}:65536\n",
            "subgid": f"{NAME}:{FIRST_ID}:65536\n",
        }
        script = []
        for file, line in lines.items():
            before = Path("/etc", file).read_text() if Path("/etc", file).exists() else ""
            Path("/etc", file).touch()
            (own / file).write_text(before + line)
            (own / file).chmod(0o644)
            script.append(f"mount --bind {own / file} /etc/{file}")
        yield ("unshare", "--mount", "--propagation", "private", "sh", "-c", f'{" && ".join(script)} && exec "$@"', "sh")


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs as a plain user")
def test_podman_conforms_for_a_plain_user(with_a_name: tuple[str, ...]) -> None:
    if shutil.which("podman") is None or shutil.which("newuidmap") is None:
        pytest.skip("podman or newuidmap (package uidmap) is not installed")
    done = run_as_plain_user("conformance/test_podman.py", deadline_s=290, before=with_a_name, may_map_ids=True, select=SELECT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, f"nothing ran: {done.stdout[-2000:]}"
