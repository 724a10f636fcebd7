"""The table of settings, and what is made from it: options, the request, the reference page."""

import argparse
from pathlib import Path

import pytest

from agentkernel.config.load import Settings, load_settings
from agentkernel.config.places import Places
from agentkernel.config.reference import reference_markdown
from agentkernel.config.request import request_from_settings
from agentkernel.config.table import BY_KEY, SETTINGS, add_arguments, flags_given
from agentkernel.config.unsupported import UNSUPPORTED
from agentkernel.config.values import SWITCH
from agentkernel.errors import AgentKernelError, InvalidInput
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.network import EgressLimits, PortRule, Rule
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, StorageKind

ROOT = Path(__file__).resolve().parents[2]


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="agentkernel run", allow_abbrev=False, exit_on_error=False)
    add_arguments(parser, "run")
    return parser.parse_args(words)


def settings_for(directory: Path, *words: str, user_file: str = "") -> Settings:
    places = Places(operator=str(directory / "none"), user=str(directory / "user.toml"), trusted=str(directory / "trusted"))
    if user_file:
        Path(places.user).write_text(user_file)
        Path(places.user).chmod(0o600)
    flags = flags_given(parse(*words))
    return load_settings(cwd=str(directory), config_path=None, environment={}, flags=flags, places=places)


def request_for(directory: Path, *words: str, environment: dict[str, str] | None = None, user_file: str = "") -> SandboxRequest:
    settings = settings_for(directory, *words, user_file=user_file)
    return request_from_settings(settings, argv=(b"true",), cwd=str(directory), environment=environment or {})


def test_keys_variables_and_flags_are_each_given_once() -> None:
    keys = [key for setting in SETTINGS for key in (setting.key, *setting.aliases)]
    variables = [setting.environment for setting in SETTINGS if setting.environment]
    flags = [flag for setting in SETTINGS for flag in (*setting.flags, *setting.off_flags)]
    for names in (keys, variables, flags):
        assert len(names) == len(set(names))
    assert not set(keys) & set(UNSUPPORTED)


def test_every_switch_has_a_way_back_that_argparse_makes_too() -> None:
    for setting in SETTINGS:
        if setting.type is SWITCH:
            assert setting.off_flags == tuple(flag.replace("--", "--no-", 1) for flag in setting.flags)


def test_a_default_is_what_its_own_type_would_read() -> None:
    for setting in SETTINGS:
        if setting.default is not None:
            given = {} if setting.default == {} else setting.type.write(setting.default)
            assert setting.type.read(given, "/") == setting.default


def test_every_option_of_run_is_there() -> None:
    wanted = (
        "--image --backend --profile --no-network --network --mount-cwd --no-mount-cwd --mount-home --no-mount-home --pass-env --no-pass-env "
        "--allow-host --deny-host --only-hosts --no-only-hosts -p --publish --transparent-network --no-transparent-network "
        "--max-connections --max-bytes "
        "--read-only --no-read-only -e --env --dir --mount --memory --cpus --pids --disk --storage --timeout --min-isolation --config --user --name"
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser, "run")
    assert set(wanted.split()) <= set(parser._option_string_actions)
    assert "--profile" in parser.format_help()


def test_only_what_was_given_is_handed_on() -> None:
    assert flags_given(parse()) == {}
    assert flags_given(parse("--no-network", "--memory", "64m", "-e", "A=1", "-e", "B", "--read-only")) == {
        "security.network": False,
        "resources.memory": "64m",
        "environment": ["A=1", "B"],
        "security.read_only": True,
    }


def test_the_last_of_two_opposite_switches_wins() -> None:
    assert flags_given(parse("--no-network", "--network")) == {"security.network": True}


def test_a_verb_without_settings_gets_no_option() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser, "doctor")
    assert parser._actions == []


def test_a_request_carries_every_setting(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    words = "--backend namespaces --profile permissive --no-network --no-mount-cwd --no-mount-home --no-pass-env --read-only --name box "
    words += (
        "--memory 64m --cpus 1.5 --pids 9 --disk 1g --storage disk --min-isolation container --user 5:6 --dir src --image alpine:3 -e A=1"
    )
    words += " --allow-host example.com --allow-host 10.0.0.0/8:5432 --deny-host *.example.org --only-hosts -p 8080:80 --no-transparent-network --max-connections 7 --max-bytes 2k"
    request = request_for(tmp_path, *words.split(), "--mount", "src:/data:ro", environment={"LANG": "C"})
    assert request == SandboxRequest(
        argv=(b"true",),
        profile="permissive",
        cwd=str(tmp_path),
        backend="namespaces",
        min_isolation=IsolationLevel.CONTAINER,
        image="alpine:3",
        name="box",
        network=False,
        allow_hosts=(Rule(host="example.com"), Rule(host="10.0.0.0/8", ports=(5432,))),
        deny_hosts=(Rule(host="*.example.org"),),
        only_hosts=True,
        transparent_network=False,
        egress_limits=EgressLimits(connections=7, bytes_total=2048),
        ports=(PortRule(port=80, host_port=8080),),
        mount_cwd=False,
        mount_home=False,
        pass_environment=False,
        read_only_root=True,
        directory=str(tmp_path / "src"),
        mounts=(Bind(source=str(tmp_path / "src"), target="/data"),),
        environment={"A": "1"},
        host_environment={"LANG": "C"},
        memory_bytes=64 << 20,
        cpus=1.5,
        pids=9,
        disk_bytes=1 << 30,
        storage=StorageKind.DISK,
        user="5:6",
    )


def test_an_empty_command_line_leaves_all_to_the_profile(tmp_path: Path) -> None:
    assert request_for(tmp_path) == SandboxRequest(argv=(b"true",), cwd=str(tmp_path))


def test_a_variable_without_a_value_is_taken_from_the_caller(tmp_path: Path) -> None:
    request = request_for(tmp_path, "-e", "TOKEN", "-e", "EMPTY=", "-e", "TWO=a=b", environment={"TOKEN": "secret", "OTHER": "x"})
    assert request.environment == {"TOKEN": "secret", "EMPTY": "", "TWO": "a=b"}


def test_a_variable_that_the_caller_does_not_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="-e TOKEN"):
        request_for(tmp_path, "-e", "TOKEN")


def test_a_rule_of_the_command_line_adds_to_those_of_the_users_file(tmp_path: Path) -> None:
    user_file = (
        '[security.domains]\nallow = ["a.example:443"]\nblock = ["b.example"]\nallowlist_only = true\n[network]\nports = [80, "81:82"]\n'
    )
    settings = settings_for(tmp_path, "--allow-host", "c.example", "--no-only-hosts", "-p", "83", user_file=user_file)
    request = request_from_settings(settings, argv=(b"true",), cwd=str(tmp_path), environment={})
    assert request.allow_hosts == (Rule(host="a.example", ports=(443,)), Rule(host="c.example"))
    assert (request.deny_hosts, request.only_hosts) == ((Rule(host="b.example"),), False)
    assert [(rule.host_port, rule.port) for rule in request.ports] == [(0, 80), (81, 82), (0, 83)]


def test_variables_hold_rules_and_ports_between_blanks(tmp_path: Path) -> None:
    environment = {"AGENTKERNEL_ALLOW_HOSTS": " a.example:80,443  b.example", "AGENTKERNEL_PUBLISH": "80", "AGENTKERNEL_ONLY_HOSTS": "yes"}
    places = Places(operator=str(tmp_path / "none"), user=str(tmp_path / "none"), trusted=str(tmp_path / "none"))
    settings = load_settings(cwd=str(tmp_path), config_path=None, environment=environment, flags={}, places=places)
    assert settings.get("security.domains.allow") == (Rule(host="a.example", ports=(80, 443)), Rule(host="b.example"))
    assert (settings.get("network.ports"), settings.get("security.domains.allowlist_only")) == ((PortRule(port=80),), True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--allow-host", "https://example.com/"), "https://example.com/"),
        (("--deny-host", "exa mple.com"), "exa mple.com"),
        (("--allow-host", "example.com:99999"), "example.com:99999"),
        (("-p", "80:http"), "80:http"),
        (("-p", "0.0.0.0:80:80"), "0.0.0.0"),
    ],
)
def test_a_wrong_rule_or_port_is_named_with_its_option(tmp_path: Path, words: tuple[str, str], named: str) -> None:
    with pytest.raises(AgentKernelError) as wrong:
        settings_for(tmp_path, *words)
    assert wrong.value.hint
    assert named in wrong.value.message and wrong.value.message.startswith(words[0].replace("-p", "--publish") + ": ")


def test_the_proxy_of_a_company_stands_in_files_alone_and_its_password_is_never_shown(tmp_path: Path) -> None:
    setting = BY_KEY["network.upstream_proxy"]
    assert not (setting.environment or setting.flags)
    settings = settings_for(tmp_path, user_file='[network]\nupstream_proxy = "http://ann:secret@proxy.example:3128/"\n')
    value = settings.get("network.upstream_proxy")
    assert value == "http://ann:secret@proxy.example:3128"
    assert setting.type.write(value) == "http://...@proxy.example:3128"
    for wrong in ("https://ann:secret@proxy.example:1", "proxy.example:3128", "http://proxy.example", "http://proxy.example:0"):
        with pytest.raises(InvalidInput, match="no address of a proxy") as refused:
            settings_for(tmp_path, user_file=f'[network]\nupstream_proxy = "{wrong}"\n')
        assert "secret" not in refused.value.message


def test_host_paths_are_resolved_before_policy_sees_them(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    request = request_for(tmp_path, "--mount", "link:/data", "--dir", "link/../link")
    assert request.mounts == (Bind(source=str(tmp_path / "real"), target="/data", writable=True),)
    assert request.directory == str(tmp_path / "real")


@pytest.mark.parametrize("words", [["--mount", "nope:/data"], ["--dir", "nope"], ["--dir", "file"]])
def test_a_host_path_that_does_not_exist_is_an_error(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="does not exist"):
        request_for(tmp_path, *words)


@pytest.mark.parametrize(
    ("mode", "bits", "right"), [("0755", 0o755, True), ("0644", 0o600, True), ("0755", 0o644, False), ("0644", 0o755, False)]
)
def test_a_file_entry_is_shown_read_only_with_its_own_mode(tmp_path: Path, mode: str, bits: int, right: bool) -> None:
    (tmp_path / "tool").touch()
    (tmp_path / "tool").chmod(bits)
    text = f'[[files]]\nsource = "tool"\ndest = "/opt/tool"\nmode = "{mode}"\n'
    if not right:
        with pytest.raises(InvalidInput, match="executable inside"):
            request_for(tmp_path, user_file=text)
        return
    executable = bool(bits & 0o111)
    assert request_for(tmp_path, user_file=text).mounts == (Bind(source=str(tmp_path / "tool"), target="/opt/tool", executable=executable),)


def test_a_file_entry_of_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a regular file"):
        request_for(tmp_path, user_file=f'[[files]]\nsource = "{tmp_path}"\ndest = "/x"\n')


def test_runs_of_one_project_do_not_share_its_name(tmp_path: Path) -> None:
    assert request_for(tmp_path, user_file='[sandbox]\nname = "project"\n').name is None
    assert request_for(tmp_path, "--name", "mine", user_file='[sandbox]\nname = "project"\n').name == "mine"


def test_the_values_of_variables_are_not_written_where_settings_are_shown() -> None:
    assert BY_KEY["environment"].type.write({"TOKEN": "secret"}) == ["TOKEN"]


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == reference_markdown(), "run: PYTHONPATH=src python -m agentkernel.config.reference > docs/configuration.md"


def test_the_reference_page_names_every_key_flag_and_variable() -> None:
    page = reference_markdown()
    for setting in SETTINGS:
        for name in (setting.key, *setting.aliases, *setting.flags, *setting.off_flags, *filter(None, [setting.environment])):
            assert f"`{name}`" in page


def test_the_help_names_the_words_that_a_setting_takes() -> None:
    parser = argparse.ArgumentParser(prog="agentkernel run")
    add_arguments(parser, "run")
    text = " ".join(parser.format_help().split())
    assert "restrictive, moderate, permissive; default moderate" in text
    assert "root, user or UID[:GID]" in text
    assert "memory, disk" in text
