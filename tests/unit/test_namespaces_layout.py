"""The launch plan of a sandbox: pure, so every wall can be checked without building one."""

from __future__ import annotations

import dataclasses

import pytest

from agentkernel.backends._linux.cgroups import CgroupPlan
from agentkernel.backends._linux.facts import HostFacts
from agentkernel.backends._linux.plan import CloneFlag, MountAttr, Op, Step, Text, encode
from agentkernel.backends._linux.tree import Surroundings
from agentkernel.backends.namespaces.layout import build_plan
from agentkernel.model.network import EgressLimits, EgressRules, PortRule, Rule
from agentkernel.model.spec import (
    Bind,
    NetworkMode,
    RootFilesystem,
    RootKind,
    SandboxSpec,
    StorageKind,
    Workspace,
    WorkspaceMode,
)
from agentkernel.policy import landlock

FACTS = HostFacts(
    uid=0,
    gid=0,
    privileged=True,
    architecture="x86_64",
    kernel="6.1",
    landlock_abi=7,
    sys_binds=("/sys/devices/system/cpu",),
    devices=("null", "tty"),
    cgroup_namespace=True,
    sysctl_writable=True,
)
PLAIN = dataclasses.replace(FACTS, uid=1234, gid=1234, privileged=False)
HOST_ROOT = RootFilesystem(kind=RootKind.HOST, binds=(Bind(source="/usr", target="/usr"),), symlinks=(("/bin", "usr/bin"),))
SPEC = SandboxSpec(name="one", profile="moderate", root=HOST_ROOT)


def surroundings(*, separated: bool = True, **changes: object) -> Surroundings:
    around = Surroundings(
        facts=FACTS if separated else PLAIN,
        mount_point="/run/agentkernel/mount",
        cgroups=CgroupPlan(),
        id_base=0x70000000 if separated else None,
        storage_bytes=1 << 30,
    )
    return dataclasses.replace(around, **changes)


def steps(spec: SandboxSpec = SPEC, **changes: object) -> tuple[Step, ...]:
    return build_plan(spec, surroundings(**changes))


def the(plan: tuple[Step, ...], op: Op) -> Step:
    (step,) = [step for step in plan if step.op is op]
    return step


def targets(plan: tuple[Step, ...], op: Op, position: int) -> list[str]:
    return [step.arguments[position].value for step in plan if step.op is op and isinstance(step.arguments[position], Text)]


def test_every_namespace_is_new_and_the_network_only_without_one():
    flags = CloneFlag(the(steps(), Op.CLONE).arguments[0])
    assert flags == sum(flag for flag in CloneFlag)
    open_network = steps(dataclasses.replace(SPEC, network=NetworkMode.HOST))
    assert not CloneFlag(the(open_network, Op.CLONE).arguments[0]) & CloneFlag.NEWNET
    assert Op.LOOPBACK not in {step.op for step in open_network}


LOW_PORTS = Text("net/ipv4/ip_unprivileged_port_start")


def test_whoever_has_a_network_namespace_may_serve_on_every_port_of_it():
    read_only = dataclasses.replace(FACTS, sysctl_writable=False)
    for network, facts, may in (
        (NetworkMode.NONE, FACTS, True),
        (NetworkMode.NONE, read_only, False),
        (NetworkMode.FILTERED, read_only, True),  # or it fails: the resolver needs it
        (NetworkMode.HOST, FACTS, False),
    ):
        plan = steps(dataclasses.replace(SPEC, network=network), facts=facts)
        assert (LOW_PORTS in [step.arguments[0] for step in plan if step.op is Op.SYSCTL]) is may


def test_a_filtered_network_is_a_namespace_in_which_the_agent_may_listen_as_resolver():
    plan = steps(dataclasses.replace(SPEC, network=NetworkMode.FILTERED))
    assert CloneFlag(the(plan, Op.CLONE).arguments[0]) & CloneFlag.NEWNET
    port = next(step for step in plan if step.op is Op.SYSCTL and step.arguments[0] == LOW_PORTS)
    order = [step.op for step in plan]
    # The settings of the host's /proc before the root is changed, but after it is built: the network is made meanwhile.
    assert plan.index(port) == order.index(Op.PIVOT) - 1
    assert Op.LOOPBACK in order and Op.TRANSPARENT not in order


def test_what_programs_connect_to_is_turned_to_the_agent_before_the_rights_to_undo_it_go():
    plan = steps(dataclasses.replace(SPEC, network=NetworkMode.FILTERED, transparent_network=True))
    order = [step.op for step in plan]
    assert order.index(Op.LOOPBACK) < order.index(Op.TRANSPARENT) < order.index(Op.CAPABILITIES)
    assert the(plan, Op.TRANSPARENT).arguments == (3129, 53)


def test_names_are_looked_up_at_the_agent_where_the_network_is_filtered():
    spec = dataclasses.replace(SPEC, network=NetworkMode.FILTERED)
    for root in (HOST_ROOT, RootFilesystem(kind=RootKind.DIRECTORY, directory="/images/debian")):
        plan = steps(dataclasses.replace(spec, root=root))
        written = {step.arguments[0].value: step.arguments[2] for step in plan if step.op is Op.FILE}
        assert written["etc/resolv.conf"] == b"nameserver 127.0.0.1\n"


def test_the_guest_is_shown_read_only_where_programs_may_run_it():
    spec = dataclasses.replace(SPEC, network=NetworkMode.FILTERED)
    path = Text("etc/agentkernel/bin/agentkernel-guest")
    attached = steps(spec, guest="/lib/guest")
    (tree,) = [step for step in attached if step.op is Op.TREE and step.arguments[1] == Text("/lib/guest")]
    assert MountAttr(tree.arguments[2]) & MountAttr.RDONLY
    assert path in [step.arguments[1] for step in attached if step.op is Op.ATTACH]
    bound = [step for step in steps(spec, separated=False, guest="/lib/guest") if step.op is Op.BIND and step.arguments[1] == path]
    assert [MountAttr(step.arguments[2]) & MountAttr.RDONLY for step in bound] == [MountAttr.RDONLY]
    assert path not in [step.arguments[1] for step in steps(spec) if step.op is Op.ATTACH]


def test_rules_and_variables_change_no_step():
    spec = dataclasses.replace(SPEC, network=NetworkMode.FILTERED)
    ruled = dataclasses.replace(spec, egress=EgressRules(allow=(Rule(host="example.com"),)), ports=(PortRule(port=80),))
    limited = dataclasses.replace(spec, egress_limits=EgressLimits(connections=1))
    assert steps(limited) == steps(ruled) == steps(dataclasses.replace(spec, environment=(("A", "1"),))) == steps(spec)


def test_the_first_process_is_born_beside_the_sandboxs_group_and_then_has_no_cgroup_namespace():
    plan = steps(cgroups=CgroupPlan(directories=((2, "/cg/agentkernel/agentkernel-1"),), agents="/cg/agentkernel/agents"))
    assert [step.arguments for step in plan if step.op is Op.CGROUP] == [
        (2, Text("/cg/agentkernel/agentkernel-1")),
        (3, Text("/cg/agentkernel/agents")),
    ]
    assert not CloneFlag(the(plan, Op.CLONE).arguments[0]) & CloneFlag.NEWCGROUP


def test_with_a_range_the_agent_keeps_four_capabilities_and_without_none():
    assert the(steps(), Op.CAPABILITIES).arguments == (1 << 0 | 1 << 5 | 1 << 6 | 1 << 7,)
    assert the(steps(separated=False), Op.CAPABILITIES).arguments == (0,)


def test_a_plain_user_maps_one_id_and_denies_setgroups():
    assert the(steps(separated=False), Op.IDMAP).arguments == (Text("1000 1234 1\n"), Text("1000 1234 1\n"), 1)
    assert the(steps(), Op.IDMAP).arguments == (Text("0 1879048192 65536\n"), Text("0 1879048192 65536\n"), 0)


def test_the_walls_come_after_the_root_and_before_the_agent():
    order = [step.op for step in steps()]
    assert order[-1] is Op.AGENT
    walls = [Op.PIVOT, Op.CAPABILITIES, Op.NO_NEW_PRIVS, Op.LANDLOCK, Op.LANDLOCK_APPLY, Op.AGENT]
    assert [op for op in order if op in walls] == walls


def test_an_old_kernel_gets_no_landlock_rather_than_a_ruleset_that_breaks_renames():
    plan = steps(facts=dataclasses.replace(FACTS, landlock_abi=1))
    assert not {Op.LANDLOCK, Op.LANDLOCK_PATH, Op.LANDLOCK_APPLY} & {step.op for step in plan}


def test_landlock_grants_no_device_nodes_anywhere_and_no_writes_to_the_host_root():
    rules = {step.arguments[0].value: step.arguments[1] for step in steps() if step.op is Op.LANDLOCK_PATH}
    assert all(not access & landlock.NODES for access in rules.values())
    assert rules["/"] == landlock.READ
    assert rules["/workspace"] & landlock.MAKE_REG


def test_the_host_root_is_read_only_and_without_setuid_or_devices():
    plan = steps()
    tree = next(step for step in plan if step.op is Op.TREE and Text("/usr") in step.arguments)
    assert tree.arguments[2] == MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV
    assert the(plan, Op.REMOUNT_ROOT).arguments[0] & MountAttr.RDONLY


def test_every_mount_but_the_devices_forbids_devices_and_every_one_forbids_setuid():
    spec = dataclasses.replace(SPEC, mounts=(Bind(source="/data", target="/data", writable=True),), home_source="/home/a")
    for step in steps(spec):
        attributes = {Op.TREE: 2, Op.IDMAP_TREE: 2, Op.BIND: 2, Op.OVERLAY: 2, Op.TMPFS: 2, Op.PROC: 2, Op.MQUEUE: 1}.get(step.op)
        if attributes is None:
            continue
        value = MountAttr(step.arguments[attributes])
        assert value & MountAttr.NOSUID, step.describe()
        in_dev = any(isinstance(argument, Text) and argument.value.startswith("dev") for argument in step.arguments)
        assert value & MountAttr.NODEV or in_dev, step.describe()


def test_proc_hides_what_tells_of_the_host():
    masked = targets(steps(), Op.MASK, 0)
    assert {"proc/kcore", "proc/keys", "proc/kmsg", "proc/kallsyms"} <= set(masked)
    assert {"proc/sys", "proc/sysrq-trigger", "proc/irq"} <= set(targets(steps(), Op.READ_ONLY, 0))


def test_a_private_view_never_writes_to_its_source():
    spec = dataclasses.replace(SPEC, workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source="/home/a/project"))
    plan = steps(spec, owners={"/home/a/project": 1234})
    tree = the(plan, Op.IDMAP_TREE)
    assert tree.arguments[1] == Text("/home/a/project")
    assert tree.arguments[2] & MountAttr.RDONLY
    options = the(plan, Op.OVERLAY).arguments[1].value
    assert "upperdir=/run/agentkernel/mount/work-upper" in options
    assert "/home/a" not in options


def test_the_owner_of_a_source_and_the_sandboxes_user_change_places():
    spec = dataclasses.replace(SPEC, workspace=Workspace(mode=WorkspaceMode.WRITABLE, source="/p"))
    base = 0x70000000
    mapping = the(steps(spec, owners={"/p": 0}), Op.IDMAP_TREE).arguments[4].value.splitlines()
    assert mapping == [f"0 {base + 1000} 1", f"1 {base + 1} 999", f"1000 {base} 1", f"1001 {base + 1001} {65536 - 1001}"]


@pytest.mark.parametrize("owner", [0, 1, 999, 1000, 1001, 65535, 65536, 3_000_000])
def test_an_owner_mapping_gives_every_id_at_most_one_place(owner: int):
    spec = dataclasses.replace(SPEC, workspace=Workspace(mode=WorkspaceMode.WRITABLE, source="/p"))
    lines = the(steps(spec, owners={"/p": owner}), Op.IDMAP_TREE).arguments[4].value.splitlines()
    ranges = [tuple(map(int, line.split())) for line in lines]
    inside = [i for start, _, count in ranges for i in range(start, start + count)]
    outside = [i for _, start, count in ranges for i in range(start, start + count)]
    assert len(set(inside)) == len(inside) and len(set(outside)) == len(outside)
    assert any(start <= owner < start + count and owner - start + target == 0x70000000 + 1000 for start, target, count in ranges)
    assert all(count > 0 for _, _, count in ranges)


def test_protected_paths_of_a_writable_workspace_are_read_only_and_their_parents_pinned():
    workspace = Workspace(mode=WorkspaceMode.WRITABLE, source="/p", protected=(".envrc", ".git/hooks", ".git/config"))
    plan = steps(dataclasses.replace(SPEC, workspace=workspace))
    assert targets(plan, Op.BIND_WITHIN, 0) == ["workspace/.git"]
    assert {"workspace/.envrc", "workspace/.git/hooks", "workspace/.git/config"} <= set(targets(plan, Op.READ_ONLY, 0))


def test_a_read_only_root_leaves_only_tmp_writable():
    plan = steps(dataclasses.replace(SPEC, read_only_root=True))
    sealed = {step.arguments[1].value: bool(step.arguments[2] & MountAttr.RDONLY) for step in plan if step.op is Op.BIND}
    assert not sealed["tmp"] and not sealed["dev/shm"]
    assert sealed["home/user"] and sealed["workspace"] and sealed["var/tmp"]


def test_an_image_is_a_lower_layer_and_its_mounts_follow_the_overlay():
    image = RootFilesystem(kind=RootKind.DIRECTORY, directory="/images/debian")
    plan = steps(dataclasses.replace(SPEC, root=image))
    order = [step.op for step in plan]
    assert order.index(Op.ROOT_TMPFS) < order.index(Op.ROOT_OVERLAY) < order.index(Op.PROC)
    assert Op.REMOUNT_ROOT not in order
    assert Op.REMOUNT_ROOT in [step.op for step in steps(dataclasses.replace(SPEC, root=image, read_only_root=True))]


def test_a_plain_user_gets_an_etc_that_it_may_write_to_though_the_images_is_not_its():
    image = dataclasses.replace(SPEC, root=RootFilesystem(kind=RootKind.DIRECTORY, directory="/images/debian"))
    filtered = dataclasses.replace(image, network=NetworkMode.FILTERED)
    assert "image-upper/etc" in targets(steps(filtered, separated=False), Op.MKDIR, 0)
    for plan in (steps(filtered), steps(image, separated=False)):
        assert "image-upper/etc" not in targets(plan, Op.MKDIR, 0)


def test_storage_on_disk_replaces_the_tmpfs():
    spec = dataclasses.replace(SPEC, storage=StorageKind.DISK)
    assert the(steps(spec, data_directory="/d"), Op.ROOT_SLOT)
    assert the(steps(spec, separated=False, data_directory="/d"), Op.ROOT_BIND).arguments[0] == Text("/d")


def test_storage_in_memory_is_bounded_in_bytes_and_inodes():
    options = next(step for step in steps() if step.op is Op.ROOT_TMPFS).arguments[1].value
    assert "size=1073741824" in options and "nr_inodes=262144" in options


def test_sources_are_mounted_where_they_really_are():
    plan = steps(resolved={"/usr": "/real/usr"})
    assert Text("/real/usr") in next(step for step in plan if step.op is Op.TREE).arguments


def test_a_path_with_a_nul_byte_is_refused_when_encoding():
    with pytest.raises(ValueError, match="NUL"):
        encode((Step(op=Op.PROC, arguments=(Text("a\0b"),)),))


def test_encoding_follows_the_contract():
    assert encode((Step(op=Op.SETID, arguments=(1, Text("x"), b"\0\1")),)) == (
        b"AKPLAN1\n"
        + (1).to_bytes(4, "little")
        + b"\x0b\0\x03\0"
        + b"\x08\0\0\0"
        + (1).to_bytes(8, "little")
        + b"\x02\0\0\0x\0"
        + b"\x02\0\0\0\0\1"
    )


def test_every_step_describes_itself():
    assert all(step.describe() for step in steps())
