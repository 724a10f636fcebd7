"""uid 0 under systemd: limits by cgroup v2, an id range per sandbox, id-mapped mounts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from checks.harness import (
    CGROUP,
    assert_nothing_left,
    check,
    command,
    group_of,
    kernel_release,
    members,
    notices,
    run,
    run_json,
    sandbox_groups,
    sleeping,
    wait_for,
)

FORK_BOMB = "b() { b | b & }; b; sleep 60"
MEMORY_BOMB = "x = bytearray(400 << 20); print(len(x))"
BURN = "import time; t, c = time.monotonic(), time.process_time()\nwhile time.monotonic() - t < 3: pass\nprint(time.process_time() - c)"
SCOPE = ("systemd-run", "--quiet", "--scope")


@check
def doctor_calls_every_limit_native() -> str:
    done = run("doctor")
    assert done.returncode == 0, done.stdout[-300:]
    assert "cgroups: v2: memory, pids, cpu" in done.stdout, done.stdout
    lines = done.stdout.splitlines()
    assert all("native" in line for line in lines if "-limit" in line or "agent-separation" in line), done.stdout
    return next(line.strip() for line in lines if "landlock_abi" in line)


@check
def commands_run_and_exit_codes_come_back() -> None:
    assert run("run", "-q", "--", "echo", "hi").stdout == "hi\n"
    assert run("run", "-q", "--", "sh", "-c", "exit 3").returncode == 3
    assert run("run", "-q", "--", "python3", "-c", "print(6 * 7)").stdout == "42\n"
    assert run("run", "-q", "--", "no-such-program").returncode == 127


@check
def a_memory_bomb_is_ended_and_the_cause_named() -> None:
    result = run_json("--memory", "64m", "--", "python3", "-c", MEMORY_BOMB)
    assert (result["exit_code"], result["limits_hit"]) == (137, ["memory"]), result


@check
def a_fork_bomb_is_held_by_the_pids_limit_and_ended() -> None:
    result = run_json("--pids", "50", "--timeout", "6s", "--", "sh", "-c", FORK_BOMB)
    assert result["exit_code"] == 124, result
    assert "pids" in result["limits_hit"], result
    assert_nothing_left()


@check
def a_processor_limit_holds() -> str:
    result = run_json("--cpus", "0.25", "--", "python3", "-c", BURN)
    used = float(result["stdout"])
    assert used < 3 * 0.25 * 1.5, used
    return f"{used:.2f} s of 3 s used at --cpus 0.25"


@check
def the_workload_is_in_its_group_and_the_agent_is_not() -> None:
    with sleeping("--memory", "100m", "--pids", "77") as (engine, group):
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in members(group)}
        assert names == {"sleep"}, names
        assert (group / "memory.max").read_text().strip() == str(100 << 20)
        assert (group / "pids.max").read_text().strip() == "77"
        assert group_of(engine.pid) == group_of(os.getpid()), "the engine left its unit's cgroup"
    assert_nothing_left()


@check
def commands_are_cloned_into_their_group() -> None:
    """A process that writes itself into cgroup.procs waits for an RCU grace period first: 5 to 20 ms on an idle host."""
    trace = Path("/tmp/clone3.trace")
    prefix = ("strace", "-f", "--seccomp-bpf", "-o", str(trace), "-e", "trace=clone3")
    assert run("run", "-q", "--", "true", prefix=prefix).returncode == 0
    calls = [line for line in trace.read_text().splitlines() if "CLONE_INTO_CGROUP" in line]
    assert calls, "clone3 was not even tried"
    assert all(" = -1" not in line and "= ?" not in line for line in calls), calls


@check
def without_clone3_commands_join_their_group_themselves() -> None:
    prefix = ("strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=clone3", "-e", "inject=clone3:error=ENOSYS")
    result = run_json("--memory", "64m", "--", "python3", "-c", MEMORY_BOMB, prefix=prefix)
    assert (result["exit_code"], result["limits_hit"]) == (137, ["memory"]), result


@check
def what_a_killed_engine_left_is_removed_by_the_next() -> None:
    with sleeping() as (engine, _):
        engine.send_signal(signal.SIGKILL)
        engine.wait()
        assert sandbox_groups()
        assert run("run", "-q", "--", "true").returncode == 0
        assert_nothing_left()


@check
def systemd_keeps_its_tree_and_leaves_ours_alone() -> None:
    before = {path.name for path in CGROUP.iterdir() if path.is_dir()}
    controllers = (CGROUP / "cgroup.subtree_control").read_text()
    with sleeping("--memory", "100m") as (_, group):
        command("systemctl", "daemon-reload")
        command("systemd-run", "--quiet", "--wait", "-p", "CPUWeight=50", "-p", "MemoryMax=100M", "true")
        command("systemctl", "set-property", "--runtime", "system.slice", "CPUWeight=90")
        assert (group / "memory.max").read_text().strip() == str(100 << 20)
        assert members(group)
    assert {path.name for path in CGROUP.iterdir() if path.is_dir()} - before <= {"agentkernel"}
    assert set(controllers.split()) <= set((CGROUP / "cgroup.subtree_control").read_text().split())
    assert group_of(1) == CGROUP / "init.scope"


@check
def in_a_session_scope_the_engine_stays_where_it_is() -> None:
    with sleeping(prefix=(*SCOPE, "--unit=plain-scope")) as (engine, group):
        assert group_of(engine.pid) == CGROUP / "system.slice/plain-scope.scope"
        assert group.is_relative_to(CGROUP / "agentkernel")
    wait_for(lambda: not (CGROUP / "system.slice/plain-scope.scope").exists(), "the scope's end")
    assert_nothing_left()


@check
def in_a_delegated_unit_groups_are_made_below_it() -> None:
    unit = CGROUP / "system.slice/delegated.scope"
    with sleeping(prefix=(*SCOPE, "--unit=delegated", "-p", "Delegate=yes", "-p", "MemoryMax=300M")) as (_, group):
        assert group.is_relative_to(unit), group
    wait_for(lambda: not unit.exists(), "the scope's end")
    assert_nothing_left()


@check
def a_mount_is_the_users_inside_and_the_owners_outside() -> None:
    shared = Path("/srv/shared")
    shared.mkdir()
    os.chown(shared, 1000, 1000)
    done = run("run", "-q", "--mount", f"{shared}:/data", "--", "sh", "-c", "touch /data/made && stat -c %u /data")
    assert (done.returncode, done.stdout) == (0, "1000\n"), done.stderr
    assert (shared / "made").stat().st_uid == 1000


@check
def a_private_view_changes_nothing_outside() -> None:
    project = Path("/srv/project")
    (project / "src").mkdir(parents=True)
    (project / "package.json").write_text("{}")
    script = "rm package.json && mv src lib && echo new > made && ls"
    done = run("run", "-q", "--", "sh", "-c", script, cwd=str(project))
    assert done.stdout.split() == ["lib", "made"], done.stderr
    assert sorted(path.name for path in project.iterdir()) == ["package.json", "src"]


@check
def a_source_that_cannot_be_id_mapped_is_refused_with_the_reason() -> None:
    """tmpfs has id-mapped mounts since Linux 6.3."""
    place = Path("/srv/tmpfs")
    place.mkdir()
    command("mount", "-t", "tmpfs", "tmpfs", str(place))
    (place / "package.json").write_text("{}")
    done = run("run", "-q", "--", "ls", cwd=str(place))
    if kernel_release() >= (6, 3):
        assert (done.returncode, done.stdout) == (0, "package.json\n"), done.stderr
        return
    assert done.returncode == 125, done
    assert "cannot id-map /srv/tmpfs" in done.stderr, done.stderr


@check
def an_image_directory_is_an_overlay_over_an_id_mapped_mount() -> None:
    image = make_image(Path("/srv/image"))
    done = run("run", "-q", "--user", "root", "--image", str(image), "--", "sh", "-c", "echo x > /made && stat -c %u /bin/sh && cat /made")
    assert (done.returncode, done.stdout) == (0, "0\nx\n"), done.stderr
    assert not (image / "made").exists()


def make_image(image: Path) -> Path:
    """A root file system with a shell and little else."""
    for program in ("sh", "cat", "stat", "touch", "id"):
        found = Path(command("readlink", "-f", f"/bin/{program}").strip())
        libraries = [word for word in command("ldd", str(found)).split() if word.startswith("/")]
        for source, target in ((found, f"bin/{program}"), *((Path(path), path.lstrip("/")) for path in libraries)):
            (image / target).parent.mkdir(parents=True, exist_ok=True)
            (image / target).write_bytes(source.read_bytes())
            (image / target).chmod(0o755)
    return image


@check
def nothing_is_emulated() -> None:
    result = run_json("--", "true")
    assert not {code for code in notices(result) if "emulated" in code}, notices(result)
    assert_nothing_left()
