"""A plain user under systemd: with a delegated scope the limits are the kernel's, without one they are emulated and that is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

from checks.as_root import FORK_BOMB, MEMORY_BOMB, make_image
from checks.harness import (
    AGENTKERNEL,
    CGROUP,
    DEV,
    ENVIRONMENT,
    assert_nothing_left,
    check,
    command,
    group_of,
    groups,
    kernel_release,
    members,
    notices,
    run,
    run_json,
    sandbox_groups,
    sleeping,
    wait_for,
)

LIMITS = {"limits-emulated"}
SCOPE = ("systemd-run", "--user", "--quiet", "--scope")
DELEGATED = (*SCOPE, "-p", "Delegate=yes")
ALONE = {name: value for name, value in DEV.items() if name != "XDG_RUNTIME_DIR"}


@check
def without_a_user_manager_limits_are_emulated_and_that_is_said() -> None:
    result = run_json("--", "sh", "-c", "id -u; exit 5", variables=ALONE)
    assert (result["exit_code"], result["stdout"]) == (5, "1000\n"), result
    assert notices(result) >= LIMITS, notices(result)
    assert not sandbox_groups()
    assert Path("/tmp/agentkernel-1000").stat().st_mode & 0o777 == 0o700
    assert_nothing_left()


@check
def an_emulated_memory_limit_ends_a_bomb_and_names_the_cause() -> None:
    result = run_json("--memory", "64m", "--", "python3", "-c", MEMORY_BOMB + "; import time; time.sleep(5)", variables=ALONE)
    assert (result["exit_code"], result["limits_hit"]) == (137, ["memory"]), result


@check
def an_emulated_pids_limit_holds_a_fork_bomb() -> None:
    result = run_json("--pids", "50", "--timeout", "6s", "--", "sh", "-c", FORK_BOMB, variables=ALONE)
    assert result["exit_code"] == 124, result
    assert_nothing_left()


@check
def in_a_delegated_scope_limits_are_native() -> None:
    result = run_json("--memory", "64m", "--", "python3", "-c", MEMORY_BOMB, variables=DEV, prefix=DELEGATED)
    assert (result["exit_code"], result["limits_hit"]) == (137, ["memory"]), result
    assert not notices(result) & LIMITS, notices(result)
    assert_nothing_left()


@check
def a_delegated_scope_holds_the_groups_and_ends_with_them() -> None:
    with sleeping("--pids", "77", variables=DEV, prefix=(*DELEGATED, "--unit=held")) as (_, group):
        scope = next(path for path in group.parents if path.name == "held.scope")
        assert (group / "pids.max").read_text().strip() == "77"
        assert {Path(f"/proc/{pid}/comm").read_text().strip() for pid in members(group)} == {"sleep"}
        assert Path("/run/user/1000/agentkernel/sandboxes").stat().st_mode & 0o777 == 0o700
    wait_for(lambda: not scope.exists(), "the scope's end")
    assert_nothing_left()


@check
def commands_are_cloned_into_their_group() -> None:
    trace = Path("/tmp/dev-clone3.trace")
    trace.touch()
    os.chown(trace, 1000, 1000)
    prefix = (*DELEGATED, "strace", "-f", "--seccomp-bpf", "-o", str(trace), "-e", "trace=clone3")
    assert run("run", "-q", "--", "true", prefix=prefix, variables=DEV).returncode == 0
    calls = [line for line in trace.read_text().splitlines() if "CLONE_INTO_CGROUP" in line]
    assert calls, "clone3 was not even tried"
    assert all(" = -1" not in line and "= ?" not in line for line in calls), calls


@check
def two_engines_share_a_delegated_scope_with_a_shell() -> None:
    """The shell is a process of the scope's own, which keeps the scope from handing controllers down (cgroups(7))."""
    one = " ".join((*AGENTKERNEL, "run", "--json", "--", "sh", "-c", "'sleep 1; exit 4'"))
    script = f"{one} > /tmp/first & {one} > /tmp/second & wait; {one} > /tmp/third"
    command("runuser", "-u", "dev", "--", *DELEGATED, "sh", "-c", f"cd; umask 022; {script}; true", env=ENVIRONMENT | DEV)
    for name in ("first", "second", "third"):
        result = json.loads(Path("/tmp", name).read_text().splitlines()[-1])
        assert result["exit_code"] == 4, result
        assert not notices(result) & LIMITS, (name, notices(result))
    assert_nothing_left()
    wait_for(lambda: not groups("agentkernel-engine"), "the scope's end")


@check
def in_a_session_the_engine_gets_a_delegated_scope_of_its_own() -> None:
    """A session's scope belongs to root, so nothing can be made below it; the user's systemd gives a scope for the asking."""
    prefix = ("setsid", "sh", "-c", 'cat /proc/self/cgroup >/tmp/session; "$@"', "sh")
    session = ("systemd-run", "--quiet", "--pipe", "--wait", "-p", "PAMName=login", "-p", "User=dev", "-p", "WorkingDirectory=/home/dev")
    variables = [f"--setenv={name}={value}" for name, value in (ENVIRONMENT | DEV).items()]
    done = command(*session, *variables, *prefix, *AGENTKERNEL, "run", "--json", "--", "true")
    result = json.loads(done.strip().splitlines()[-1])
    assert "session-" in Path("/tmp/session").read_text(), Path("/tmp/session").read_text()
    assert not notices(result) & LIMITS, notices(result)
    wait_for(lambda: not groups("agentkernel-*.scope"), "the scope's end")
    assert_nothing_left()


@check
def a_service_of_the_users_is_not_taken_out_of_its_unit() -> None:
    """Its limits, its logs and its end are its unit's, so the engine stays there."""
    script = 'cat /proc/self/cgroup; "$@" >/dev/null; cat /proc/self/cgroup'
    service = ("systemd-run", "--user", "--quiet", "--pipe", "--wait")
    variables = [f"--setenv={name}={value}" for name, value in ENVIRONMENT.items()]
    argv = (*service, *variables, "sh", "-c", script, "sh", *AGENTKERNEL, "run", "-q", "--", "true")
    out = command("runuser", "-u", "dev", "--", *argv, env=ENVIRONMENT | DEV, cwd="/home/dev")
    before, after = out.split()
    assert before == after, out
    assert_nothing_left()


@check
def a_private_view_works_with_one_id() -> None:
    """An overlay with `userxattr`; its module is loaded for a user without privileges too."""
    project = Path("/home/dev/project")
    (project / "src").mkdir(parents=True)
    (project / "package.json").write_text("{}")
    command("chown", "-R", "dev:dev", str(project))
    script = "rm package.json && mv src lib && echo new > made && ls"
    done = run("run", "-q", "--", "sh", "-c", script, cwd=str(project), variables=ALONE)
    assert done.stdout.split() == ["lib", "made"], done.stderr
    assert sorted(path.name for path in project.iterdir()) == ["package.json", "src"]


@check
def an_image_directory_works_with_one_id() -> None:
    image = make_image(Path("/home/dev/image"))
    done = run("run", "-q", "--image", str(image), "--", "sh", "-c", "echo x > /made && cat /made", variables=ALONE)
    assert (done.returncode, done.stdout) == (0, "x\n"), done.stderr
    assert not (image / "made").exists()


@check
def a_proc_that_hides_processes_is_no_obstacle() -> None:
    command("mount", "-o", "remount,hidepid=invisible", "/proc")
    try:
        done = run("run", "-q", "--", "sh", "-c", "exit 6", variables=ALONE)
        assert done.returncode == 6, done.stderr
        assert run("run", "-q", "--", "sh", "-c", "exit 7").returncode == 7
    finally:
        command("mount", "-o", "remount,hidepid=off", "/proc")


@check
def level_process_is_refused_with_the_reason() -> str:
    """It needs Landlock ABI 6 (Linux 6.12)."""
    program = (
        "import asyncio\n"
        "from agentkernel.backends.namespaces.backend import NamespacesBackend\n"
        "from agentkernel.backends._linux.facts import landlock_abi\n"
        "from agentkernel.backends.namespaces.fingerprint import process_probe_spec\n"
        "from agentkernel.errors import Unsupported\n"
        "async def main():\n"
        "    if landlock_abi() >= 6:\n"
        "        sandbox = await NamespacesBackend().create(process_probe_spec())\n"
        "        await sandbox.destroy()\n"
        "        return 'made'\n"
        "    try:\n"
        "        await NamespacesBackend().create(process_probe_spec())\n"
        "    except Unsupported as refusal:\n"
        "        return f'{refusal.message} / {refusal.hint}'\n"
        "print(asyncio.run(main()))\n"
    )
    said = command("runuser", "-u", "dev", "--", "python3", "-c", program, env=ENVIRONMENT | ALONE, cwd="/home/dev").strip()
    assert said == "made" or ("Landlock ABI 6" in said and "6.12" in said), said
    assert_nothing_left()
    return said


@check
def a_host_without_user_namespaces_says_so() -> None:
    command("sysctl", "-q", "-w", "user.max_user_namespaces=0")
    try:
        done = run("run", "-q", "--", "true", variables=ALONE)
        assert done.returncode == 125, done
        assert "agentkernel doctor" in done.stderr or "max_user_namespaces" in done.stderr, done.stderr
        assert "max_user_namespaces" in run("doctor", variables=ALONE).stdout
        if kernel_release() >= (6, 12):
            done = run("run", "-q", "--min-isolation", "process", "--", "sh", "-c", "echo in; ls /; exit 9", variables=ALONE)
            assert (done.returncode, done.stdout) == (9, "in\n"), done.stderr
    finally:
        command("sysctl", "-q", "-w", "user.max_user_namespaces=10000")


@check
def nothing_is_left_anywhere() -> None:
    assert_nothing_left()
    left = [str(path.relative_to(CGROUP)) for path in groups("agentkernel*")]
    assert set(left) <= {"agentkernel", "agentkernel/agents"}, left
    assert group_of(1) == CGROUP / "init.scope"
