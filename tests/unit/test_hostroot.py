"""The host's own system as a root: what is shown, and what never is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentkernel.errors import CommandNotFound
from agentkernel.images import hostetc
from agentkernel.images.hostroot import discover
from agentkernel.model.spec import RootFilesystem, RootKind

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\n"
SYSTEM_PATH = "/usr/bin:/bin"


class Home:
    """A user's home with toolchains in it, and the PATH that leads to them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "home" / "me"
        self.path.mkdir(parents=True)
        self.directories: list[str] = []
        self.environment: dict[str, str] = {}

    def program(self, name: str, content: str = "#!/bin/sh\n") -> Path:
        """An executable script at a path relative to home; its directory joins PATH."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)
        self.search(path.parent)
        return path

    def binary(self, name: str) -> Path:
        path = self.program(name)
        path.write_bytes(b"\x7fELF" + bytes(60))
        return path

    def search(self, directory: Path) -> None:
        if str(directory) not in self.directories:
            self.directories.append(str(directory))

    def root(self, command: str | None = "ls", *, path: str | None = None) -> RootFilesystem | None:
        environment = {
            "PATH": ":".join([*self.directories, SYSTEM_PATH]) if path is None else path,
            "HOME": str(self.path),
            **self.environment,
        }
        argv = () if command is None else (os.fsencode(command),)
        return discover(argv=argv, environment=environment, home=str(self.path), uid=os.getuid())

    def shown(self, command: str | None = "ls") -> list[str]:
        """What of home is shown, relative to it."""
        root = self.root(command)
        assert root is not None
        prefix = f"{self.path}/"
        return sorted(bind.target.removeprefix(prefix) for bind in root.binds if bind.target.startswith(prefix))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def found(home: Home, command: str | None = "ls") -> RootFilesystem:
    root = home.root(command)
    assert root is not None
    return root


def test_a_command_of_the_system_needs_the_system_only(home: Home) -> None:
    root = found(home)
    assert root.kind is RootKind.HOST
    assert "/usr" in {bind.target for bind in root.binds}
    assert all(not bind.writable for bind in root.binds)
    assert home.shown() == []
    for link, target in root.symlinks:
        if link in ("/bin", "/lib", "/sbin", "/lib64"):
            assert os.readlink(link) == target


def test_a_merged_directory_is_a_link_and_a_real_one_is_bound(home: Home) -> None:
    root = found(home)
    for path in ("/bin", "/sbin", "/lib", "/lib64"):
        if os.path.lexists(path):
            assert (path in dict(root.symlinks)) is os.path.islink(path)
            assert (path in {bind.target for bind in root.binds}) is not os.path.islink(path)


def test_a_command_that_path_does_not_have_has_no_root(home: Home) -> None:
    assert home.root("no-such-command-anywhere") is None
    home.path.joinpath("bin").mkdir()
    home.search(home.path / "bin")
    (home.path / "bin" / "not-executable").write_text("#!/bin/sh\n")
    (home.path / "bin" / "directory").mkdir()
    assert home.root("not-executable") is None
    assert home.root("directory") is None


def test_without_a_command_or_with_a_path_there_is_a_root(home: Home) -> None:
    assert home.root(None) is not None
    assert home.root("./script.sh") is not None
    assert home.root("/nowhere/script.sh") is not None


def test_nothing_of_private_places_is_shown(home: Home) -> None:
    home.program("bin/tool")
    root = found(home)
    for bind in root.binds:
        for private in ("/opt", "/srv", "/var", "/root", "/home", "/run", "/mnt", "/boot", "/dev", "/proc", "/sys"):
            own = bind.source.startswith((sys.prefix, sys.base_prefix))
            assert own or not (bind.source + "/").startswith(private + "/"), bind
        assert bind.source not in ("/", "/etc")


def test_the_list_of_etc_leaves_out_what_is_secret_or_names_users(home: Home) -> None:
    root = found(home)
    shown = [bind.target for bind in root.binds] + [link for link, _ in root.symlinks]
    copied = [
        file.path
        for file in root.files
        if file.path not in ("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
    ]
    for secret in (
        "shadow",
        "gshadow",
        "sudoers",
        "ssl/private",
        "ssh",
        "pip.conf",
        "npmrc",
        "gitconfig",
        "gemrc",
        "passwd",
        "hosts",
        "machine-id",
    ):
        for path in (*shown, *copied):
            assert not f"/etc/{secret}/".startswith(path + "/"), path


def test_the_host_s_users_and_name_stay_outside(home: Home) -> None:
    files = {file.path: file.content.decode() for file in found(home).files}
    assert [line.split(":")[0] for line in files["/etc/passwd"].splitlines()] == ["root", "user", "nobody"]
    assert files["/etc/hostname"] == "sandbox\n"
    assert "localhost" in files["/etc/hosts"]
    assert "hosts: files dns" in files["/etc/nsswitch.conf"]


def test_name_servers_are_kept_and_the_search_list_is_not(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search corp.example\nnameserver 10.0.0.1\noptions edns0\ndomain corp.example\n")
    files = {file.path: file.content for file in hostetc.synthetic(str(tmp_path / "resolv.conf"))}
    assert files["/etc/resolv.conf"] == b"nameserver 10.0.0.1\noptions edns0\n"
    assert {file.path: file.content for file in hostetc.synthetic(str(tmp_path / "missing"))}["/etc/resolv.conf"] == b""


def test_what_only_root_may_read_in_etc_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "ssl").mkdir()
    (tmp_path / "ssl" / "certs").mkdir(mode=0o700)
    (tmp_path / "java-21").mkdir()
    (tmp_path / "timezone").write_text("UTC\n")
    (tmp_path / "timezone").chmod(0o600)
    (tmp_path / "services").write_text("http 80/tcp\n")
    (tmp_path / "services").chmod(0o644)
    assert [bind.target for bind in hostetc.bound(str(tmp_path))] == ["/etc/java-21"]
    assert [file.path for file in hostetc.links_and_copies(str(tmp_path))[1]] == ["/etc/services"]


def test_a_link_in_etc_is_kept_only_if_it_stays_in_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/UTC")
    (tmp_path / "timezone").symlink_to("/var/lib/secret")
    (tmp_path / "os-release").symlink_to("/usr/../root/x")
    links, copies = hostetc.links_and_copies(str(tmp_path))
    assert links == (("/etc/mtab", "/proc/self/mounts"), ("/etc/localtime", "/usr/share/zoneinfo/UTC"))
    assert copies == ()


def test_a_virtual_environment_brings_the_interpreter_that_it_was_made_from(home: Home) -> None:
    home.binary("python/3.12/bin/python3.12")
    home.directories.clear()
    (home.path / "project/.venv/bin").mkdir(parents=True)
    (home.path / "project/.venv/pyvenv.cfg").write_text(f"include-system-site-packages = false\nhome = {home.path}/python/3.12/bin\n")
    (home.path / "project/.venv/bin/python").symlink_to(home.path / "python/3.12/bin/python3.12")
    home.search(home.path / "project/.venv/bin")
    assert home.shown("python") == ["project/.venv", "python/3.12"]


def test_the_interpreter_of_a_script_is_shown_too(home: Home) -> None:
    interpreter = home.binary("python/3.12/bin/python3.12")
    home.directories.clear()
    home.program("tools/bin/pytest", f"#!{interpreter} -I\n")
    assert home.shown("pytest") == ["python/3.12", "tools"]


def test_the_interpreter_of_an_env_script_is_found_by_path(home: Home) -> None:
    home.binary("node/v20/bin/node")
    home.program("tools/bin/tsc", "#!/usr/bin/env -S FOO=1 node --flag\n")
    assert home.shown("tsc") == ["node/v20", "tools"]


def test_a_link_out_of_its_directory_is_followed(home: Home) -> None:
    home.binary("store/tool-1.0/bin/tool")
    home.directories.clear()
    (home.path / "profile/bin").mkdir(parents=True)
    (home.path / "profile/bin/tool").symlink_to("../../store/tool-1.0/bin/tool")
    home.search(home.path / "profile/bin")
    assert home.shown("tool") == ["profile", "store/tool-1.0"]


def test_pyenv_is_shown_by_its_root_with_its_variable(home: Home) -> None:
    home.program(".pyenv/shims/python3", "#!/usr/bin/env bash\n")
    home.program(".pyenv/plugins/pyenv-virtualenv/shims/activate")
    home.program(".pyenv/bin/pyenv")
    home.environment["PYENV_VERSION"] = "3.12.1"
    assert home.shown("python3") == [".pyenv"]
    environment = dict(found(home, "python3").environment)
    assert environment["PYENV_ROOT"] == f"{home.path}/.pyenv"
    assert environment["PYENV_VERSION"] == "3.12.1"
    assert found(home, "python3").masked == (f"{home.path}/.pyenv/pyenv.d/exec/pip-rehash",)  # it fails pip where pyenv is read-only


def test_node_of_nvm_is_shown_by_its_version(home: Home) -> None:
    home.binary(".nvm/versions/node/v20.1.0/bin/node")
    (home.path / ".nvm/.npmrc").touch()
    assert home.shown("node") == [".nvm/versions/node/v20.1.0"]


def test_cargo_shows_its_programs_and_rustup_and_never_its_credentials(home: Home) -> None:
    home.binary(".cargo/bin/rustup")
    (home.path / ".cargo/bin/cargo").symlink_to("rustup")
    (home.path / ".cargo/credentials.toml").write_text("token")
    (home.path / ".rustup/toolchains").mkdir(parents=True)
    assert home.shown("cargo") == [".cargo/bin", ".rustup"]
    assert dict(found(home, "cargo").environment)["RUSTUP_HOME"] == f"{home.path}/.rustup"


def test_programs_of_gopath_are_shown_without_its_sources(home: Home) -> None:
    home.binary("go/bin/gopls")
    (home.path / "go/pkg/mod/private").mkdir(parents=True)
    assert home.shown("gopls") == ["go/bin"]


def test_a_go_distribution_in_the_same_place_is_shown_whole(home: Home) -> None:
    home.binary("go/bin/go")
    (home.path / "go/VERSION").touch()
    assert home.shown("go") == ["go"]


@pytest.mark.parametrize(("prefix", "variable"), [(".volta", "VOLTA_HOME"), (".rbenv", "RBENV_ROOT"), (".asdf", "ASDF_DATA_DIR")])
def test_other_version_managers_get_their_variable(home: Home, prefix: str, variable: str) -> None:
    home.program(f"{prefix}/{'bin' if prefix == '.volta' else 'shims'}/tool")
    assert home.shown("tool") == [prefix]
    assert dict(found(home, "tool").environment)[variable] == f"{home.path}/{prefix}"


def test_a_prefix_that_is_a_link_is_shown_at_both_its_paths(home: Home) -> None:
    home.binary("sdk/java/17.0.1/bin/java")
    home.directories.clear()
    (home.path / "sdk/java/current").symlink_to("17.0.1")
    home.search(home.path / "sdk/java/current/bin")
    home.environment["JAVA_HOME"] = f"{home.path}/sdk/java/current"
    assert home.shown("java") == ["sdk/java/17.0.1", "sdk/java/current"]
    root = found(home, "java")
    assert {bind.source for bind in root.binds if bind.target.startswith(str(home.path))} == {f"{home.path}/sdk/java/17.0.1"}
    assert dict(root.environment)["JAVA_HOME"] == f"{home.path}/sdk/java/current"
    assert f"{home.path}/sdk/java/current/bin" in root.path_directories


def test_a_variable_that_names_what_is_not_shown_is_dropped(home: Home) -> None:
    home.environment |= {"JAVA_HOME": f"{home.path}/nowhere", "VIRTUAL_ENV": "relative", "GOROOT": "/usr/lib"}
    assert {name: value for name, value in found(home).environment if name in home.environment} == {"GOROOT": "/usr/lib"}


def test_a_script_of_pip_user_is_refused_by_name(home: Home) -> None:
    path = home.program(".local/bin/black", "#!/usr/bin/python3\n")
    with pytest.raises(CommandNotFound, match="is not visible in a sandbox") as caught:
        home.root("black")
    assert str(path) in caught.value.message
    assert caught.value.exit_status == 127


def test_a_later_directory_of_path_serves_when_an_earlier_one_is_hidden(home: Home) -> None:
    home.program(".local/bin/ls", "#!/usr/bin/python3\n")
    root = found(home, "ls")
    assert home.shown("ls") == []
    assert f"{home.path}/.local/bin" not in root.path_directories


def test_a_single_binary_is_shown_without_what_lies_beside_it(home: Home) -> None:
    home.binary(".local/bin/uv")
    home.program(".local/bin/black")
    assert home.shown("uv") == [".local/bin/uv"]
    assert found(home, "uv").path_directories[0] == f"{home.path}/.local/bin"


def test_a_tool_of_pipx_is_shown_by_its_own_environment(home: Home) -> None:
    home.program(".local/share/pipx/venvs/black/bin/black", "#!/usr/bin/python3\n")
    home.directories.clear()
    (home.path / ".local/share/pipx/venvs/black/pyvenv.cfg").write_text("home = /usr/bin\n")
    (home.path / ".local/bin").mkdir(parents=True)
    (home.path / ".local/bin/black").symlink_to(home.path / ".local/share/pipx/venvs/black/bin/black")
    home.search(home.path / ".local/bin")
    root = found(home, "black")
    assert home.shown("black") == [".local/share/pipx/venvs/black"]
    assert dict(root.symlinks)[f"{home.path}/.local/bin/black"] == f"{home.path}/.local/share/pipx/venvs/black/bin/black"
    assert root.path_directories[0] == f"{home.path}/.local/bin"


@pytest.mark.parametrize("name", ["bin/tool", ".local/bin/tool", ".config/bin/tool", ".ssh/bin/tool", ".aws/bin/tool", ".docker/bin/tool"])
def test_a_home_or_what_holds_secrets_is_never_a_prefix(home: Home, name: str) -> None:
    home.program(name)
    with pytest.raises(CommandNotFound):
        home.root("tool")


def test_a_binary_among_credentials_is_not_shown_either(home: Home) -> None:
    home.binary(".ssh/bin/tool")
    with pytest.raises(CommandNotFound):
        home.root("tool")


@pytest.mark.parametrize("name", [".npmrc", ".netrc", ".aws", "id_ed25519", ".git-credentials"])
def test_a_prefix_with_credentials_in_it_is_refused(home: Home, name: str) -> None:
    home.program("tools/bin/tool")
    (home.path / "tools" / name).touch()
    with pytest.raises(CommandNotFound):
        home.root("tool")


def test_a_prefix_that_leads_home_by_a_link_is_refused(home: Home, tmp_path: Path) -> None:
    home.program("bin/tool")
    home.directories.clear()
    (tmp_path / "link").symlink_to(home.path)
    home.search(tmp_path / "link" / "bin")
    with pytest.raises(CommandNotFound):
        home.root("tool")


def test_a_directory_that_holds_home_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    home.program("../../bin/tool")
    home.directories[:] = [str(tmp_path / "bin")]
    with pytest.raises(CommandNotFound):
        home.root("tool")


def test_a_program_named_by_its_path_is_shown_if_its_place_may_be(home: Home) -> None:
    tool = home.program("tools/bin/tool")
    secret = home.program(".ssh/bin/tool")
    home.directories.clear()
    assert home.shown(str(tool)) == ["tools"]
    assert home.shown(str(secret)) == []


def test_path_keeps_its_order_and_loses_what_is_not_there(home: Home) -> None:
    home.program("tools/bin/tool")
    (home.path / "plain").mkdir()
    root = home.root("tool", path=f"/usr/bin:relative::{home.path}/plain:{home.path}/missing/bin:{home.path}/tools/bin:/usr/bin")
    assert root is not None
    own = os.path.dirname(sys.executable)
    assert root.path_directories == tuple(dict.fromkeys(["/usr/bin", f"{home.path}/tools/bin", own]))


def test_the_interpreter_that_runs_agentkernel_is_there_without_path(home: Home) -> None:
    root = home.root(os.path.basename(sys.executable), path="/nonexistent")
    assert root is not None
    assert any(os.path.realpath(sys.executable).startswith(bind.source + "/") for bind in root.binds)


def test_a_bundle_of_certificates_elsewhere_is_shown_alone(home: Home) -> None:
    bundle = home.path / "company" / "ca.pem"
    bundle.parent.mkdir()
    bundle.write_text(CERTIFICATE)
    (home.path / "link.pem").symlink_to(bundle)
    home.environment |= {"SSL_CERT_FILE": str(bundle), "PIP_CERT": str(home.path / "link.pem")}
    root = found(home)
    assert home.shown() == ["company/ca.pem", "link.pem"]
    assert dict(root.environment)["SSL_CERT_FILE"] == str(bundle)
    assert dict(root.environment)["PIP_CERT"] == str(home.path / "link.pem")


@pytest.mark.parametrize("content", [CERTIFICATE + KEY, "password", "", None])
def test_what_is_no_bundle_is_not_shown_and_its_variable_dropped(home: Home, content: str | None) -> None:
    if content is not None:
        (home.path / "ca.pem").write_text(content)
    home.environment["REQUESTS_CA_BUNDLE"] = str(home.path / "ca.pem")
    assert home.shown() == []
    assert "REQUESTS_CA_BUNDLE" not in dict(found(home).environment)


def test_an_image_gets_the_bundle_that_the_callers_programs_trust_or_else_the_systems(tmp_path: Path) -> None:
    system = hostetc.certificates({})
    assert system in ("", *map(os.path.realpath, hostetc.CERTIFICATES))
    bundle, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    bundle.write_text(CERTIFICATE)
    key.write_text(CERTIFICATE + KEY)
    (tmp_path / "link.pem").symlink_to(bundle)
    assert hostetc.certificates({"CURL_CA_BUNDLE": str(tmp_path / "link.pem")}) == str(bundle)
    assert hostetc.certificates({"SSL_CERT_FILE": str(key), "REQUESTS_CA_BUNDLE": str(bundle)}) == str(bundle)
    for useless in (str(key), "ca.pem", str(tmp_path), str(tmp_path / "missing")):
        assert hostetc.certificates({"SSL_CERT_FILE": useless}) == system
    bundle.chmod(0o600)
    assert hostetc.certificates({"SSL_CERT_FILE": str(bundle)}) == system


def test_a_bundle_among_credentials_is_not_shown(home: Home) -> None:
    (home.path / ".aws").mkdir()
    (home.path / ".aws/ca.pem").write_text(CERTIFICATE)
    home.environment["AWS_CA_BUNDLE"] = str(home.path / ".aws/ca.pem")
    assert home.shown() == []


def test_no_bind_lies_in_another(home: Home) -> None:
    home.program(".pyenv/shims/python3")
    home.binary(".pyenv/versions/3.12/bin/python3")
    targets = [bind.target for bind in found(home, "python3").binds]
    assert len(targets) == len(set(targets))
    assert not [target for target in targets for other in targets if target.startswith(other + "/")]


def bwrap(root: RootFilesystem, directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command on the root, as another program would build it."""
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--tmpfs", "/tmp", "--dir", "/home/user"]
    for bind in root.binds:
        words += ["--ro-bind", bind.source, bind.target]
    for path, target in root.symlinks:
        words += ["--symlink", target, path]
    for number, file in enumerate(root.files):
        (directory / f"file{number}").write_bytes(file.content)
        words += ["--ro-bind", str(directory / f"file{number}"), file.path]
    words += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--clearenv",
        "--setenv",
        "HOME",
        "/home/user",
        "--setenv",
        "PATH",
        ":".join(root.path_directories),
    ]
    for name, value in root.environment:
        words += ["--setenv", name, value]
    return subprocess.run([*words, *command], capture_output=True, text=True, timeout=60)


def needs_bwrap() -> bool:
    return (
        shutil.which("bwrap") is None
        or subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True).returncode != 0
    )


@pytest.mark.skipif(needs_bwrap(), reason="bubblewrap, or the namespaces that it needs, are not here")
@pytest.mark.parametrize(
    "command",
    [
        ["python3", "-c", "import ssl, sqlite3, json; print('works')"],
        [sys.executable, "-c", "import json, ssl; print('works')"],
        ["node", "-e", "console.log('works')"],
        ["cargo", "--version"],
        ["go", "version"],
        ["java", "-version"],
        ["sh", "-c", "cat /etc/os-release"],
    ],
    ids=lambda command: os.path.basename(command[0]),
)
def test_toolchains_of_this_host_run_on_the_root(tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not on this host")
    root = discover(argv=(os.fsencode(command[0]),), environment=os.environ, home=os.path.expanduser("~"), uid=os.getuid())
    assert root is not None
    done = bwrap(root, tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr
