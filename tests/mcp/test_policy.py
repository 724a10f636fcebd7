"""What a model cannot have: anything looser than its operator's settings, names that are none, and sandboxes of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.host import processes_named

from agentkernel.mcp.tools import TOOLS

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE_NAMES = (
    "", "a" * 64, "../box", "a/b", "a\0b", "-rf", "--force", "a b", "box\n", "$(id)", "a--b", "_a", "ﬀ", "бокс", ".", "a.b", "%2e%2e", "\x1b[31m",
)  # fmt: skip
HOSTILE_PATHS = ("relative", "/a/../../etc/passwd", "/a\0b", "", "/" + "a" * 4096)


async def test_what_looser_wishes_are_refused_with_reaches_the_model(model: Any) -> None:
    for wish in ({"profile": "permissive"}, {"memory_mb": 100000}, {"min_isolation": "vm"}, {"image": "/etc"}):
        refused = await model("sandbox_run", command="true", **wish)
        assert refused.error in ("refused", "unsupported", "backend_unavailable"), wish
    refused = await model("sandbox_create", name="loose", profile="permissive")
    assert "security.profile" in refused.text
    assert (await model("sandbox_info", name="loose")).error == "not_found"


@pytest.mark.parametrize("argument", ["mounts", "directory", "dir", "backend", "user", "secrets", "allow_hosts", "ports", "cwd", "runtime"])
async def test_there_is_no_argument_for_what_is_the_operators(model: Any, argument: str) -> None:
    for tool in ("sandbox_run", "sandbox_create"):
        more = {"command": "true"} if tool == "sandbox_run" else {"name": "more"}
        assert (await model(tool, **{argument: "x"}, **more)).error == "unknown_key"


async def test_names_and_paths_that_are_none_are_refused_before_anything_is_done(model: Any) -> None:
    values = {"command": "true", "path": "/tmp/x", "target": "/tmp/y", "id": "1", "content": "", "files": {"/tmp/x": ""}, "port": 80}
    for tool, row in TOOLS.items():
        fields = row.arguments.model_fields
        required = {name: values[name] for name, field in fields.items() if field.is_required() and name != "name"}
        for name in HOSTILE_NAMES if "name" in fields and tool != "sandbox_port_publish" else ():
            assert (await model(tool, **{**required, "name": name})).error == "invalid_input", (tool, name)
        for path in HOSTILE_PATHS if "path" in fields else ():
            assert (await model(tool, **{**required, "name": "none", "path": path})).error == "invalid_input", (tool, path)
    for path in HOSTILE_PATHS:
        assert (await model("sandbox_write_files", name="none", files={path: ""})).error == "invalid_input"
        assert (await model("sandbox_run", command="true", workdir=path)).error == "invalid_input"


async def test_arguments_of_another_kind_are_refused_and_not_repeated(model: Any) -> None:
    secret = "not-to-be-repeated"
    for arguments in (
        {"command": {"x": secret}},
        {"command": []},
        {"command": [""]},
        {"command": ["a\0b"]},
        {"command": "true", "timeout_s": secret},
        {"command": "true", "timeout_s": -1},
        {"command": "true", "env": {"A=B": "x"}},
        {"command": "true", "env": {"A": "x\0"}},
        {},
    ):
        refused = await model("sandbox_run", **arguments)
        assert refused.error == "invalid_input", arguments
        assert secret not in refused.text
    assert (await model("sandbox_rn")).error == "unknown_key"


async def test_the_networks_rules_can_be_tightened_and_not_loosened(model: Any) -> None:
    await model("sandbox_create", name="net")
    rules = await model("sandbox_network", name="net", deny=["*.example.com"])
    assert rules["deny"] == ["*.example.com"]
    refused = await model("sandbox_network", name="net", allow=["10.0.0.0/8"])
    assert refused.error == "refused" and "security.domains.allow" in refused.text
    assert (await model("sandbox_network", name="net"))["allow"] == []
    refused = await model("sandbox_port_publish", name="net", port=80)
    assert refused.error == "refused" and "--may publish" in refused.text


async def test_a_command_names_no_files_of_the_host(servers: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("of the host")
    async with servers.stdio("--profile", "restrictive", "--may", "publish") as model:
        for command in (["cat", "secret.txt"], ["cat", str(tmp_path / "secret.txt")], ["cat", str(tmp_path / "secret.txt").lstrip("/")]):
            ran = await model("sandbox_run", command=command)
            assert ran["exit_code"] == 1 and "of the host" not in ran["stdout"]
        await model("sandbox_create", name="web", profile="restrictive")
        published = await model("sandbox_port_publish", name="web", port=80)
        assert [port["port"] for port in published["ports"]] == [80]
        assert (await model("sandbox_port_unpublish", name="web", port=80))["ports"] == []


async def test_the_operators_file_counts_and_a_file_of_the_project_does_not(servers: Any, tmp_path: Path) -> None:
    configuration = tmp_path / "configuration" / "agentkernel"
    configuration.mkdir(parents=True)
    (configuration / "config.toml").write_text('timeout = 60\n[security]\nprofile = "restrictive"\n[isolation]\nminimum = "container"\n')
    (tmp_path / "agentkernel.toml").write_text(
        '[sandbox]\nbase_image = "/etc"\n[security]\nprofile = "permissive"\nmount_home = true\nmount_cwd = true\n'
        '[environment]\nOF_THE_PROJECT = "1"\n'
    )
    (tmp_path / "secret.txt").write_text("of the host")
    async with servers.stdio(XDG_CONFIG_HOME=str(tmp_path / "configuration")) as model:
        for wish, setting in (
            ({"profile": "permissive"}, "security.profile"),
            ({"profile": "moderate"}, "security.profile"),
            ({"network": True}, "security.network"),
            ({"min_isolation": "process"}, "isolation.minimum"),
            ({"read_only": False}, "security.read_only"),
            ({"timeout_s": 0}, "timeout"),
            ({"timeout_s": 61}, "timeout"),
            ({"memory_mb": 512}, "resources.memory"),
            ({"image": "./agentkernel.toml"}, "sandbox.base_image"),
            ({"image": f"{tmp_path}/configuration"}, "sandbox.base_image"),
            ({"image": "docker-archive:image.tar"}, "sandbox.base_image"),
        ):
            refused = await model("sandbox_run", command="true", **wish)
            assert refused.error == "refused" and setting in refused.text, wish
        made = await model("sandbox_create", name="tight")
        assert (made["profile"], made["network"], made["image"]) == ("restrictive", "none", "host")
        ran = await model(
            "sandbox_exec",
            name="tight",
            command="ls -A /workspace; cat /workspace/../secret.txt secret.txt; env; touch /usr/x /etc/x",
            env={"LD_LIBRARY_PATH": "/tmp", "AGENTKERNEL_PROFILE": "permissive", "http_proxy": "http://10.0.0.1"},
        )
        assert ran["exit_code"] != 0 and "of the host" not in ran["stdout"] and "OF_THE_PROJECT" not in ran["stdout"]
        assert ran["stderr"].count("Read-only file system") == 2


async def test_sandboxes_of_others_are_not_there_unless_they_are_shared(behind_daemon: Any) -> None:
    for name in ("mine", "lent"):
        behind_daemon.run("create", name, "--start")
    async with behind_daemon.stdio("--share", "lent") as model:
        made = await model("sandbox_create", name="its")
        assert {box["name"] for box in (await model("sandbox_list"))["sandboxes"]} == {"its", "lent"}
        assert (await model("sandbox_exec", name="lent", command="echo hello"))["stdout"] == "hello\n"
        for tool, more in (("sandbox_info", {}), ("sandbox_exec", {"command": "true"}), ("sandbox_remove", {}), ("sandbox_stop", {})):
            assert (await model(tool, name="mine", **more)).error == "not_found", tool
        stopped = await model("sandbox_stop", name="its")
        assert stopped["status"] == "stopped"
        assert (await model("sandbox_exec", name="its", command="true")).error == "conflict"
        assert (await model("sandbox_start", name=made["id"]))["status"] == "running"
    assert sorted(behind_daemon.run("list", "--quiet").split()) == ["its", "lent", "mine"]


async def test_two_clients_use_one_sandbox_and_what_one_removes_the_other_is_told(behind_daemon: Any, until: Callable[..., None]) -> None:
    async with behind_daemon.stdio() as one, behind_daemon.stdio() as other:
        await one("sandbox_create", name="both")
        assert (await other("sandbox_create", name="both")).error == "conflict"
        waits = asyncio.create_task(one("sandbox_exec", name="both", command="mkfifo /tmp/f; cat /tmp/f"))
        while (await other("sandbox_exec", name="both", command="test -p /tmp/f"))["exit_code"]:
            pass
        await other("sandbox_exec", name="both", command="echo from the other > /tmp/f")
        assert (await waits)["stdout"] == "from the other\n"
        lost = asyncio.create_task(one("sandbox_exec", name="both", command=["sleep", "86423.1"]))
        await asyncio.to_thread(until, lambda: processes_named("86423.1"))
        await other("sandbox_remove", name="both")
        assert (await lost).error == "sandbox_lost"
        assert (await one("sandbox_info", name="both")).error == "not_found"


async def test_a_sandbox_that_was_made_when_more_was_allowed_is_no_way_to_have_that(behind_daemon: Any) -> None:
    async with behind_daemon.stdio() as model:
        await model("sandbox_create", name="older")
    async with behind_daemon.stdio("--no-network") as model:
        refused = await model("sandbox_exec", name="older", command="true")
        assert refused.error == "refused" and "security.network" in refused.text
        assert (await model("sandbox_file_read", name="older", path="/etc/passwd")).error == "refused"
        await model("sandbox_stop", name="older")
        assert (await model("sandbox_start", name="older")).error == "refused"
        assert (await model("sandbox_remove", name="older"))["done"] == "removed"


async def test_what_an_older_sandbox_sees_of_the_host_is_held_against_the_settings_of_now(behind_daemon: Any, tmp_path: Path) -> None:
    for name in ("project", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"of {name}")
    options = {
        "dir": ("--dir", str(tmp_path / "project")),
        "mounts": ("--mount", f"{tmp_path / 'data'}:/data:ro"),
        "secrets": ("--secret", "TOKEN@api.example.com"),
        "security.domains.allow": ("--allow-host", "10.0.0.0/8"),
        "environment": ("-e", "GIVEN=something"),
    }
    every = [word for words in options.values() for word in words]
    secret = {"TOKEN": "a-value-of-the-operator"}
    async with behind_daemon.stdio(*every, **secret) as model:
        await model("sandbox_create", name="older")
        seen = await model("sandbox_exec", name="older", command="cat /workspace/file /data/file; echo $GIVEN")
        assert seen["stdout"] == "of projectof datasomething\n"
    async with behind_daemon.stdio() as model:
        for tool, more in (
            ("sandbox_exec", {"command": "cat /data/file"}),
            ("sandbox_exec_detach", {"command": "true"}),
            ("sandbox_file_read", {"path": "/data/file"}),
            ("sandbox_start", {}),
            ("sandbox_extend_ttl", {}),
        ):
            refused = await model(tool, name="older", **more)
            assert refused.error == "refused" and "more than the operator of this server allows now" in refused.text, tool
            assert "of data" not in refused.text
        assert (await model("sandbox_info", name="older"))["status"] == "running"
    for setting in ("mounts", "secrets"):
        left = [word for key, words in options.items() if key != setting for word in words]
        more = ("--allow-host", "api.example.com:443") if setting == "secrets" else ()
        async with behind_daemon.stdio(*left, *more, **secret) as model:
            assert f"({setting})" in (await model("sandbox_exec", name="older", command="true")).text
    async with behind_daemon.stdio(*every, **secret) as model:
        assert (await model("sandbox_file_read", name="older", path="/data/file"))["content"] == "of data"
        assert (await model("sandbox_remove", name="older"))["done"] == "removed"


async def test_a_sandbox_that_is_shared_is_used_and_not_managed_unless_the_operator_says_so(behind_daemon: Any) -> None:
    behind_daemon.run("create", "lent", "--start", "--label", "owner=user")
    manages = (
        ("sandbox_remove", {}),
        ("sandbox_stop", {}),
        ("sandbox_extend_ttl", {"by": 1}),
        ("sandbox_network", {"deny": ["a.example"]}),
        ("sandbox_port_unpublish", {"port": 80}),
    )
    async with behind_daemon.stdio("--share", "lent") as model:
        for tool, more in manages:
            refused = await model(tool, name="lent", **more)
            assert refused.error == "refused" and "--may manage-shared" in refused.text, tool
        assert (await model("sandbox_network", name="lent"))["deny"] == []
        info = await model("sandbox_info", name="lent")
        assert (info["status"], info["expires_at"]) == ("running", None)
        assert (await model("sandbox_start", name="lent"))["status"] == "running"
        await model("sandbox_file_write", name="lent", path="/tmp/x", content="used")
        assert (await model("sandbox_exec", name="lent", command="cat /tmp/x"))["stdout"] == "used"
    async with behind_daemon.stdio("--share", "lent", "--may", "manage-shared") as model:
        for tool, more in reversed(manages):
            assert not (await model(tool, name="lent", **more)).result.is_error, tool
        assert (await model("sandbox_info", name="lent")).error == "not_found"


async def test_a_model_that_may_allow_hosts_opens_none_of_the_hosts_own_networks(behind_daemon: Any) -> None:
    async with behind_daemon.stdio("--may", "allow-hosts") as model:
        await model("sandbox_create", name="net")
        for host in ("8.8.8.8", "0.0.0.0/0", "127.0.0.1:22", "10.0.0.0/8", "169.254.169.254", "[::1]:80", "192.168.1.1"):
            refused = await model("sandbox_network", name="net", allow=["b.example", host])
            assert refused.error == "refused" and "own networks" in refused.text, host
        assert (await model("sandbox_network", name="net", allow=["a.example:8443"]))["allow"] == ["a.example:8443"]
        assert (await model("sandbox_exec", name="net", command="echo fine"))["stdout"] == "fine\n"
    async with behind_daemon.stdio() as model:
        assert "(security.domains.allow)" in (await model("sandbox_exec", name="net", command="true")).text
