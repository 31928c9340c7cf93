"""The types of values that a policy can name, as `<type>` in a pattern.

A type is a predicate over one string from an agent.  There are no regular expressions and no conversions: a value
either matches its type exactly, in its one usual spelling, or is refused, so the checked value is the one passed on.
Every type accepts only printable ASCII.  Only `text`, `quoted` and `secret` accept quotes and commas, only these and
`word` an equals sign, and only `text`, `quoted` and `name` a blank.  A list accepts what its members do, and commas.
"""

from __future__ import annotations

import _socket  # socket without its enumerations, which cost each run a millisecond
from collections.abc import Callable

Check = Callable[[str], bool]

DIGITS = frozenset("0123456789")
LOWER_HEX = DIGITS | frozenset("abcdef")
HEX = LOWER_HEX | frozenset("ABCDEF")
ALPHANUMERIC = DIGITS | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
NAME = ALPHANUMERIC | frozenset("._-@+ ")
TAG = ALPHANUMERIC | frozenset("_-.")
INTERFACE = ALPHANUMERIC | frozenset("._-@")
LABEL = ALPHANUMERIC | frozenset("-_")
WORD = ALPHANUMERIC | frozenset("._-:/%+*[]()=&@~?#")
PATH_CHARACTERS = ALPHANUMERIC | frozenset("._-/+@ ")

INTERFACE_CHARACTERS = 15  # IFNAMSIZ minus the terminating NUL
DECIMAL_DIGITS = 20  # enough for 2^64; keeps int() away from 5,000 digits


def only(text: str, allowed: frozenset[str]) -> bool:
    """Return whether the text is not empty and has only characters in `allowed`."""
    return bool(text) and allowed.issuperset(text)


def is_uuid(text: str) -> bool:
    """Check for lower-case hexadecimal, 8-4-4-4-12, as OpenStack and Linux write UUIDs."""
    groups = text.split("-")
    return [len(group) for group in groups] == [8, 4, 4, 4, 12] and all(only(group, LOWER_HEX) for group in groups)


def is_decimal(text: str) -> bool:
    """Check for an unsigned number without leading zeros."""
    return only(text, DIGITS) and len(text) <= DECIMAL_DIGITS and (text == "0" or text[0] != "0")


def is_address(text: str, family: int) -> bool:
    if not text.isascii() or "\0" in text or "%" in text:
        return False
    try:
        _socket.inet_pton(family, text)  # stricter than inet_aton: four decimal groups, no leading zeros
    except (OSError, ValueError):
        return False
    return True


def is_ipv4(text: str) -> bool:
    return is_address(text, _socket.AF_INET)


def is_ipv6(text: str) -> bool:
    return is_address(text, _socket.AF_INET6)


def is_ip(text: str) -> bool:
    return is_ipv4(text) or is_ipv6(text)


def is_cidr(text: str) -> bool:
    address, slash, prefix = text.partition("/")
    longest = 32 if is_ipv4(address) else 128 if is_ipv6(address) else -1
    return bool(slash) and is_decimal(prefix) and int(prefix) <= longest


def is_netmask(text: str) -> bool:
    """Check for a dotted IPv4 mask with contiguous ones."""
    if not is_ipv4(text):
        return False
    inverted = 0xFFFFFFFF ^ int.from_bytes(_socket.inet_pton(_socket.AF_INET, text), "big")
    return inverted & (inverted + 1) == 0


def is_mac(text: str) -> bool:
    groups = text.split(":")
    return len(groups) == 6 and all(len(group) == 2 and only(group, HEX) for group in groups)


def is_interface(text: str) -> bool:
    return only(text, INTERFACE) and len(text) <= INTERFACE_CHARACTERS and text[0] in ALPHANUMERIC


def is_hostname(text: str) -> bool:
    """Check for labels of letters, digits, hyphens and underscores, joined by dots; a dot may end it."""
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(only(label, LABEL) and len(label) <= 63 and label[0] != "-" for label in labels)


def is_tag(text: str) -> bool:
    return only(text, TAG) and len(text) <= 64 and text[0] in ALPHANUMERIC


def is_name(text: str) -> bool:
    """Check for one path component: not `.`, `..` or hidden, and without a blank at either end."""
    return only(text, NAME) and len(text) <= 64 and text[0] in ALPHANUMERIC and text[-1] != " "


def is_duration(text: str) -> bool:
    """Check for seconds, minutes or hours, such as 86400s or 24h, or `infinite`."""
    return text == "infinite" or (text[-1:] in ("s", "m", "h") and is_decimal(text[:-1]))


def is_text(text: str) -> bool:
    """Check for printable ASCII, at most 255 characters. For values that the program only repeats."""
    return 0 < len(text) <= 255 and text.isascii() and text.isprintable()


def is_word(text: str) -> bool:
    """Check for an address, URL or similar: no blank, comma, quote or backslash. If it begins with a sign, then [_:."""
    return only(text, WORD) and len(text) <= 255 and text[0] in ALPHANUMERIC | {"[", "_", ":"}


def is_quoted(text: str) -> bool:
    """Check for printable ASCII in double quotes, with no quotes or backslashes inside."""
    return is_text(text) and len(text) > 2 and text[0] == text[-1] == '"' and not set(text[1:-1]) & set('"\\')


def is_secret(text: str) -> bool:
    """Check for a word of printable ASCII that keepalived 2.2 reads literally: no quote, comment, brace or variable."""
    return (
        0 < len(text) <= 255
        and text.isascii()
        and text.isprintable()
        and not set(text) & set(' "#!{}')
        and "$_" not in text
        and text[-1] != "\\"
    )


def is_path(text: str, allowed: frozenset[str] = PATH_CHARACTERS) -> bool:
    """Check for an absolute path in canonical spelling. Not a type for patterns, which are more specific."""
    parts = text.split("/")
    return only(text, allowed) and text[0] == "/" and all(part not in ("", ".", "..") for part in parts[1:])


TYPES: dict[str, Check] = {
    "uuid": is_uuid,
    "ip": is_ip,
    "ipv4": is_ipv4,
    "ipv6": is_ipv6,
    "cidr": is_cidr,
    "netmask": is_netmask,
    "mac": is_mac,
    "interface": is_interface,
    "hostname": is_hostname,
    "tag": is_tag,
    "name": is_name,
    "duration": is_duration,
    "text": is_text,
    "quoted": is_quoted,
    "word": is_word,
    "secret": is_secret,
}
MEMBERS = 64  # of a list


def parse_type(spelling: str) -> Check:
    """Return the predicate for the text between `<` and `>`: a type's name, or `integer LOW..HIGH`.

    With `,...` after it, either is a list of such values with commas between them. Raises ValueError, with a message
    for the policy's author, if there is no such type.
    """
    if spelling.endswith(",..."):
        member = parse_type(spelling.removesuffix(",..."))
        return lambda text: text.count(",") < MEMBERS and all(map(member, text.split(",")))
    word, _, bounds = spelling.partition(" ")
    if word == "integer":
        low, dots, high = bounds.partition("..")
        if not (dots and is_decimal(low) and is_decimal(high) and int(low) <= int(high)):
            raise ValueError(f"<{spelling}> needs its bounds, as in <integer 1..65535>")
        first, last = int(low), int(high)
        return lambda text: is_decimal(text) and first <= int(text) <= last
    if spelling in TYPES:
        return TYPES[spelling]
    raise ValueError(f"there is no type <{spelling}>; the types are integer LOW..HIGH, {', '.join(sorted(TYPES))}")
