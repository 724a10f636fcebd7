"""Names of hosts, as sandboxes and rules write them, in the one form in which they are compared.

A text that two programs could read differently is refused: what is judged must be what is connected to.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from typing import Final

MAX_HOST_CHARACTERS: Final = 253  # RFC 1035, 2.3.4, as text without the last dot
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"0[0-7]*|[1-9][0-9]*|0x[0-9a-f]+")
# Whoever follows the URL standard takes every name whose last label looks like this for an IPv4 address, or for a mistake.
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LETTERS_AND_DIGITS: Final = frozenset({"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"})  # RFC 5892, 2.1

_NEVER: Final = frozenset({"Cc", "Cs", "Zs", "Zl", "Zp"})  # what no registry gives away, and what no text may hold


def normal_host(text: str) -> str:
    """The form of a host in which two spellings of the same are equal.

    A name becomes lower-case A-labels without a trailing dot; an IPv4 address in any spelling that inet_aton(3) reads (decimal, octal,
    hexadecimal, fewer parts), or mapped into IPv6, becomes four decimal numbers; an IPv6 address, in brackets or not, its canonical form
    without brackets.

    Raises:
        ValueError: the text names no host, or programs would disagree on which; says why.
    """
    if len(text) > MAX_HOST_CHARACTERS * 4:  # an A-label may be longer or shorter than what it stands for; this bounds the work
        raise ValueError("it is too long")
    if ":" in text or "[" in text:
        return _ipv6(text)
    name = _ascii(text.lower() if text.isascii() else text)
    if _NUMERIC.fullmatch(name.removesuffix(".").rpartition(".")[2]):
        return _ipv4(name)
    name = name.removesuffix(".")
    if len(name) > MAX_HOST_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_HOST_CHARACTERS} characters")
    for label in name.split("."):
        _check_label(label)
    return name


def is_address(host: str) -> bool:
    """Whether a host in the form of `normal_host` is an IP address."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def _ipv6(text: str) -> str:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[0-9A-Fa-f:.]{2,45}", inner):  # no zone either: it would choose a network interface of the host
        raise ValueError("it is no IPv6 address")
    address = ipaddress.IPv6Address(inner)
    return str(address.ipv4_mapped or address)


def _ipv4(text: str) -> str:
    """As inet_aton(3) reads it: one to four numbers, of which the last fills what remains."""
    parts = text.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) and len(part) <= 24 for part in parts):
        raise ValueError("it ends in a number and is no IPv4 address")
    *first, last = [int(part, 16 if part.startswith("0x") else 8 if part.startswith("0") else 10) for part in parts]
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        raise ValueError("it is no IPv4 address: a number is too large")
    value = last
    for place, number in enumerate(first):
        value |= number << 8 * (3 - place)
    return str(ipaddress.IPv4Address(value))


def _ascii(text: str) -> str:
    """With every label that is not ASCII as an A-label."""
    if text.isascii():
        return text
    return ".".join(label.lower() if label.isascii() else _a_label(label) for label in text.split("."))


def _a_label(label: str) -> str:
    """The A-label of a label which IDNA2003, IDNA2008 and UTS 46 encode alike; others (`ß`, joiners, full-width forms) are refused."""
    lowered = unicodedata.normalize("NFC", label.lower())
    if unicodedata.ucd_3_2_0.normalize("NFC", label.lower()) != lowered:
        raise ValueError("programs disagree on a character in a name; write it as an A-label (xn--...)")
    for character in lowered:
        if not _is_settled(character):
            raise ValueError(f"programs disagree on U+{ord(character):04X} in a name; write it as an A-label (xn--...)")
    if unicodedata.category(lowered[0]).startswith("M"):
        raise ValueError("a label begins with a combining mark")
    if lowered[2:4] == "--":
        raise ValueError("a label that is not ASCII has -- in its third place")
    return "xn--" + lowered.encode("punycode").decode("ascii")


def _is_settled(character: str) -> bool:
    """Whether a character is a letter or digit to every version of IDNA, and stands for itself."""
    if character.isascii():
        return True  # judged with the rest of the label
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold())
    old = unicodedata.ucd_3_2_0  # the Unicode of IDNA2003
    return folded == character and unicodedata.category(character) in _LETTERS_AND_DIGITS and old.category(character) in _LETTERS_AND_DIGITS


def _check_label(label: str) -> None:
    if not label:
        raise ValueError("a label is empty")
    if len(label) > 63:
        raise ValueError("a label is longer than 63 characters")
    if not _LABEL.fullmatch(label):
        raise ValueError("a label holds what is no letter, digit or inner hyphen")
    if label.startswith("xn--") and not _is_a_label(label):
        raise ValueError(f"{label} is no A-label of any name")


def _is_a_label(label: str) -> bool:
    """Whether a label stands for a name in the only way to write it, else a decoding program would see another one. What stands for an
    ASCII name ends in a hyphen, and is refused for that."""
    try:
        decoded = label[4:].encode("ascii").decode("punycode")
        again = decoded.encode("punycode").decode("ascii")
    except (UnicodeError, OverflowError):
        return False
    if again != label[4:] or unicodedata.normalize("NFC", decoded.lower()) != decoded:
        return False
    return not any(unicodedata.category(character) in _NEVER for character in decoded)
