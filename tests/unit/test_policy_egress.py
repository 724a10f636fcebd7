"""Egress rules: how they are read, what a name or an address is, and who may go where."""

from __future__ import annotations

import ipaddress
import random
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkernel.errors import InvalidInput
from agentkernel.model.hosts import is_address
from agentkernel.model.network import NOTHING, Base, EgressRules, Rule, Verdict
from agentkernel.policy.addresses import forms, refused_ranges
from agentkernel.policy.egress import LOOKUP, normal_host, parse_rule, rule_address, rule_name
from agentkernel.policy.word_list import words

PUBLIC = EgressRules()


def rules(*allow: str, deny: tuple[str, ...] = (), private: tuple[str, ...] = (), base: Base = Base.NONE) -> EgressRules:
    return EgressRules(
        base=base, allow=tuple(map(parse_rule, allow)), deny=tuple(map(parse_rule, deny)), private=tuple(map(parse_rule, private))
    )


def at(policy: EgressRules, host: str, address: str, port: int = 443, own: tuple[str, ...] = ()) -> str:
    ruling = rule_address(policy, normal_host(host), ipaddress.ip_address(address), port, frozenset(map(ipaddress.ip_address, own)))
    assert bool(ruling.reason) != ruling.allowed
    return ruling.rule if ruling.allowed else f"NO {ruling.rule}"


# Hosts ------------------------------------------------------------------------------------------------------------------------------

SPELLINGS = {
    "example.com": "example.com",
    "EXAMPLE.Com": "example.com",
    "example.com.": "example.com",
    "_dmarc.example.com": "_dmarc.example.com",
    "r1---sn-abc.example.com": "r1---sn-abc.example.com",
    "localhost": "localhost",
    "1-1.example": "1-1.example",
    "a" * 63 + ".com": "a" * 63 + ".com",
    ("a" * 49 + ".") * 5 + "com": ("a" * 49 + ".") * 5 + "com",  # 253 characters
    "255.255.255.255": "255.255.255.255",
    "0xff.0xffffff": "255.255.255.255",
    "0x0000000000000000000001": "0.0.0.1",
    "3com.com": "3com.com",
    "0x7f.1.example": "0x7f.1.example",
    "münchen.de": "xn--mnchen-3ya.de",
    "MÜNCHEN.de": "xn--mnchen-3ya.de",
    "mu\u0308nchen.de": "xn--mnchen-3ya.de",
    "xn--mnchen-3ya.de": "xn--mnchen-3ya.de",
    "XN--MNCHEN-3YA.de": "xn--mnchen-3ya.de",
    "例え.jp": "xn--r8jz45g.jp",
    "xn--i-7iq.ws": "xn--i-7iq.ws",  # an emoji: only as an A-label
    "127.0.0.1": "127.0.0.1",
    "127.1": "127.0.0.1",
    "0x7f.1": "127.0.0.1",
    "0X7F.0x0.0.01": "127.0.0.1",
    "0x7f000001": "127.0.0.1",
    "017700000001": "127.0.0.1",
    "2130706433": "127.0.0.1",
    "0": "0.0.0.0",
    "010.8.8.8": "8.8.8.8",
    "10.1.2": "10.1.0.2",
    "169.254.43518": "169.254.169.254",
    "[::1]": "::1",
    "::1": "::1",
    "[0:0:0:0:0:0:0:1]": "::1",
    "[FD00:EC2:0::254]": "fd00:ec2::254",
    "[::ffff:169.254.169.254]": "169.254.169.254",
    "::FFFF:a9fe:a9fe": "169.254.169.254",
    "[64:ff9b::127.0.0.1]": "64:ff9b::7f00:1",
}


@pytest.mark.parametrize(("text", "normal"), SPELLINGS.items())
def test_every_spelling_of_a_host_has_one_form(text: str, normal: str) -> None:
    assert normal_host(text) == normal
    assert normal_host(normal) == normal
    assert is_address(normal) == (":" in normal or normal[-1].isdigit())


NO_HOSTS = (
    "", ".", "..", "example..com", ".example.com", "example.com..", "a" * 64 + ".com", ("a" * 63 + ".") * 4 + "com", "x" * 5000,
    "-example.com", "example-.com", "exa mple.com", " example.com", "example.com ", "example.com\t", "example.com\n", "example.com\r",
    "example.com\0", "example.com\0.evil.com", "example.com%00", "ex%61mple.com", "example%2ecom", "user@example.com", "example.com/", "example.com#",
    "example.com?", "example.com\\", "example.com,evil.com", "*.example.com", "*", "example.com:80", "exam\x7fple.com", "a\x80b.com", "\x1b[31m.com",
    "1.2.3.4.5", "1.2.3.4.", "256.1.1.1", "1.2.3.256", "1.256.1", "4294967296", "0x100000000", "08.1.1.1", "1.09.1.1", "0x", "1.0x", "1..2",
    "1.2.3.4a.5", "foo.1", "foo.0x1f", "example.com.1", "1_0.0.0.1", "1.2.3.4 foo", "+1.2.3.4", "1.2.3.-4", "0x7f.1.", "9" * 40, "0" * 40 + "1.2",
    "[127.0.0.1]", "[::1", "::1]", "[abc", "abc]", "0x00000000000000000000001", "[[::1]]", "[]", "[:]", ":::", "::1%lo", "[fe80::1%25eth0]", "fe80::1%1", "1::2::3", "12345::1", "::ffff:1.2.3", "::ffff:01.2.3.4",
    "1:2:3:4:5:6:7:8:9", "[::1]:80", "[::1]x", "[v1.fe80::a]",
    "faß.de", "βόλος.com".replace("ο", "ς"), "a\u200db.com", "a\u200cb.com", "exa\u00admple.com", "example。com", "example．com", "ｅxample.com", "①.com", "☃.net", "\u202ecom",
    "\u0301a.com", "xn--a\u0301.com", "xn--", "xn--abc-", "xn--example-", "xn--a", "xn--\u00e9.com", "xn--99999999", "xn--zzzzzzzzzzzzzz", "xn--mnchen-3ya\u00e9.de",
    "xn--a-\u0435.ru", "\ufa70.com", "\u1369.com", "\u0525.com", "xn---9ca.com", "xn--dca.com", "xn--e-xbb.com", ("a" * 49 + ".") * 5 + "coma", "1.2.3.4.0", "K.com\u0000", "ab--\u00e9.com", "xn--ls8h=",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_HOSTS)
def test_what_programs_could_read_differently_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        normal_host(text)
    assert not isinstance(caught.value, UnicodeError)


def test_a_homograph_is_another_name() -> None:
    cyrillic = "ex\u0430mple.com"
    assert normal_host(cyrillic) == "xn--exmple-4nf.com"
    assert not rule_name(rules("example.com"), normal_host(cyrillic), 443).allowed
    assert not rule_name(rules(cyrillic), "example.com", 443).allowed


def test_letters_that_fold_to_ascii_only_in_some_programs_do_not_reach_a_rule() -> None:
    for text in ("exampl\uff45.com", "\u212aernel.org", "\u017fsh.com", "\u2460.com", "g\u2134\u2134gle.com"):
        with pytest.raises(ValueError):
            normal_host(text)


@given(st.text(max_size=40))
def test_a_normal_host_is_its_own_normal_form_and_nothing_else_comes_out(text: str) -> None:
    try:
        host = normal_host(text)
    except ValueError:
        return
    assert host.isascii() and host == host.lower() and 0 < len(host) <= 253 and normal_host(host) == host
    assert not set(host) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.:")
    if is_address(host):
        assert str(ipaddress.ip_address(host)) == host


@given(st.lists(st.from_regex(r"(0|0x[0-9a-fA-F]{1,9}|0[0-7]{1,11}|[1-9][0-9]{0,9})", fullmatch=True), min_size=1, max_size=5))
def test_numbers_are_the_address_that_the_c_library_makes_of_them(parts: list[str]) -> None:
    text = ".".join(parts)
    try:
        expected = socket.inet_ntoa(socket.inet_aton(text))
    except OSError:
        with pytest.raises(ValueError):
            normal_host(text)
    else:
        assert normal_host(text) == expected


@given(st.text(alphabet="abcxyz019.-_:[]%*/äßЖ例\u0301\u200d。", max_size=24), st.integers(0, 3))
def test_letters_of_another_case_change_nothing(text: str, which: int) -> None:
    changed = (
        text,
        text.upper() if text.isascii() else text,
        text.title() if text.isascii() else text,
        text.swapcase() if text.isascii() else text,
    )[which]
    outcomes = []
    for each in (text, changed):
        try:
            outcomes.append(normal_host(each))
        except ValueError:
            outcomes.append("")
    assert outcomes[0] == outcomes[1]


@given(st.text(alphabet=st.characters(min_codepoint=0x80, max_codepoint=0xFFFF), min_size=1, max_size=8))
def test_where_this_encodes_a_label_the_older_standard_encodes_it_alike(label: str) -> None:
    try:
        mine = normal_host(label + ".com")
        theirs = (label + ".com").encode("idna").decode()
    except ValueError:  # one of the two refuses it: the older one refuses some letters of right-to-left scripts
        return
    assert theirs.lower() == mine


def test_a_hundred_thousand_hosts_are_read_or_refused() -> None:
    source = random.Random(20261122)
    pieces = [
        "example",
        "com",
        ".",
        ".",
        "-",
        "xn--",
        "0x",
        "7f",
        "1",
        "255",
        "256",
        ":",
        "::",
        "[",
        "]",
        "%",
        "@",
        "/",
        "\0",
        "é",
        "ß",
        "ffff",
        "localhost",
        "*",
        " ",
        "\r\n",
        "a" * 63,
    ]
    for _ in range(100_000):
        text = "".join(source.choices(pieces, k=source.randrange(1, 9)))
        try:
            host = normal_host(text)
        except ValueError:
            continue
        assert normal_host(host) == host


# Rules ------------------------------------------------------------------------------------------------------------------------------

RULES = {
    "example.com": Rule(host="example.com"),
    "Example.COM.": Rule(host="example.com"),
    "example.com:443": Rule(host="example.com", ports=(443,)),
    "example.com:8443,443,443": Rule(host="example.com", ports=(443, 8443)),
    "*.example.com": Rule(host="*.example.com"),
    "*.example.com.:1": Rule(host="*.example.com", ports=(1,)),
    "*.münchen.de:65535": Rule(host="*.xn--mnchen-3ya.de", ports=(65535,)),
    "*.internal": Rule(host="*.internal"),
    "localhost:5432": Rule(host="localhost", ports=(5432,)),
    "10.0.0.0/8:5432": Rule(host="10.0.0.0/8", ports=(5432,)),
    "10.1.2.3": Rule(host="10.1.2.3/32"),
    "10.1.2.3:22": Rule(host="10.1.2.3/32", ports=(22,)),
    "0.0.0.0/0": Rule(host="0.0.0.0/0"),
    "[fd00::/8]:22": Rule(host="fd00::/8", ports=(22,)),
    "[fd00::/8]": Rule(host="fd00::/8"),
    "fd00::/8": Rule(host="fd00::/8"),
    "[FD00:0::1]:22": Rule(host="fd00::1/128", ports=(22,)),
    "::1": Rule(host="::1/128"),
    "::/0": Rule(host="::/0"),
}


@pytest.mark.parametrize(("text", "rule"), RULES.items())
def test_a_rule_is_read_and_written(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule
    assert parse_rule(str(rule)) == rule


NO_RULES = (
    "", ":", ":443", "example.com:", "example.com:0", "example.com:65536", "example.com:080", "example.com:+80", "example.com:80-90", "example.com:80,", "example.com:*",
    "example.com:٨٠", "example.com:1_0", "example.com: 80", "example.com:80 ", " example.com", "https://example.com", "user@example.com", "example.com/path", "example.com/8",
    "*", "*.", "*.*", "*.*.com", "a*.com", "*a.com", "a.*.com", "*.1.2.3.4", "*.10.0.0.0/8", "*.example.com/8", "*.:443", "**.com", "*example.com", "[*.com]:1",
    "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/255.0.0.0", "10.0.0.0/", "/8", "10/8", "10.0.0/8", "0x7f.1", "127.1", "2130706433", "010.0.0.1",
    "256.0.0.1", "1.2.3.4.5", "[10.0.0.0/8]:1", "[fd00::/8", "fd00::/8]", "[fd00::/8]22", "[]:22", "[fd00::1/8]:22", "fd00::/129", "[fe80::1%eth0]:22", "::ffff:10.0.0.0/104",
    "::ffff:10.0.0.1", "faß.de", "a\0.com", "example.com\n", "x" * 1025, "a.com:" + ",".join(map(str, range(1, 66))), "a.com b.com", "a.com,b.com", "example.com:80:90",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_RULES)
def test_what_is_no_rule_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rule(text)
    assert caught.value.hint and len(caught.value.message) < 300


@given(st.text(max_size=30) | st.from_regex(r"(\*\.)?[a-z0-9.\[\]:/]{1,20}(:[0-9,]{1,8})?", fullmatch=True))
def test_a_rule_that_is_accepted_reads_the_same_again(text: str) -> None:
    try:
        rule = parse_rule(text)
    except InvalidInput:
        return
    assert parse_rule(str(rule)) == rule


# By name ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("example.com", "allow example.com"),
        ("example.com.", "allow example.com"),
        ("EXAMPLE.com", "allow example.com"),
        ("www.example.com", "NO none"),
        ("evil-example.com", "NO none"),
        ("example.com.evil.com", "NO none"),
        ("xexample.com", "NO none"),
        ("com", "NO none"),
        ("a.wild.org", "allow *.wild.org"),
        ("a.b.wild.org", "allow *.wild.org"),
        ("wild.org", "NO none"),
        ("evilwild.org", "NO none"),
        ("evil-wild.org", "NO none"),
        ("a.wild.org.evil.com", "NO none"),
        ("bad.wild.org", "NO deny bad.wild.org"),
        ("very.bad.wild.org", "allow *.wild.org"),
        ("localhost", "NO none"),
        ("93.184.216.34", "NO none"),
    ],
)
def test_a_name_is_compared_label_by_label(host: str, rule: str) -> None:
    policy = rules("example.com", "*.wild.org", deny=("bad.wild.org",))
    ruling = rule_name(policy, normal_host(host), 443)
    assert (ruling.rule if ruling.allowed else f"NO {ruling.rule}") == rule


def test_a_denial_wins_over_every_permission() -> None:
    policy = rules(
        "api.example.com", "*.example.com", "example.com", deny=("*.example.com",), private=("api.example.com",), base=Base.PUBLIC
    )
    assert rule_name(policy, "api.example.com", 443).rule == "deny *.example.com"
    assert rule_name(policy, "example.com", 443).rule == "allow example.com"


def test_a_rule_without_ports_allows_the_web_and_denies_everything() -> None:
    assert [port for port in (1, 22, 80, 443, 8080, 65535) if rule_name(rules("a.com"), "a.com", port).allowed] == [80, 443]
    assert not any(rule_name(rules(deny=("a.com",), base=Base.PUBLIC), "a.com", port).allowed for port in (1, 22, 80, 443, 8080, 65535))
    assert [port for port in (22, 80, 443) if rule_name(rules("a.com:22"), "a.com", port).allowed] == [22]
    assert [port for port in (22, 80, 443) if rule_name(rules(deny=("a.com:22",), base=Base.PUBLIC), "a.com", port).allowed] == [80, 443]


def test_ports_beyond_the_range_are_denied() -> None:
    for port in (1, 65535):
        assert rule_name(PUBLIC, "example.com", port).allowed
        assert rule_address(PUBLIC, "example.com", ipaddress.ip_address("93.184.216.34"), port, ()).allowed
    for port in (-1, 65536, 10**9):
        assert rule_name(PUBLIC, "example.com", port).rule == "port"
        assert rule_address(PUBLIC, "example.com", ipaddress.ip_address("93.184.216.34"), port, ()).rule == "port"
    assert rule_address(PUBLIC, "example.com", ipaddress.ip_address("93.184.216.34"), 0, ()).rule == "port"


def test_a_denial_names_the_destination() -> None:
    assert "example.com:443," in rule_name(NOTHING, "example.com", 443).reason
    assert "[2001:db8::1]:443," in rule_name(NOTHING, "2001:db8::1", 443).reason
    assert "allows example.com," in rule_name(NOTHING, "example.com", LOOKUP).reason
    assert rule_name(PUBLIC, "127.0.0.1", 80).reason.startswith("127.0.0.1 is a loopback address")


def test_a_lookup_is_allowed_when_some_port_is() -> None:
    assert rule_name(rules("db.example:5432"), "db.example", LOOKUP).allowed
    assert not rule_name(rules("db.example:5432"), "other.example", LOOKUP).allowed
    assert rule_name(rules(deny=("db.example:5432",), base=Base.PUBLIC), "db.example", LOOKUP).allowed
    assert not rule_name(rules(deny=("db.example",), base=Base.PUBLIC), "db.example", LOOKUP).allowed


def test_no_rules_and_no_base_allow_nothing() -> None:
    for host in ("example.com", "localhost", "8.8.8.8", "127.0.0.1", "::1", "2606:4700::1111"):
        assert rule_name(NOTHING, host, 443).verdict is Verdict.DENIED
        assert not rule_name(NOTHING, host, LOOKUP).allowed
    assert at(NOTHING, "example.com", "93.184.216.34") == "NO none"


@pytest.mark.parametrize(
    "host",
    [
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
        "instance-data.example.com",
        "metadata",
    ],
)
def test_the_public_base_refuses_metadata_by_name(host: str) -> None:
    assert rule_name(PUBLIC, normal_host(host), 80).rule == "metadata name"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "a.localhost",
        "db",
        "printer.local",
        "api.internal",
        "x.home.arpa",
        "nas.lan",
        "a.svc",
        "kubernetes.default.svc",
        "wiki.corp",
    ],
)
def test_the_public_base_refuses_names_of_inner_networks(host: str) -> None:
    assert rule_name(PUBLIC, host, 443).rule == "not a public name"
    assert rule_name(rules(f"{host}:443", base=Base.PUBLIC), host, 443).allowed


@pytest.mark.parametrize(
    "host", ["internal.example.com", "local.org", "localhost.example.com", "my-metadata.google.com", "arpa.com", "home.example.arpa.net"]
)
def test_public_names_that_look_like_them_are_public(host: str) -> None:
    assert rule_name(PUBLIC, host, 443).rule == "public"


# By address -------------------------------------------------------------------------------------------------------------------------

REFUSED = words("""
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.255 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.168.0.1 192.0.0.8
198.18.0.1 198.19.255.255 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 100.100.100.200
:: ::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 febf::1 fec0::1 ff02::1 100::1 fe80::1%eth0
::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1 ::a9fe:a9fe ::ffff:0:127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::8.8.8.8
2002:7f00:1:: 2002:a9fe:a9fe::1 2002:a00:1::1 2001:0:7f00:1:: 2001:0:808:808::80ff:fffe 2001:0:808:808:0:0:5601:5601 2001:db8::5efe:10.0.0.1 2001:db8::200:5efe:127.0.0.1
""")
OPEN = words("""
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0
192.0.1.0 198.17.255.255 198.20.0.0 203.0.113.7 192.0.2.1 198.51.100.1 223.255.255.255 2606:4700::1111 2001:db8::1 64:ff9b::8.8.8.8 2002:808:808::1 ::ffff:8.8.8.8 2a00::1
""")


@pytest.mark.parametrize("address", REFUSED)
def test_the_public_base_refuses_what_is_not_public(address: str) -> None:
    assert at(PUBLIC, "example.com", address).startswith("NO ")
    assert at(rules("example.com"), "example.com", address).startswith("NO ")
    assert at(rules("example.com", "0.0.0.0/0", "::/0", base=Base.PUBLIC), "example.com", address).startswith("NO ")


@pytest.mark.parametrize("address", OPEN)
def test_the_public_base_allows_what_is_public(address: str) -> None:
    assert at(PUBLIC, "example.com", address) == "public"
    assert at(rules("example.com"), "example.com", address) == "allow example.com"
    assert at(rules(), "example.com", address) == "NO none"


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "017700000001",
        "2130706433",
        "[::ffff:169.254.169.254]",
        "::ffff:7f00:1",
        "[::1]",
        "0",
        "169.254.43518",
        "[64:ff9b::7f00:1]",
    ],
)
def test_an_address_that_the_sandbox_names_is_refused_in_every_spelling(text: str) -> None:
    host = normal_host(text)
    assert not rule_name(PUBLIC, host, 80).allowed
    assert at(PUBLIC, text, host).startswith("NO ")


def test_a_range_opens_the_refused_range_that_it_lies_in_at_its_ports_alone() -> None:
    policy = rules("10.0.0.0/8:5432", "[fd00::/8]:22", base=Base.PUBLIC)
    assert at(policy, "10.1.2.3", "10.1.2.3", 5432) == "allow 10.0.0.0/8:5432"
    assert at(policy, "db.example.com", "10.1.2.3", 5432) == "allow 10.0.0.0/8:5432"
    assert at(policy, "10.1.2.3", "10.1.2.3", 443) == "NO private address"
    assert at(policy, "192.168.0.1", "192.168.0.1", 5432) == "NO private address"
    assert at(policy, "fd00::1", "fd00::1", 22) == "allow [fd00::/8]:22"
    assert at(policy, "64:ff9b::a00:1", "64:ff9b::a00:1", 5432) == "allow 10.0.0.0/8:5432"
    assert at(policy, "fe80::5efe:a00:1", "fe80::5efe:a00:1", 5432) == "NO link-local address"  # which no rule opens
    assert at(policy, "db.corp", "10.1.2.3", 5432) == "NO not a public name"


def test_a_range_that_is_wider_than_the_refused_one_opens_nothing_of_it() -> None:
    policy = rules("0.0.0.0/0:80", "172.0.0.0/8:80", "[::/0]:80")
    assert at(policy, "172.32.0.1", "172.32.0.1", 80) == "allow 0.0.0.0/0:80"
    for address in ("172.16.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd00::1"):
        assert at(policy, address, address, 80).startswith("NO ")


def test_a_range_alone_resolves_no_name_without_a_base() -> None:
    policy = rules("203.0.113.0/24")
    assert at(policy, "203.0.113.7", "203.0.113.7") == "allow 203.0.113.0/24"
    assert at(policy, "registry.example", "203.0.113.7") == "NO none"
    for outside in ("203.0.114.7", "8.8.8.8", "2001:db8::1"):
        assert at(policy, outside, outside) == "NO none"


def test_metadata_is_opened_by_its_own_address_only() -> None:
    wide = rules("169.254.0.0/16:80", "[fd00::/8]:80", private=("*.google.internal", "imds.example.com"), base=Base.PUBLIC)
    assert at(wide, "169.254.1.1", "169.254.1.1", 80) == "allow 169.254.0.0/16:80"
    assert at(wide, "169.254.169.254", "169.254.169.254", 80) == "NO metadata address"
    assert at(wide, "fd00:ec2::254", "fd00:ec2::254", 80) == "NO metadata address"
    assert at(wide, "metadata.google.internal", "169.254.169.254", 80) == "NO metadata address"
    assert at(wide, "imds.example.com", "169.254.169.254", 80) == "NO metadata address"
    assert at(rules("169.254.169.254:80"), "169.254.169.254", "169.254.169.254", 80) == "allow 169.254.169.254/32:80"


def test_a_private_name_may_lead_inside_and_not_where_no_host_is() -> None:
    policy = rules(private=("db.example.com:5432",), base=Base.PUBLIC)
    for address in ("10.0.0.1", "192.168.1.1", "127.0.0.1", "::1", "fd00::1", "100.64.0.1"):
        assert at(policy, "db.example.com", address, 5432) == "allow db.example.com:5432"
        assert at(policy, "db.example.com", address, 80).startswith("NO ")
        assert at(policy, "other.example.com", address, 5432).startswith("NO ")
    for address in ("0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "ff02::1", "198.18.0.1"):
        assert at(policy, "db.example.com", address, 5432).startswith("NO ")
    assert at(policy, "db.example.com", "93.184.216.34", 5432) == "allow db.example.com:5432"


def test_a_name_that_is_answered_differently_the_second_time_gains_nothing() -> None:
    policy = rules("rebind.example.com")
    assert at(policy, "rebind.example.com", "93.184.216.34") == "allow rebind.example.com"
    assert at(policy, "rebind.example.com", "127.0.0.1") == "NO loopback address"
    assert at(policy, "rebind.example.com", "169.254.169.254") == "NO metadata address"


def test_the_hosts_own_addresses_are_refused_whatever_they_are() -> None:
    own = ("203.0.113.5", "2001:db8::5", "10.0.0.5", "127.0.0.1", "fe80::5%eth0")
    for address in (*own[:3], "::ffff:203.0.113.5", "64:ff9b::203.0.113.5"):
        assert at(rules("example.com"), "example.com", address, own=own).startswith("NO ")
        assert at(PUBLIC, address, address, own=own).startswith("NO ")
    assert at(PUBLIC, "example.com", "203.0.113.5", own=own) == "NO own address of the host"
    assert at(PUBLIC, "example.com", "203.0.113.6", own=own) == "public"
    assert at(rules("203.0.113.0/24", "10.0.0.0/8"), "203.0.113.5", "203.0.113.5", own=own) == "NO own address of the host"
    assert at(rules("10.0.0.0/8"), "10.0.0.5", "10.0.0.5", own=own) == "NO private address"
    assert at(rules("203.0.113.5"), "203.0.113.5", "203.0.113.5", own=own) == "allow 203.0.113.5/32"
    assert at(rules("127.0.0.0/8"), "127.0.0.1", "127.0.0.1", own=own) == "allow 127.0.0.0/8"


def test_who_is_beside_the_host_is_private_though_the_address_is_not() -> None:
    def near(policy: EgressRules, host: str, address: str) -> str:
        own = frozenset(map(ipaddress.ip_network, ("203.0.113.0/24", "2001:db8:7::/64", "10.0.0.0/16")))
        ruling = rule_address(policy, normal_host(host), ipaddress.ip_address(address), 443, own)
        return ruling.rule if ruling.allowed else f"NO {ruling.rule}"

    refused = "NO address of the host's own network"
    for address in ("203.0.113.9", "2001:db8:7::9", "::ffff:203.0.113.9", "64:ff9b::203.0.113.9"):
        assert near(PUBLIC, address, address) == refused
        assert near(rules("example.com"), "example.com", address) == refused
    for address in ("203.0.112.9", "2001:db8:8::9"):
        assert near(PUBLIC, "example.com", address) == "public"
    assert near(rules("203.0.113.0/24"), "203.0.113.9", "203.0.113.9") == "allow 203.0.113.0/24"
    assert near(rules("203.0.113.8/30"), "203.0.113.9", "203.0.113.9") == "allow 203.0.113.8/30"
    assert near(rules("203.0.0.0/8", base=Base.PUBLIC), "203.0.113.9", "203.0.113.9") == refused  # wider than what it would open
    assert near(rules("10.0.0.0/8"), "10.0.0.9", "10.0.0.9") == "allow 10.0.0.0/8"  # private in any case, and no narrower for being near
    named = EgressRules(base=Base.NONE, private=(Rule(host="example.com"),))
    assert near(named, "example.com", "203.0.113.9") == "allow example.com"


def test_a_denied_range_is_denied_by_every_name_and_form() -> None:
    policy = rules("example.com", "203.0.113.7", deny=("203.0.113.0/24", "[2001:db8::/32]:443"), base=Base.PUBLIC)
    for address in ("203.0.113.7", "::ffff:203.0.113.7", "64:ff9b::203.0.113.7", "2002:cb00:7107::1"):
        assert at(policy, "example.com", address) == "NO deny 203.0.113.0/24"
        assert at(policy, address, address) == "NO deny 203.0.113.0/24"
    for outside in ("203.0.114.7", "8.8.8.8", "2606:4700::1111"):
        assert at(policy, "example.com", outside) == "allow example.com"
    assert at(policy, "example.com", "2001:db8::1") == "NO deny [2001:db8::/32]:443"
    assert at(policy, "example.com", "2001:db8::1", 80) == "allow example.com"


def test_the_judged_address_is_the_one_that_was_named() -> None:
    assert at(PUBLIC, "8.8.8.8", "8.8.8.9") == "NO address"
    assert at(PUBLIC, "8.8.8.8", "::ffff:8.8.8.8") == "public"


@settings(max_examples=300)
@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:{}", "64:ff9b::{}", "::{}", "::ffff:0:{}", "2001:db8::5efe:{}"]))
def test_an_ipv4_address_is_refused_in_ipv6_as_it_is_alone(address: ipaddress.IPv4Address, form: str) -> None:
    carrier = ipaddress.IPv6Address(form.format(address))
    if int(carrier) > 1:
        assert address in forms(carrier)
        assert {each.kind for each in refused_ranges(address)} <= {each.kind for each in refused_ranges(carrier)}
        assert bool(refused_ranges(address, (address,))) and bool(refused_ranges(carrier, (address,)))


@settings(max_examples=300)
@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_permission_by_name_never_leads_off_the_public_internet(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    policy = EgressRules(base=Base.NONE, allow=(Rule(host="example.com", ports=(port,)),))
    allowed = rule_address(policy, "example.com", address, port, ()).allowed
    assert allowed == (not refused_ranges(address))
    if allowed and address.version == 4:
        assert not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)
