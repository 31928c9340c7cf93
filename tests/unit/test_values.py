"""Every type of value that a policy can name: what it accepts and what it refuses."""

from __future__ import annotations

import pytest

from sidespawn.core.values import TYPES, parse_type

UUID = "0065347c-3513-59a1-aef3-65d693fe6e19"

ALLOWED = {
    "uuid": [UUID, "00000000-0000-0000-0000-000000000000"],
    "ip": ["10.0.0.1", "0.0.0.0", "255.255.255.255", "::", "2001:db8::1", "::ffff:10.0.0.1"],
    "ipv4": ["10.0.0.1"],
    "ipv6": ["fe80::1", "2001:db8:c::"],
    "cidr": ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "::/0", "2001:db8::/128"],
    "netmask": ["255.255.255.0", "255.255.255.252", "255.255.255.255", "0.0.0.0"],
    "mac": ["fa:16:3e:00:00:01", "FA:16:3E:AB:CD:EF"],
    "interface": ["eth0", "tap0065347c-35", "ns-1234.10", "a", "veth0@if3", "x" * 15],
    "hostname": ["localhost", "host-10-0-0-1.example", "example.", "_agent._tcp.example", "a" * 63, "1.2.3"],
    "tag": ["subnet-eb7d88f5-41d8-5535-bd38-3ea0c8b973a5", "a", "ipxe6", "a.b_c", "a" * 64],
    "name": ["dhcp", "dhcp confs", "a.conf", "a+b@c", "a..b", "a" * 64],
    "duration": ["infinite", "86400s", "5m", "24h", "0s"],
    "text": ["a", 'host "one"', "a,b=c", "~", "x" * 255, "-x", ".."],
    "quoted": ['"a"', '"a b, c=#;x"'],
    "word": ["a", "[::1]", "http://10.1.1.1/boot.ipxe", "10.0.0.1#53", "01:04:00", "a?b=c&d", "x" * 255],
    "secret": ["p@ss", "S3cr$t", "a\\b", "'~^|;", "<a>,=", "x" * 255],
    "ip,...": ["10.0.0.1", "10.0.0.1,10.0.0.2,fe80::1", ",".join(["::1"] * 64)],
    "integer 1..9,...": ["1", "1,9"],
    "integer 1..65535": ["1", "67", "65535"],
    "integer 0..0": ["0"],
    "integer 0..18446744073709551615": ["18446744073709551615"],
}

REFUSED = {
    "uuid": [UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", UUID[:-1], f"{UUID}0", f"{UUID}-"],
    "ip": ["10.0.0", "10.0.0.256", "010.0.0.1", "0x0a.0.0.1", "10.0.0.1/8", "fe80::1%eth0", ":::", "1::2::3", "[::1]"],
    "ipv4": ["2001:db8::1", "167772161"],
    "ipv6": ["10.0.0.1", "fe80::1%1"],
    "cidr": ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/08", "10.0.0.0/-1", "10.0.0.0/8/8", "/8"],
    "netmask": ["255.0.255.0", "0.0.0.255", "255.255.255.1", "24", "ffff::"],
    "mac": ["fa163e000001", "fa-16-3e-00-00-01", "fa:16:3e:00:00", "fa:16:3e:00:00:1", "fg:16:3e:00:00:01"],
    "interface": ["x" * 16, ".", "-i", "eth/0", "eth:0", "eth*", "@if3"],
    "hostname": [".", "a..b", ".a", "a.-b", "a" * 64, "a." * 126 + "aa", "a/b", "host name", "a,b", "*.example"],
    "tag": ["a" * 65, "_a", ".a", "a,b", "a:b", "a b", "set:a"],
    "name": ["a" * 65, ".", ".hidden", "a/b", " a", "a ", "a,b", "a:b", "a\\b", "~", "a$b"],
    "duration": ["s", "1", "1d", "-1s", "01s", "1.5h", "INFINITE", "1 s", "1ss"],
    "text": ["x" * 256, "a\tb", "a\x1b[31m"],
    "quoted": ['""', '"', '"a', 'a"', "a", '"a" "b"', '"a\\"', '"a"b"', "'a'", f'"{"x" * 254}"'],
    "word": ["x" * 256, "/x", "#x", "a b", "a,b", 'a"b', "a'b", "a\\b", "a;b", "a$b", "a!b"],
    "secret": ["x" * 256, "a b", 'a"b', "a#b", "a!b", "{", "}", "${a}", "$_A", "a\\"],
    "ip,...": ["10.0.0.1,", ",10.0.0.1", "10.0.0.1,,10.0.0.2", "10.0.0.1, 10.0.0.2", "x", ",".join(["::1"] * 65)],
    "integer 1..9,...": ["0", "1,10", "1,"],
    "integer 1..65535": ["0", "65536", "01", "+1", "-1", "1.0", "1e3", "0x10", "1_000", "9" * 5000],
    "integer 0..0": ["1", "00"],
    "integer 0..18446744073709551615": ["18446744073709551616"],
}  # fmt: skip

# What no type accepts.
NEVER = {
    "empty": "",
    "newline": "\n",
    "NUL": "\0",
    "non-ASCII digit": "\u0661",
    "non-ASCII letter": "\u0430",
    "fullwidth digit": "\uff11",
    "lone surrogate": "\ud800",
    "bidi override": "\u202e",
    "line separator": "\u2028",
}


def cases(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(kind, value) for kind, values in table.items() for value in values]


def test_every_type_has_both_kinds_of_cases() -> None:
    named = TYPES.keys() | {"integer 1..65535"}
    assert named <= ALLOWED.keys() == REFUSED.keys()


@pytest.mark.parametrize(("kind", "value"), cases(ALLOWED))
def test_allowed(kind: str, value: str) -> None:
    assert parse_type(kind)(value)


@pytest.mark.parametrize(("kind", "value"), cases(REFUSED))
def test_refused(kind: str, value: str) -> None:
    assert not parse_type(kind)(value)


@pytest.mark.parametrize("value", NEVER.values(), ids=NEVER.keys())
@pytest.mark.parametrize("kind", ALLOWED)
def test_no_type_accepts(kind: str, value: str) -> None:
    assert not parse_type(kind)(value)


@pytest.mark.parametrize("position", ["before", "within", "behind"])
@pytest.mark.parametrize(
    "strange", [each for each in NEVER.values() if each], ids=[name for name in NEVER if name != "empty"]
)
@pytest.mark.parametrize("kind", ALLOWED)
def test_one_strange_character_spoils_a_good_value(kind: str, strange: str, position: str) -> None:
    good = ALLOWED[kind][0]
    at = {"before": 0, "within": len(good) // 2, "behind": len(good)}[position]
    assert not parse_type(kind)(good[:at] + strange + good[at:])


@pytest.mark.parametrize("kind", sorted(ALLOWED.keys() - {"text", "name", "secret"}))
@pytest.mark.parametrize("character", list(", =\"'\\/$%`;&|<>*?~^!(){}[]\t\r"))
def test_only_text_and_name_accept_what_separates_or_quotes(kind: str, character: str) -> None:
    if (kind, character) == ("cidr", "/") or (kind == "word" and character in "=/%&*?~()[]"):
        return
    assert not parse_type(kind)(ALLOWED[kind][0] + character)


@pytest.mark.parametrize("kind", sorted(ALLOWED.keys() - {"text", "secret"}))
@pytest.mark.parametrize("value", ["..", "-", "--help", "-x", "/etc/shadow", "../../etc/shadow"])
def test_no_type_but_text_accepts_what_looks_like_a_path_or_an_option(kind: str, value: str) -> None:
    assert not parse_type(kind)(value)


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        "UUID",
        "uuid ",
        " uuid",
        "path",
        "regex .*",
        "integer",
        "integer 1",
        "integer 1..",
        "integer ..9",
        "integer 9..1",
        "integer -1..1",
        "integer 1..x",
        "integer 1...9",
        "integer  1..9",
        f"integer 0..{'9' * 5000}",
    ],
)
def test_syntax_error(spelling: str) -> None:
    with pytest.raises(ValueError, match=r"there is no type <|needs its bounds"):
        parse_type(spelling)


def test_the_message_for_an_unknown_type_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"<regex>;.*integer LOW\.\.HIGH.*uuid"):
        parse_type("regex")
