"""A flood over HTTP takes a part of the daemon: the users of its machine still get in."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import pytest
from api.stream_world import environment_in, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from agentkernel.api.limits import Limits
from agentkernel.daemon.connection import MAX_PASSED_ON
from agentkernel.daemon.server import MAX_CLIENTS

FEW = 8


def test_a_server_takes_a_part_of_what_the_daemon_gives_to_servers_and_they_a_part_of_all() -> None:
    assert Limits().daemon_connections < MAX_PASSED_ON < MAX_CLIENTS
    assert Limits().token_requests_at_once < Limits().daemon_connections


def test_local_users_get_in_while_a_server_is_flooded(request: pytest.FixtureRequest) -> None:
    with environment_in(request) as environment, serving(environment, daemon=True, limits=Limits(daemon_connections=FEW)) as served:

        def door() -> Any:
            url = f"ws://127.0.0.1:{served.port}/door"
            return connect(url, subprotocols=["agentkernel.door.v1"], compression=None, proxy=None)  # type: ignore[list-item]

        with ExitStack() as stack:
            for _ in range(FEW):
                stack.enter_context(door())
            for _ in range(3 * FEW):
                with pytest.raises(InvalidStatus) as refused:
                    door()
                assert (refused.value.response.status_code, refused.value.response.headers["retry-after"]) == (429, "2")
            listed = subprocess.run([sys.executable, "-m", "agentkernel", "list"], env=environment, capture_output=True, timeout=60)
            assert listed.returncode == 0, listed.stderr
            assert served.http.get("/status").status_code == 200  # what needs no connection of its own is answered
        served.create("box")
        assert served.data("POST", "/sandboxes/box/exec", json={"command": ["echo", "hi"]})["stdout"] == "hi\n"
        served.remove("box")
