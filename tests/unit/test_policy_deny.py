"""The deny lists: credentials, environment variables, project files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkernel.policy import deny
from agentkernel.policy.deny import (
    credential_in,
    denied_in_home,
    filter_environment,
    holds_credentials,
    is_within,
    never_passed,
    ordinary_in_projects,
    protected_paths,
)
from agentkernel.policy.word_list import words

HOME = "/home/ada"

MUST_BE_DENIED = words(""".ssh .aws .azure .config/gcloud .gnupg .kube .netrc .npmrc .pypirc .git-credentials .config/gh .config/op .password-store
.local/share/keyrings .mozilla .config/google-chrome .config/chromium .claude/.credentials.json .codex/auth.json .config/agentkernel .bash_history
.zsh_history .python_history .vault-token .cargo/credentials .cargo/credentials.toml .m2/settings.xml .gradle/gradle.properties
.terraform.d/credentials.tfrc.json .config/rclone .s3cfg .boto .pgpass .my.cnf Library/Keychains""")


@pytest.mark.parametrize("path", MUST_BE_DENIED)
def test_a_credential_is_denied_with_its_directory_and_all_in_it(path: str) -> None:
    assert path in denied_in_home()
    assert credential_in(f"{HOME}/{path}", HOME) is not None
    assert credential_in(f"{HOME}/{path}/deeper", HOME) is not None
    assert credential_in(f"/home/bob/{path}", HOME) is not None
    if "/" in path:
        assert credential_in(f"{HOME}/{path.rsplit('/', 1)[0]}", HOME) is not None


def test_dockers_registry_passwords_are_denied() -> None:
    assert credential_in(f"{HOME}/.docker/config.json", HOME) is not None


def test_the_lists_hold_no_doubles_and_no_odd_paths() -> None:
    for paths in (denied_in_home(), protected_paths()):
        assert len(set(paths)) == len(paths)
        assert [path for path in paths if path.startswith("/") or path.endswith("/") or "*" in path or ".." in path.split("/")] == []
    assert [
        pattern for pattern in never_passed() if pattern != pattern.upper() or "*" in pattern.strip("*") or pattern.strip("*") == ""
    ] == []


@pytest.mark.parametrize(
    "path",
    ["/home/ada/work", "/srv/www", "/opt/x", "/home/ada/.config/nvim", "/home/ada/.pyenv", "/home/ada/sshfs", "/var/www", "/etc/ssl/certs"],
)
def test_an_ordinary_directory_shows_no_credential(path: str) -> None:
    assert credential_in(path, HOME) is None


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/home",
        "/home/ada",
        "/home/ada/.config",
        "/home/ada/.cargo",
        "/etc",
        "/etc/shadow",
        "/run/docker.sock",
        "/var",
        "/var/run/docker.sock",
        "/proc/1",
        "/sys",
    ],
)
def test_a_directory_that_holds_credentials_or_host_secrets_is_found_out(path: str) -> None:
    assert credential_in(path, HOME) is not None


def test_the_answer_names_what_would_be_shown() -> None:
    assert credential_in("/home/ada/.config", HOME) == "/home/ada/.config/age"
    assert credential_in("/etc", HOME) == "/etc/shadow"
    assert credential_in("/srv/backup/.ssh", HOME) == "/srv/backup/.ssh"
    assert credential_in("/srv/keys/id_ed25519", HOME) == "/srv/keys/id_ed25519"


def test_names_in_a_directory_are_searched_for_credentials() -> None:
    names = ["bin", ".ssh", "lib/.aws/credentials", ".config/gh/hosts.yml", "id_rsa", "id_rsa.pub", ".config", "xssh", "./.netrc"]
    assert holds_credentials(names) == (".ssh", "lib/.aws/credentials", ".config/gh/hosts.yml", "id_rsa", "./.netrc")


@given(st.sampled_from(denied_in_home()), st.lists(st.sampled_from(["a", ".b", "c.d", "credentials"]), max_size=3))
def test_nothing_beneath_a_denied_path_is_ever_shown(denied: str, below: list[str]) -> None:
    path = "/".join([HOME, denied, *below])
    assert credential_in(path, HOME) is not None
    assert holds_credentials([path.removeprefix(HOME + "/")])


SYSTEM_PLACES = words(deny._SYSTEM)
COMPONENTS = sorted({part for path in (*denied_in_home(), *SYSTEM_PLACES) for part in path.split("/") if part})
PATHS = st.builds(
    lambda parts: "/" + "/".join(parts),
    st.lists(st.sampled_from(["a", "home", "ada", "bob", ".", "id_rsa", *COMPONENTS]), max_size=6),
)
NEAR_PLACES = st.builds(
    lambda before, place, after: "/".join(["", *before, place.strip("/"), *after]),
    st.lists(st.sampled_from(["home", "ada", "srv", ".config"]), max_size=3),
    st.sampled_from((*denied_in_home(), *SYSTEM_PLACES)),
    st.lists(st.sampled_from(["x", ".ssh", "auth.json"]), max_size=2),
)


def _denied_by_scanning(path: str) -> bool:
    """What `holds_credentials` means, said the slow way."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    denied = [place.split("/") for place in denied_in_home()]
    found = any(parts[start : start + len(place)] == place for place in denied for start in range(len(parts) - len(place) + 1))
    return found or path.rsplit("/", 1)[-1] in {"id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_ecdsa_sk", "id_ed25519_sk"}


def _credential_by_scanning(path: str, home: str) -> str | None:
    """What `credential_in` means, said the slow way."""
    for system in SYSTEM_PLACES:
        if is_within(path, system) or is_within(system, path):
            return system
    for denied in denied_in_home():
        place = f"{home.rstrip('/')}/{denied}"
        if is_within(place, path):
            return place
    return path if _denied_by_scanning(path) else None


@settings(deadline=None, max_examples=500)
@given(st.one_of(PATHS, NEAR_PLACES), st.sampled_from(["/home/ada", "/home/ada/", "/", "/root", "/srv/.config"]))
def test_looking_places_up_finds_what_scanning_the_lists_finds(path: str, home: str) -> None:
    assert credential_in(path, home) == _credential_by_scanning(path, home)
    assert (credential_in(path + "/", home) is None) == (_credential_by_scanning(path + "/", home) is None)
    assert bool(holds_credentials([path])) == _denied_by_scanning(path)
    assert bool(holds_credentials([path.strip("/")])) == _denied_by_scanning(path.strip("/"))


def test_every_place_and_every_directory_above_one_is_looked_up_as_scanning_finds_it() -> None:
    places = [*SYSTEM_PLACES, *(f"{home}/{denied}" for home in (HOME, "/home/bob") for denied in denied_in_home())]
    for place in places:
        parts = place.split("/")
        for path in ("/".join(parts[:end]) or "/" for end in range(1, len(parts) + 1)):
            assert credential_in(path, HOME) == _credential_by_scanning(path, HOME)


def test_what_is_ordinary_in_a_project_is_on_the_deny_list() -> None:
    assert ordinary_in_projects() < set(denied_in_home())


@pytest.mark.parametrize(
    ("path", "ancestor", "expected"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/", "/", True),
        ("/", "/a", False),
    ],
)
def test_within_means_whole_components(path: str, ancestor: str, expected: bool) -> None:
    assert is_within(path, ancestor) is expected


NEVER = words("""GITHUB_TOKEN MY_SECRET DB_PASSWORD OPENAI_API_KEY anthropic_api_key GOOGLE_APPLICATION_CREDENTIALS AWS_ACCESS_KEY_ID AWS_PROFILE
SSH_AUTH_SOCK SSH_AGENT_PID GPG_AGENT_INFO GPG_TTY DBUS_SESSION_BUS_ADDRESS DISPLAY WAYLAND_DISPLAY XAUTHORITY XDG_RUNTIME_DIR LD_PRELOAD
LD_LIBRARY_PATH DYLD_INSERT_LIBRARIES PYTHONPATH PYTHONHOME PYTHONSTARTUP NODE_OPTIONS NODE_PATH RUBYOPT PERL5LIB JAVA_TOOL_OPTIONS BASH_ENV ENV
GIT_SSH_COMMAND GIT_ASKPASS DATABASE_URL NPM_CONFIG__AUTH npm_config_//registry.example/:_authToken HOME PATH USER SHELL PWD TMPDIR TERM
DOCKER_HOST KUBECONFIG VAULT_ADDR STRIPE_KEY SENTRY_DSN CI_JOB_JWT BASH_FUNC_x%% GLIBC_TUNABLES PGPASSWORD MONGO_URI AGENTKERNEL_API_KEY""")


@pytest.mark.parametrize("name", NEVER)
def test_a_variable_that_holds_or_reaches_secrets_or_loads_code_is_not_passed(name: str) -> None:
    assert filter_environment({name: "x"}) == {}
    assert filter_environment({name.lower(): "x"}) == {}


@pytest.mark.parametrize(
    "name",
    ["LANG", "LC_ALL", "TZ", "EDITOR_COLOUR", "CI", "NO_COLOR", "http_proxy", "NO_PROXY", "GOPROXY", "MAKEFLAGS", "DEBUG", "KEYBOARD"],
)
def test_an_ordinary_variable_is_passed(name: str) -> None:
    assert filter_environment({name: "x"}) == {name: "x"}


@pytest.mark.parametrize(
    "value",
    [
        "https://ada:hunter2@proxy.example:8080",
        "postgres://:secret@db/x",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "x AKIAIOSFODNN7EXAMPLE",
        "sk-ant-api03-xyz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig",
    ],
)
def test_a_value_that_is_a_secret_is_not_passed_under_any_name(value: str) -> None:
    assert filter_environment({"HARMLESS": value}) == {}


@pytest.mark.parametrize("value", ["https://proxy.example:8080", "https://ada@example", "12:30@noon", "task-force", "/a:/b", ""])
def test_a_value_that_only_resembles_a_secret_is_passed(value: str) -> None:
    assert filter_environment({"HARMLESS": value}) == {"HARMLESS": value}


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=12), st.text(max_size=12)))
def test_filtering_only_removes_and_twice_is_once(environment: dict[str, str]) -> None:
    once = filter_environment(environment)
    assert once.items() <= environment.items()
    assert filter_environment(once) == once


@pytest.mark.parametrize(
    "path", words("agentkernel.toml .git/hooks .git/config .envrc .vscode .claude .mcp.json .cursor .idea .devcontainer")
)
def test_a_file_that_acts_on_the_host_is_protected(path: str) -> None:
    assert path in protected_paths()
