"""Root runs the Podman suite once more as a plain user: rootless, with ids of its own as `useradd` gives them."""

from __future__ import annotations

import os
import shutil

import pytest
from conformance.plain_user import run_as_plain_user, subordinate_ids

# What is made in another way than for root: ids, mounts, limits, sockets. The rest is the agent's, and the same.
SELECT = " or ".join(
    (
        *("container_of_an_image", "every_feature_is_declared", "refused_is_refused", "destroying_leaves_nothing", "cannot_be_built"),
        *("copy_on_write", "workspace", "protected", "named_files", "mount", "read_only_root", "set_user_id"),
        *("more_memory", "more_processes", "processor_time", "disk_limit", "storage_on_disk", "at_its_limits"),
        *("system_calls", "another_user", "harmed", "without_network_there_is_only", "hosts_network_is_reached"),
        *(
            "every_listed_runtime",
            "engine_is_killed",
            "can_be_stopped_started_and_removed",
            "discarding_leaves",
            "sweep_removes",
            "http_tls_and_raw_connections",
        ),
    )
)


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs as a plain user")
def test_podman_conforms_for_a_plain_user() -> None:
    if shutil.which("podman") is None or shutil.which("newuidmap") is None:
        pytest.skip("podman or newuidmap (package uidmap) is not installed")
    with subordinate_ids() as before:
        done = run_as_plain_user("conformance/test_podman.py", deadline_s=290, before=before, may_map_ids=True, select=SELECT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, f"nothing ran: {done.stdout[-2000:]}"
