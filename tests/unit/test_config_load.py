"""Layers of settings, and what a project's file may do to them."""

import os
from pathlib import Path

import pytest

from agentkernel.config.load import OriginKind, Settings, collect, load_settings
from agentkernel.config.places import Places, find_places
from agentkernel.config.table import BY_KEY, SETTINGS
from agentkernel.config.tighten import NEVER, UNSET, unset
from agentkernel.config.trusted import TrustStore
from agentkernel.errors import InvalidInput, NotTrusted, UnknownKey
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import Bind
from agentkernel.policy.profiles import PROFILES

MIB = 1 << 20


class Host:
    """A host with its three files and a project, all in a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.places = Places(
            operator=str(directory / "etc/config.toml"),
            user=str(directory / "user/config.toml"),
            trusted=str(directory / "data/trusted.json"),
            operator_owner=os.geteuid(),
        )
        self.project = directory / "project"
        self.project.mkdir()
        (directory / "user").mkdir()
        (directory / "etc").mkdir()

    def write(self, which: str, text: str) -> Path:
        path = self.project / "agentkernel.toml" if which == "project" else Path(getattr(self.places, which))
        path.write_text(text)
        path.chmod(0o644)
        return path

    def load(self, *, config: str | None = None, environment: dict[str, str] | None = None, **flags: object) -> Settings:
        given = {key.replace("__", "."): value for key, value in flags.items()}
        return load_settings(cwd=str(self.project), config_path=config, environment=environment or {}, flags=given, places=self.places)

    def trust(self, path: Path) -> None:
        settings = collect(cwd=str(self.project), config_path=str(path), environment={}, flags={}, places=self.places)
        assert settings.project is not None
        TrustStore(self.places.trusted).add(settings.project.path, settings.project.digest)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_without_any_file_the_defaults_hold(host: Host) -> None:
    settings = host.load()
    assert {setting.key: settings.get(setting.key) for setting in SETTINGS} == {setting.key: setting.default for setting in SETTINGS}
    assert settings.origin("security.profile").kind is OriginKind.DEFAULT


def test_each_layer_wins_over_those_below_it(host: Host) -> None:
    host.write("operator", '[resources]\nmemory = "400MiB"\npids = 40\ncpus = 4\ndisk = "4GiB"\n')
    host.write("user", '[resources]\nmemory = "300MiB"\npids = 30\ncpus = 3\n')
    host.write("project", '[resources]\nmemory = "200MiB"\npids = 20\n')
    settings = host.load(environment={"AGENTKERNEL_MEMORY": "100MiB"}, resources__memory="50MiB")
    assert settings.get("resources.memory") == 50 * MIB
    assert settings.get("resources.pids") == 20
    assert settings.get("resources.cpus") == 3
    assert settings.get("resources.disk") == 4096 * MIB
    kinds = [OriginKind.DEFAULT, OriginKind.OPERATOR, OriginKind.USER, OriginKind.PROJECT, OriginKind.ENVIRONMENT, OriginKind.FLAG]
    assert [origin.kind for origin, _ in settings.explain("resources.memory")] == kinds
    assert [value for _, value in settings.explain("resources.memory")] == [None, 400 * MIB, 300 * MIB, 200 * MIB, 100 * MIB, 50 * MIB]


def test_an_origin_names_file_and_line_variable_or_flag(host: Host) -> None:
    path = host.write("project", '# a comment\n[security]\n\nprofile = "restrictive"\n')
    settings = host.load(environment={"AGENTKERNEL_NETWORK": "no"}, security__read_only=True, security__mount_cwd=False)
    assert settings.origin("security.profile").where == f"{path}:4"
    assert settings.origin("security.network").where == "AGENTKERNEL_NETWORK"
    assert settings.origin("security.read_only").where == "--read-only"
    assert settings.origin("security.mount_cwd").where == "--no-mount-cwd"


def test_environment_tables_merge_by_name_and_lists_grow(host: Host) -> None:
    host.write("operator", 'mounts = ["/srv/a:/a:ro"]\n[environment]\nA = "1"\nB = "1"\n')
    host.write("user", '[environment]\nB = "2"\n')
    settings = host.load(mounts=["/srv/b:/b", "/srv/a:/a:ro"])
    assert settings.get("environment") == {"A": "1", "B": "2"}
    assert settings.get("mounts") == (
        Bind(source="/srv/a", target="/a"),
        Bind(source="/srv/b", target="/b", writable=True),
    )


LOOSENING = {
    'backend = "memory"': "backend",
    'storage = "disk"': "storage",
    'dir = "/srv"': "dir",
    'user = "root"': "user",
    'mounts = ["./data:/data:ro"]': "mounts",
    '[sandbox]\nbase_image = "./rootfs"': "sandbox.base_image",
    '[sandbox]\nbase_image = "/"': "sandbox.base_image",
    '[sandbox]\nimage = "rootfs.tar"': "sandbox.base_image",
    '[sandbox]\ncontainer_runtime = "runc"': "sandbox.container_runtime",
    '[sandbox]\ngpus = "all"': "sandbox.gpus",
    '[resources]\nmemory = "513MiB"': "resources.memory",
    "[resources]\nmemory_mb = 1024": "resources.memory",
    "[resources]\nvcpus = 2": "resources.cpus",
    "[resources]\npids = 513": "resources.pids",
    '[resources]\ndisk = "2GiB"': "resources.disk",
    '[security]\nprofile = "permissive"': "security.profile",
    '[security.domains]\nallow = ["example.com"]': "security.domains.allow",
    '[network]\nports = ["8080:80"]': "network.ports",
    "[network]\nmax_connections = 513": "network.max_connections",
    "[network]\nmax_lookups = 101": "network.max_lookups",
    "[security]\nmount_cwd = true": "security.mount_cwd",
    "[security]\nmount_home = true": "security.mount_home",
    "[security]\npass_env = true": "security.pass_env",
    '[environment]\nPATH = "/evil"': "environment",
    '[[files]]\nsource = "/etc/shadow"\ndest = "/x"': "files",
    '[[secrets]]\nname = "KEY"\nhosts = ["evil.example.com"]': "secrets",
}


@pytest.mark.parametrize(("text", "key"), LOOSENING.items(), ids=[text.replace("\n", " ") for text in LOOSENING])
def test_a_project_file_that_loosens_is_refused_until_it_is_trusted(host: Host, text: str, key: str) -> None:
    path = host.write("project", text)
    with pytest.raises(NotTrusted) as caught:
        host.load()
    assert caught.value.message == f"{path} asks for more than you allow: {key}"
    assert f"agentkernel trust {path}" in caught.value.hint
    host.trust(path)
    assert host.load().origin(key).kind is OriginKind.PROJECT


TIGHTENING = [
    '[isolation]\nminimum = "vm"',
    'storage = "memory"',
    'timeout = "30s"',
    "daemon = false",
    'user = "user"',
    '[sandbox]\nname = "x"\nruntime = "python"\nbase_image = "python:3.12-alpine"\npull = "never"\nentrypoint = ["sh", "-c"]',
    '[agent]\npreferred = "codex"',
    '[resources]\nmemory = "100MiB"\ncpus = 0.5\npids = 10\ndisk = "1MiB"',
    "[resources]\nmemory_mb = 512\nvcpus = 1",
    '[security]\nprofile = "restrictive"',
    '[security]\nprofile = "moderate"',
    "[security]\nnetwork = false\nmount_cwd = false\nmount_home = false\npass_env = false\nread_only = true",
    "[security]\nread_only = false",
    "[security]\nnetwork = true",  # as moderate gives it: by the user's rules
    '[security.domains]\nallow = []\nblock = ["example.com"]\nallowlist_only = true',
    "[network]\nports = []\ntransparent = false",
    '[network]\nmax_connections = 512\nmax_lookups = 1\nmax_bytes = "500MB"',
    "mounts = []\nfiles = []\n[environment]\n",
]


@pytest.mark.parametrize("text", TIGHTENING, ids=[text.replace("\n", " ") for text in TIGHTENING])
def test_a_project_file_that_only_tightens_needs_no_trust(host: Host, text: str) -> None:
    host.write("project", text)
    assert host.load().loosenings() == ()


def test_every_setting_is_in_one_of_the_two_lists_above() -> None:
    assert {setting.key for setting in SETTINGS if setting.project is not NEVER} - set(LOOSENING.values()) == {
        "isolation.minimum",
        "timeout",
        "sandbox.name",
        "sandbox.runtime",
        "sandbox.pull",
        "sandbox.entrypoint",
        "agent.preferred",
        "daemon",
        "security.network",
        "security.domains.block",
        "security.domains.allowlist_only",
        "network.transparent",
        "network.max_bytes",
        "security.read_only",
    }


def test_what_the_user_set_is_the_bar_for_the_project(host: Host) -> None:
    host.write(
        "user",
        'timeout = "60s"\n[isolation]\nminimum = "vm"\n[resources]\nmemory = "2GiB"\n[security]\nread_only = true\nnetwork = true\n'
        '[network]\nmax_bytes = "100MB"\nmax_connections = 8\n',
    )
    host.write("project", '[resources]\nmemory = "1GiB"\n[security]\nnetwork = true\n')
    assert host.load().get("resources.memory") == 1024 * MIB
    for text in (
        'timeout = "61s"',
        '[network]\nmax_bytes = "101MB"',
        "[network]\nmax_connections = 9",
        "timeout = 0",
        '[isolation]\nminimum = "container"',
        '[resources]\nmemory = "3GiB"',
        "[security]\nread_only = false",
    ):
        host.write("project", text)
        with pytest.raises(NotTrusted):
            host.load()


def test_a_project_may_keep_to_fewer_hosts_and_never_open_what_the_user_has_closed(host: Host) -> None:
    host.write("user", '[security.domains]\nallow = ["a.example"]\nallowlist_only = true\n')
    host.write("project", '[security.domains]\nallow = ["a.example"]\nblock = ["b.example"]\n')
    settings = host.load()
    assert [str(rule) for rule in settings.get("security.domains.block")] == ["b.example"]
    for loose in ('allow = ["a.example", "b.example"]', "allowlist_only = false"):
        host.write("project", f"[security.domains]\n{loose}\n")
        with pytest.raises(NotTrusted):
            host.load()
    path = host.write("project", '[network]\nupstream_proxy = "http://evil.example:1"\n')
    with pytest.raises(InvalidInput, match="not a project's to set"):
        host.load()
    with pytest.raises(InvalidInput, match="not a project's to set"):
        host.trust(path)


def test_the_bar_is_the_profile_that_holds_without_the_project(host: Host) -> None:
    host.write("project", '[resources]\nmemory = "400MiB"\n[security]\nmount_cwd = true\nnetwork = true\n')
    with pytest.raises(NotTrusted, match=r"resources\.memory, security\.mount_cwd, security\.network"):
        host.load(security__profile="restrictive")
    assert host.load(security__profile="permissive").get("security.mount_cwd") is True


def test_a_stricter_profile_of_the_project_is_no_excuse_to_switch_on_what_the_user_has_off(host: Host) -> None:
    host.write("project", '[security]\nprofile = "restrictive"\nmount_home = true\n')
    with pytest.raises(NotTrusted, match=r"security\.mount_home"):
        host.load()


def test_a_loosening_that_a_flag_overrides_is_none(host: Host) -> None:
    host.write("project", '[security]\nprofile = "permissive"\n')
    assert host.load(security__profile="moderate").get("security.profile") == "moderate"
    host.write("project", '[environment]\nA = "1"\n')
    with pytest.raises(NotTrusted):
        host.load(security__profile="moderate")


def test_any_change_of_a_trusted_file_ends_its_trust(host: Host) -> None:
    path = host.write("project", '[security]\nprofile = "permissive"\n')
    host.trust(path)
    host.load()
    host.write("project", '[security]\nprofile = "permissive"\n# changed\n')
    with pytest.raises(NotTrusted):
        host.load()


def test_trust_in_one_path_is_no_trust_in_a_copy(host: Host, tmp_path: Path) -> None:
    path = host.write("project", '[security]\nprofile = "permissive"\n')
    host.trust(path)
    copy = tmp_path / "copy.toml"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(NotTrusted):
        host.load(config=str(copy))


def test_a_file_named_by_config_is_no_more_trusted_than_the_project_s(host: Host, tmp_path: Path) -> None:
    named = tmp_path / "elsewhere.toml"
    named.write_text('[security]\nprofile = "permissive"\n')
    with pytest.raises(NotTrusted):
        host.load(config=str(named))
    host.write("project", '[security]\nprofile = "restrictive"\n')
    named.write_text("[resources]\npids = 5\n")
    settings = host.load(config="../elsewhere.toml")
    assert settings.get("resources.pids") == 5
    assert settings.get("security.profile") == "moderate"


def test_a_file_in_the_user_s_own_configuration_directory_speaks_for_the_user(host: Host) -> None:
    named = Path(host.places.user).with_name("open.toml")
    named.write_text('[security]\nprofile = "permissive"\n')
    named.chmod(0o644)
    settings = host.load(config=str(named))
    assert settings.get("security.profile") == "permissive"
    assert settings.origin("security.profile").kind is OriginKind.USER


def test_a_link_into_the_user_s_directory_from_a_project_is_judged_by_where_it_leads(host: Host, tmp_path: Path) -> None:
    (tmp_path / "hostile.toml").write_text('[security]\nprofile = "permissive"\n')
    link = Path(host.places.user).with_name("link.toml")
    link.symlink_to(tmp_path / "hostile.toml")
    with pytest.raises(NotTrusted):
        host.load(config=str(link))


def test_a_missing_file_named_by_config_is_an_error(host: Host) -> None:
    with pytest.raises(InvalidInput, match="there is no file"):
        host.load(config="nope.toml")


def test_a_project_file_that_is_a_link_is_an_error_and_not_skipped(host: Host, tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("")
    (host.project / "agentkernel.toml").symlink_to(tmp_path / "real.toml")
    with pytest.raises(InvalidInput, match="is a symbolic link"):
        host.load()


def test_a_project_file_that_is_a_pipe_or_a_directory_is_an_error(host: Host) -> None:
    path = host.project / "agentkernel.toml"
    os.mkfifo(path)
    with pytest.raises(InvalidInput, match="not a regular file"):
        host.load()
    path.unlink()
    path.mkdir()
    with pytest.raises(InvalidInput, match="not a regular file"):
        host.load()


def test_a_project_file_larger_than_a_mebibyte_is_an_error(host: Host) -> None:
    host.write("project", "# x\n" * (MIB // 4 + 1))
    with pytest.raises(InvalidInput, match="larger than"):
        host.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 3000, "nested too deeply"),
        ("a" + ".a" * 3000 + " = 1", "longer than 4096 bytes"),
        ("x = " + "9" * 4050 + "9" * 20, "."),
        ("[security\n", "."),
        ('[security]\nprofile = "a"\nprofile = "b"\n', "."),
    ],
)
def test_hostile_toml_is_an_error_and_no_crash(host: Host, text: str, message: str) -> None:
    host.write("project", text)
    with pytest.raises(InvalidInput, match=message):
        host.load()


def test_a_file_that_is_not_utf8_is_an_error(host: Host) -> None:
    (host.project / "agentkernel.toml").write_bytes(b'name = "\xff"\n')
    with pytest.raises(InvalidInput, match="not UTF-8"):
        host.load()


@pytest.mark.parametrize("which", ["user", "operator"])
def test_a_policy_file_that_others_can_write_is_an_error(host: Host, which: str) -> None:
    host.write(which, '[security]\nprofile = "permissive"\n').chmod(0o664)
    with pytest.raises(InvalidInput, match="can be written by others"):
        host.load()


@pytest.mark.skipif(os.geteuid() != 0, reason="changing a file's owner needs root")
@pytest.mark.parametrize("which", ["user", "operator"])
def test_a_policy_file_of_somebody_else_is_an_error(host: Host, which: str) -> None:
    os.chown(host.write(which, ""), 12345, 12345)
    with pytest.raises(InvalidInput, match="belongs to user 12345"):
        host.load()


def test_the_user_s_file_may_be_a_link_as_dotfiles_are(host: Host, tmp_path: Path) -> None:
    (tmp_path / "dotfiles.toml").write_text('[security]\nprofile = "restrictive"\n')
    (tmp_path / "dotfiles.toml").chmod(0o600)
    Path(host.places.user).symlink_to(tmp_path / "dotfiles.toml")
    assert host.load().get("security.profile") == "restrictive"


def test_an_unknown_key_is_an_error_with_line_and_suggestion(host: Host) -> None:
    path = host.write("project", "[resources]\npids = 5\n\n[security]\nnetwrok = false\n")
    with pytest.raises(UnknownKey) as caught:
        host.load()
    assert caught.value.message == f"{path}:5: there is no setting 'security.netwrok'"
    assert caught.value.hint == "did you mean 'security.network'?"


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ('[security.commands]\nallow = ["x"]\n', 1, "security.commands"),
        ("[security]\nseccomp = 'x'\n", 2, "security.seccomp"),
        ('[build]\ndockerfile = "Dockerfile"\n', 1, "build"),
        ('[orchestrator]\nprovider = "kubernetes"\n', 1, "orchestrator"),
        ('[[schedule]]\nid = "x"\n', 1, "schedule"),
        ("[network]\nvsock_cid = 3\n", 2, "network.vsock_cid"),
        ('[agent]\ncompatibility_mode = "claude"\n', 2, "agent.compatibility_mode"),
    ],
)
def test_a_key_of_other_versions_is_refused_by_name(host: Host, text: str, line: int, key: str) -> None:
    path = host.write("project", text)
    with pytest.raises(InvalidInput) as caught:
        host.load()
    assert caught.value.message == f"{path}:{line}: {key} is not supported by this version"


@pytest.mark.parametrize("text", ["[nope]\nkey = 1\n", "nope = 1\n", "[nope]\n", "[security.nope]\nx = 1\n", "security = 1\n"])
def test_what_is_nowhere_in_the_table_is_an_error(host: Host, text: str) -> None:
    host.write("project", text)
    with pytest.raises(InvalidInput):
        host.load()


def test_two_names_of_one_setting_in_one_file_contradict(host: Host) -> None:
    host.write("project", '[resources]\nmemory_mb = 1\nmemory = "2MiB"\n')
    with pytest.raises(InvalidInput, match="says again"):
        host.load()


@pytest.mark.parametrize(
    "text",
    [
        'timeout = "soon"',
        "timeout = true",
        "timeout = -1",
        "timeout = nan",
        "[resources]\nmemory = 0",
        '[resources]\nmemory = "0"',
        "[resources]\nmemory = 1.5",
        '[resources]\nmemory_mb = "512"',
        "[resources]\npids = 0",
        "[resources]\npids = 1.5",
        "[resources]\ncpus = 0",
        "[resources]\ncpus = inf",
        '[security]\nnetwork = "perhaps"',
        "[security.domains]\nallow = 1",
        '[security.domains]\nblock = ["a b"]',
        "[security.domains]\nblock = [1]",
        '[network]\nports = ["80:http"]',
        "[network]\nports = [70000]",
        "[security]\nprofile = 1",
        '[security]\nprofile = "custom"',
        '[sandbox]\nname = "-x"',
        '[sandbox]\nruntime = "cobol"',
        'mounts = "x"',
        'mounts = ["a"]',
        'mounts = ["a:b"]',
        'mounts = ["a:/b:rx"]',
        'mounts = ["a:/"]',
        'mounts = ["a:/x/../../etc"]',
        'mounts = ["~/x:/x"]',
        '[environment]\n"A=B" = "x"',
        "[environment]\nA = 1",
        '[environment]\nA = "x\\u0000y"',
        '[[files]]\nsource = "x"',
        '[[files]]\nsource = "x"\ndest = "relative"',
        '[[files]]\nsource = "x"\ndest = "/x"\nmode = "4755"',
        '[[files]]\nsource = "x"\ndest = "/x"\nowner = "me"',
        'user = "me"',
        'storage = "tape"',
        '[isolation]\nminimum = "strong"',
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_line(host: Host, text: str) -> None:
    path = host.write("user", text)
    with pytest.raises(InvalidInput, match=f"{path}:[12]: "):
        host.load()


def test_relative_paths_count_from_the_file_that_holds_them(host: Host) -> None:
    host.write("user", 'dir = "src"\nmounts = ["data:/data"]\n[[files]]\nsource = "key"\ndest = "/key"\nmode = "0755"\n')
    settings = host.load(sandbox__base_image="./rootfs")
    base = Path(host.places.user).parent
    assert settings.get("dir") == str(base / "src")
    assert settings.get("mounts")[0].source == str(base / "data")
    assert (settings.get("files")[0].source, settings.get("files")[0].mode) == (str(base / "key"), 0o755)
    assert settings.get("sandbox.base_image") == f"{host.project}/rootfs"


def test_an_image_named_by_a_file_elsewhere_is_nothing_of_the_working_directory(host: Host, tmp_path: Path) -> None:
    (host.project / "rootfs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/agentkernel.toml").write_text('[sandbox]\nbase_image = "rootfs"\n')
    assert host.load(config="../elsewhere/agentkernel.toml").get("sandbox.base_image") == "rootfs"
    assert host.load(sandbox__base_image="rootfs").get("sandbox.base_image") == f"{host.project}/rootfs"


def test_a_name_that_exists_beside_the_file_is_a_path(host: Host) -> None:
    """An image named like a directory of the project would show that directory, or what it links to."""
    (host.project / "rootfs").symlink_to("/")
    host.write("project", '[sandbox]\nbase_image = "rootfs"\n')
    with pytest.raises(NotTrusted):
        host.load()


@pytest.mark.parametrize(
    ("name", "hint"), [("AGENTKERNEL_PROFLIE", "AGENTKERNEL_PROFILE"), ("AGENTKERNEL_NETWORKS", "AGENTKERNEL_NETWORK")]
)
def test_a_variable_that_nearly_is_a_setting_is_an_error(host: Host, name: str, hint: str) -> None:
    with pytest.raises(UnknownKey) as caught:
        host.load(environment={name: "restrictive"})
    assert hint in caught.value.hint


def test_variables_of_other_parts_and_empty_ones_are_left_alone(host: Host) -> None:
    environment = {"AGENTKERNEL_API_KEY": "x", "AGENTKERNEL_DEBUG": "1", "AGENTKERNEL_SOMETHING_ELSE": "1", "AGENTKERNEL_PROFILE": ""}
    assert host.load(environment=environment).get("security.profile") == "moderate"


def test_every_variable_is_read(host: Host) -> None:
    samples = {"backend": "namespaces", "isolation.minimum": "container", "storage": "disk", "timeout": "5s", "dir": "/srv", "user": "0:0"}
    samples |= {
        "sandbox.name": "x",
        "sandbox.base_image": "alpine:3",
        "sandbox.pull": "always",
        "resources.memory": "64m",
        "resources.cpus": "1.5",
        "resources.pids": "9",
    }
    samples |= {"resources.disk": "1g", "security.profile": "permissive"}
    samples |= {"security.domains.allow": "a.example", "security.domains.block": "a.example:443 b.example", "network.ports": "80 81:82"}
    samples |= {"network.max_connections": "8", "network.max_bytes": "500MB", "network.max_lookups": "5"}
    for setting in SETTINGS:
        if setting.environment:
            value = samples.get(setting.key, "on")
            settings = host.load(environment={setting.environment: value})
            assert settings.origin(setting.key).where == setting.environment
            assert settings.get(setting.key) == setting.type.read(value, str(host.project))


def test_a_wrong_variable_names_itself(host: Host) -> None:
    with pytest.raises(InvalidInput, match=r"AGENTKERNEL_CPUS: resources\.cpus: "):
        host.load(environment={"AGENTKERNEL_CPUS": "many"})


def test_an_unknown_setting_is_asked_for_in_vain(host: Host) -> None:
    with pytest.raises(UnknownKey, match="nope"):
        host.load().get("nope")
    with pytest.raises(UnknownKey, match="nope"):
        host.load(nope=1)


def test_directories_come_from_the_environment_as_xdg_says() -> None:
    assert find_places({"HOME": "/home/me"}).user == "/home/me/.config/agentkernel/config.toml"
    assert find_places({"HOME": "/home/me", "XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d"}).trusted == "/d/agentkernel/trusted.json"
    assert find_places({"HOME": "/home/me", "XDG_CONFIG_HOME": "relative"}).user == "/home/me/.config/agentkernel/config.toml"
    assert find_places({"HOME": "/home/me"}).operator == "/etc/agentkernel/config.toml"
    assert find_places({"HOME": "/home/me"}).operator_owner == 0


COLUMNS = {
    "security.network": "network",
    "security.mount_cwd": "mount_cwd",
    "security.mount_home": "mount_home",
    "security.pass_env": "pass_environment",
    "security.read_only": "read_only_root",
    "resources.memory": "memory_bytes",
    "resources.cpus": "cpus",
    "resources.pids": "pids",
    "resources.disk": "disk_bytes",
}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_bar_of_an_unset_value_is_never_looser_than_its_profile(profile: str) -> None:
    assert UNSET[profile].keys() == COLUMNS.keys()
    for key, column in COLUMNS.items():
        assert BY_KEY[key].project.allows(unset(profile, key), getattr(PROFILES[profile], column)), key


def test_levels_are_read_by_their_names(host: Host) -> None:
    assert host.load(isolation__minimum="user-kernel").get("isolation.minimum") is IsolationLevel.USER_KERNEL
