"""The one table of settings: from it come TOML keys, environment variables, command-line options and the reference page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from agentkernel.config import arguments, tighten
from agentkernel.config.compound import ENVIRONMENT, FILES, MOUNTS
from agentkernel.config.reach import HOSTS, PORTS, PROXY
from agentkernel.config.setting import MAKES_SANDBOX, Setting
from agentkernel.config.unsupported import UNSUPPORTED_FLAGS
from agentkernel.config.values import (
    COUNT,
    CPUS,
    DURATION,
    IMAGE,
    LEVEL,
    NAME,
    PATH,
    PIDS,
    SIZE,
    STORAGE,
    SWITCH,
    TEXT,
    USER,
    choice,
    read_mebibytes,
)
from agentkernel.model.isolation import IsolationLevel

RUNTIMES = ("base", "python", "node", "go", "rust", "ruby", "java", "c", "dotnet")


SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="backend",
        type=TEXT,
        help="isolation backend; without it the strongest that is ready",
        project=tighten.NOTHING,  # another backend may isolate less
        environment="AGENTKERNEL_BACKEND",
        flags=("-B", "--backend"),
        metavar="NAME",
        verbs=MAKES_SANDBOX | {"exec"},
    ),
    Setting(
        key="isolation.minimum",
        type=LEVEL,
        help="refuse backends that isolate less than this",
        project=tighten.HIGHER,
        default=IsolationLevel.NONE,
        environment="AGENTKERNEL_MIN_ISOLATION",
        flags=("--min-isolation",),
        metavar="LEVEL",
    ),
    Setting(
        key="storage",
        type=STORAGE,
        help="where the sandbox's own writes go (memory has a hard limit, disk is larger)",
        project=tighten.ordered("memory", "disk"),
        environment="AGENTKERNEL_STORAGE",
        flags=("--storage",),
        metavar="KIND",
    ),
    Setting(
        key="timeout",
        type=DURATION,
        help="end the command, and all it started, after this time, such as 30s or 5m; 0 is never",
        project=tighten.LOWER,
        environment="AGENTKERNEL_TIMEOUT",
        flags=("--timeout",),
        metavar="TIME",
        verbs=frozenset({"run", "exec"}),
    ),
    Setting(
        key="daemon",
        type=SWITCH,
        help="a daemon that keeps sandboxes ready, started when it is not there; without it `run` works in its own process",
        project=tighten.ANYTHING,
        default=True,
        environment="AGENTKERNEL_DAEMON",
        flags=("--daemon",),
        off_flags=("--no-daemon",),
        verbs=frozenset({"run", "exec"}),
    ),
    Setting(
        key="dir",
        type=PATH,
        help="directory to show at /workspace, in place of the current one",
        project=tighten.NOTHING,
        environment="AGENTKERNEL_DIR",
        flags=("--dir",),
        metavar="DIRECTORY",
    ),
    Setting(
        key="user",
        type=USER,
        help="who the command runs as inside",
        project=tighten.only("user"),
        environment="AGENTKERNEL_USER",
        flags=("--user",),
        metavar="USER",
        verbs=MAKES_SANDBOX | {"exec"},
    ),
    Setting(
        key="mounts",
        type=MOUNTS,
        help="host path to show inside, writable unless :ro (repeatable)",
        project=tighten.NOTHING,
        default=(),
        flags=("--mount",),
        metavar="SOURCE:DESTINATION[:ro]",
    ),
    Setting(
        key="sandbox.name",
        type=NAME,
        help="name of the sandbox, for `create`; `run` takes it from --name alone, for a project's runs go side by side",
        project=tighten.ANYTHING,
        environment="AGENTKERNEL_NAME",
        flags=("--name",),
        metavar="NAME",
        verbs=frozenset({"run"}),
    ),
    Setting(
        key="sandbox.runtime",
        type=choice(*RUNTIMES),
        help="language of the project; noted only, until images are chosen by it",
        project=tighten.ANYTHING,
        default="base",
    ),
    Setting(
        key="sandbox.base_image",
        type=IMAGE,
        help="root file system: a directory or a tar archive, compressed or not; without it the host's own system, read-only",
        project=tighten.NO_PATH,
        environment="AGENTKERNEL_IMAGE",
        flags=("-i", "--image"),
        metavar="IMAGE",
        aliases={"sandbox.image": IMAGE.read},
    ),
    Setting(
        key="agent.preferred",
        type=TEXT,
        help="coding agent that the project is used with; noted only",
        project=tighten.ANYTHING,
        default="claude",
    ),
    Setting(
        key="resources.memory",
        type=SIZE,
        help="memory limit, such as 512MiB or 2G",
        project=tighten.LOWER,
        environment="AGENTKERNEL_MEMORY",
        flags=("--memory",),
        metavar="SIZE",
        aliases={"resources.memory_mb": read_mebibytes},
    ),
    Setting(
        key="resources.cpus",
        type=CPUS,
        help="processors, fractions too",
        project=tighten.LOWER,
        environment="AGENTKERNEL_CPUS",
        flags=("--cpus",),
        metavar="NUMBER",
        aliases={"resources.vcpus": CPUS.read},
    ),
    Setting(
        key="resources.pids",
        type=PIDS,
        help="processes and threads at once",
        project=tighten.LOWER,
        environment="AGENTKERNEL_PIDS",
        flags=("--pids",),
        metavar="NUMBER",
    ),
    Setting(
        key="resources.disk",
        type=SIZE,
        help="limit of all the sandbox's own writes together",
        project=tighten.LOWER,
        environment="AGENTKERNEL_DISK",
        flags=("--disk",),
        metavar="SIZE",
    ),
    Setting(
        key="security.profile",
        type=choice(*tighten.PROFILES),
        help="what the sandbox may do, as one word",
        project=tighten.ordered(*tighten.PROFILES),
        default="moderate",
        environment="AGENTKERNEL_PROFILE",
        flags=("--profile",),
        metavar="PROFILE",
    ),
    Setting(
        key="security.network",
        type=SWITCH,
        help="network access",
        project=tighten.OFF,
        environment="AGENTKERNEL_NETWORK",
        flags=("--network",),
        off_flags=("--no-network",),
    ),
    Setting(
        key="security.domains.allow",
        type=HOSTS,
        help="destination to allow beyond what the profile gives, such as example.com, *.example.com:8443 or 10.0.0.0/8:5432 (repeatable)",
        project=tighten.NOTHING,
        default=(),
        environment="AGENTKERNEL_ALLOW_HOSTS",
        flags=("--allow-host",),
        metavar="HOST[:PORT,...]",
    ),
    Setting(
        key="security.domains.block",
        type=HOSTS,
        help="destination to refuse, whatever allows it (repeatable)",
        project=tighten.ANYTHING,
        default=(),
        environment="AGENTKERNEL_DENY_HOSTS",
        flags=("--deny-host",),
        metavar="HOST[:PORT,...]",
    ),
    Setting(
        key="security.domains.allowlist_only",
        type=SWITCH,
        help="nothing but the allowed destinations",
        project=tighten.ON,
        default=False,
        environment="AGENTKERNEL_ONLY_HOSTS",
        flags=("--only-hosts",),
        off_flags=("--no-only-hosts",),
    ),
    Setting(
        key="network.ports",
        type=PORTS,
        help="port inside to publish on this host's loopback, such as 8080:80 (repeatable)",
        project=tighten.NOTHING,
        default=(),
        environment="AGENTKERNEL_PUBLISH",
        flags=("-p", "--publish"),
        metavar="[HOST-PORT:]PORT",
    ),
    Setting(
        key="network.transparent",
        type=SWITCH,
        help="whether programs that know no proxy reach the network, too; without it where the backend can",
        project=tighten.ANYTHING,
        environment="AGENTKERNEL_TRANSPARENT_NETWORK",
        flags=("--transparent-network",),
        off_flags=("--no-transparent-network",),
    ),
    Setting(
        key="network.upstream_proxy",
        type=PROXY,
        help="the proxy of a company's network, through which sandboxes reach what they may; addresses are then its to judge, names yours",
        project=tighten.NEVER,
        default="",
    ),
    Setting(
        key="security.mount_cwd",
        type=SWITCH,
        help="the current directory itself, writable, at /workspace",
        project=tighten.OFF,
        environment="AGENTKERNEL_MOUNT_CWD",
        flags=("--mount-cwd",),
        off_flags=("--no-mount-cwd",),
    ),
    Setting(
        key="security.mount_home",
        type=SWITCH,
        help="the home directory, read-only, without known credentials",
        project=tighten.OFF,
        environment="AGENTKERNEL_MOUNT_HOME",
        flags=("--mount-home",),
        off_flags=("--no-mount-home",),
    ),
    Setting(
        key="security.pass_env",
        type=SWITCH,
        help="the caller's environment variables",
        project=tighten.OFF,
        environment="AGENTKERNEL_PASS_ENV",
        flags=("--pass-env",),
        off_flags=("--no-pass-env",),
    ),
    Setting(
        key="security.read_only",
        type=SWITCH,
        help="a root file system that cannot be written to",
        project=tighten.ON,
        environment="AGENTKERNEL_READ_ONLY",
        flags=("--read-only",),
        off_flags=("--no-read-only",),
    ),
    Setting(
        key="environment",
        type=ENVIRONMENT,
        help="variable to set inside; without =VALUE the caller's own value (repeatable)",
        project=tighten.NOTHING,
        default={},
        flags=("-e", "--env"),
        metavar="NAME[=VALUE]",
        verbs=MAKES_SANDBOX | {"exec"},
    ),
    Setting(
        key="files",
        type=FILES,
        help="host files to show inside, read-only",
        project=tighten.NOTHING,
        default=(),
    ),
    Setting(
        key="idle_exit",
        type=DURATION,
        help="the daemon ends when there was neither a client nor a sandbox for so long; 0 is never",
        project=tighten.NEVER,
        default=300.0,
    ),
    Setting(
        key="pool.enabled",
        type=SWITCH,
        help="whether the daemon keeps fresh sandboxes ready for what is asked for again and again, see docs/pools.md",
        project=tighten.NEVER,
        default=True,
    ),
    Setting(
        key="pool.minimum",
        type=COUNT,
        help="a pool with fewer ready sandboxes is filled up",
        project=tighten.NEVER,
        default=3,
    ),
    Setting(
        key="pool.maximum",
        type=COUNT,
        help="ready sandboxes of a full pool",
        project=tighten.NEVER,
        default=5,
    ),
    Setting(
        key="pool.age",
        type=DURATION,
        help="ready sandboxes that are older are replaced",
        project=tighten.NEVER,
        default=600.0,
    ),
    Setting(
        key="pool.idle",
        type=DURATION,
        help="a pool that was not asked for so long is given up",
        project=tighten.NEVER,
        default=300.0,
    ),
)

BY_KEY: Mapping[str, Setting] = {setting.key: setting for setting in SETTINGS}
BY_ENVIRONMENT: Mapping[str, Setting] = {setting.environment: setting for setting in SETTINGS if setting.environment}


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Adds the options of all settings that `verb` takes; where it makes a sandbox also `--config`, and the options refused by name."""
    arguments.add_options(parser, [setting for setting in SETTINGS if verb in setting.verbs])
    if verb in MAKES_SANDBOX:
        arguments.add_config(parser)
        arguments.add_refused(parser, UNSUPPORTED_FLAGS)


def flags_given(args: argparse.Namespace) -> dict[str, object]:
    """The settings among parsed arguments, by key, as `load_settings` takes them; those not given are not in it."""
    given = vars(args)
    return {key: given[key] for key in BY_KEY if key in given}
