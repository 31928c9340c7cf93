"""Patterns: literal text, typed holes, and names that mean the same everywhere in a request."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from sidespawn import presets
from sidespawn.core.pattern import (
    TEXTS,
    Conflict,
    Literal,
    Names,
    Pattern,
    Typed,
    match,
    match_any,
    parse_pattern,
    render,
    render_first,
)
from sidespawn.core.policy import Policy
from sidespawn.loading.configuration import every
from sidespawn.loading.possible import filled
from tests.unit.shipped import preset

A = "0065347c-3513-59a1-aef3-65d693fe6e19"
B = "444f7f02-b4f4-54cf-8bd1-8080e7d4f893"

NAMES: Names = {
    name: tuple(parse_pattern(source) for source in sources)
    for name, sources in {
        "network": ["<uuid>"],
        "segment": ["<integer 1..4094>"],
        "dir": ["<name>"],
        "home": ["/state/{dir}/{network}", "/state/{dir}/{segment}/{network}"],
        "word": ["<tag>"],
        "root": ["/var/lib/x", "/run"],
        "file": ["<name>", "<name>/<name>"],
        "some": ["<text>"],
        "more": ["<text>"],
    }.items()
}


def matches(source: str, value: str, bindings: dict[str, str] | None = None) -> dict[str, str] | None:
    return match(parse_pattern(source), value, NAMES, bindings or {})


# ---------------------------------------------------------------- what a pattern matches

ALLOW = [
    ("/dev/null", "/dev/null"),
    ("<uuid>", A),
    ("qdhcp-<uuid>", f"qdhcp-{A}"),
    ("<ipv4>,static,<netmask>", "10.0.0.0,static,255.0.0.0"),
    ("<integer 1..9>", "9"),
    ("a<tag>b", "aXb"),
    ("<text>", "anything, really"),
    ("set:<tag>", "set:subnet-1"),
    ("{network}", A),
    ("{home}/host", f"/state/dhcp/{A}/host"),
    ("{home}/host", f"/state/dhcp/101/{A}/host"),
    ("", ""),
]
DENY = [
    ("/dev/null", "/dev/null\n"),
    ("/dev/null", "/dev/null\0"),
    ("/dev/null", "/dev/nul"),
    ("/dev/null", "/dev/null/"),
    ("/dev/null", ""),
    ("/dev/null", "-/dev/null"),
    ("<uuid>", A.upper()),
    ("<uuid>", ""),
    ("qdhcp-<uuid>", f"qdhcp-{A}\n"),
    ("qdhcp-<uuid>", f"qdhcp-{A}x"),
    ("qdhcp-<uuid>", f" qdhcp-{A}"),
    ("qdhcp-<uuid>", "qdhcp-"),
    ("qdhcp-<uuid>", f"QDHCP-{A}"),
    ("<ipv4>,static,<netmask>", "10.0.0.0,static"),
    ("<ipv4>,static,<netmask>", "10.0.0.0,static,255.0.0.0,1h"),
    ("<ipv4>,static,<netmask>", "10.0.0.0,,static,255.0.0.0"),
    ("{home}/host", f"/state/dhcp/{A}"),
    ("{home}/host", f"/state/dhcp/{A}/host/"),
    ("{home}/host", f"/state/dhcp/{A}/../host"),
    ("{home}/host", f"/state/dhcp/../{A}/host"),
    ("{home}/host", f"/state/../dhcp/{A}/host"),
    ("{home}/host", f"/state/../{A}/host"),
    ("{home}/host", f"/state//{A}/host"),
    ("{home}/host", f"/state-evil/dhcp/{A}/host"),
    ("{home}/host", f"//state/dhcp/{A}/host"),
    ("{home}/host", f"/state/dhcp/{A}/host\n"),
    ("{home}/host", f"/state/dhcp/{A}x/host"),
    ("{home}/host", f"/state/-dhcp/{A}/host"),
    ("{home}/host", f"/state/{'d' * 65}/{A}/host"),
    ("", "x"),
]


@pytest.mark.parametrize(("pattern", "value"), ALLOW)
def test_allow(pattern: str, value: str) -> None:
    assert matches(pattern, value) is not None


@pytest.mark.parametrize(("pattern", "value"), DENY)
def test_deny(pattern: str, value: str) -> None:
    assert matches(pattern, value) is None


# ---------------------------------------------------------------- where a hole ends


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("<tag>,<text>", "a,b,c"),
        ("<text>,<tag>", "a,b,c"),
        ("<ipv6>:<integer 1..65535>", "fe80::a9fe:a9fe:80"),
        ("<ipv6>:<integer 1..65535> interface <interface>", "fe80::a9fe:a9fe:80 interface tap0"),
        ("[<ipv6>]:<integer 1..65535>", "[::1]:80"),
        ("<text>,<text>,<tag>,<text>", "a,b,c,d,e,f"),
        ("{root}/{file}", "/var/lib/x/a/b"),
    ],
)
def test_text_after_a_hole_ends_it_at_any_of_its_occurrences(pattern: str, value: str) -> None:
    assert matches(pattern, value) is not None


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("<ipv6>:<integer 1..65535>", "fe80::a9fe:a9fe:0x50"),
        ("<ipv6>:<integer 1..65535>", "fe80::a9fe::80:80"),
        ("<ipv6>:<integer 1..65535>", "fe80:80"),
        ("<tag>,<tag>", "a,b,c"),
        ("{root}/{file}", "/var/lib/xx/a"),
        ("{root}/{file}", "/var/lib/x/"),
    ],
)
def test_each_hole_still_matches_only_its_type(pattern: str, value: str) -> None:
    assert matches(pattern, value) is None


def test_of_several_ways_the_one_with_the_shortest_first_hole_is_taken() -> None:
    assert matches("{some}:{more}", "a:b:c") == {"some": "a", "more": "b:c"}


def test_a_name_that_is_bound_already_says_where_it_ends() -> None:
    assert matches("{some}:{more}", "a:b:c", {"some": "a:b"}) == {"some": "a:b", "more": "c"}


def test_a_hole_matches_a_limited_length() -> None:
    assert matches("<text>,<text>x<text>", "a," + "x," * 600) is None


def test_many_ways_to_divide_a_value_take_no_time() -> None:
    started = time.process_time()
    assert matches(",".join(["<text>"] * 8), "a," * 8000 + "\n") is None
    with pytest.raises(Conflict):
        matches("-".join(["{some}"] * 6), ":-" * 3000)
    assert time.process_time() - started < 5


# ---------------------------------------------------------------- blanks


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("<name>", "a b"),
        ("/run/<name>", "/run/a b"),
        ("<name> <name>", "a b c"),
        ("{dir}", "a b"),
        ("/run/{dir}/x", "/run/a b/x"),
        ("{home}/host", f"/state/a b/{A}/host"),
        ("{some}", "a b"),
    ],
)
def test_without_blanks_only_a_text_has_one(pattern: str, value: str) -> None:
    bound = {"dir": "a b", "home": f"/state/a b/{A}", "network": A}
    assert matches(pattern, value) is not None
    for bindings in ({}, bound):  # also if an argument has bound the name to it
        assert match(parse_pattern(pattern), value, NAMES, bindings, blanks=False) is None


def test_without_blanks_the_pattern_itself_may_have_them() -> None:
    for pattern, value in (
        ("<tag> <tag>", "a b"),
        ("<text>", "a b"),
        ("x y/{dir}", "x y/a"),
        ("<tag> <text>", "a b c"),
    ):
        assert match(parse_pattern(pattern), value, NAMES, {}, blanks=False) is not None


def test_text_that_ends_a_pattern_ends_the_value() -> None:
    assert matches("{dir}.conf", "a.conf.conf") == {"dir": "a.conf"}


def test_a_hole_is_never_empty() -> None:
    assert matches("<text>,x", ",x") is None
    assert matches("{dir}.conf", ".conf") is None


def test_text_around_a_hole_cannot_overlap() -> None:
    assert matches("ab<text>ba", "aba") is None


# ---------------------------------------------------------------- names are bound once


def test_a_name_is_bound_to_what_it_matched() -> None:
    assert matches("qdhcp-{network}", f"qdhcp-{A}") == {"network": A}


def test_a_name_made_of_names_binds_them_all() -> None:
    found = matches("{home}/host", f"/state/dhcp/101/{A}/host")
    assert found == {"home": f"/state/dhcp/101/{A}", "dir": "dhcp", "segment": "101", "network": A}


def test_a_bound_name_accepts_its_value_again() -> None:
    bound = {"network": A, "home": f"/state/dhcp/{A}"}
    assert matches("{home}/host", f"/state/dhcp/{A}/host", bound) == bound


def test_a_bound_name_refuses_another_value() -> None:
    with pytest.raises(Conflict) as caught:
        matches("qdhcp-{network}", f"qdhcp-{B}", {"network": A})
    assert (caught.value.name, caught.value.bound, caught.value.untrusted_value) == ("network", A, B)


def test_within_one_pattern_a_name_is_the_same_twice() -> None:
    assert matches("{network}/{network}", f"{A}/{A}") == {"network": A}
    with pytest.raises(Conflict):
        matches("{network}/{network}", f"{A}/{B}")


def test_a_name_bound_inside_another_binds_it_outside() -> None:
    with pytest.raises(Conflict) as caught:
        matches("{home}/host", f"/state/dhcp/{B}/host", {"network": A})
    assert caught.value.name == "network"


def test_a_bound_directory_refuses_its_sibling() -> None:
    bound = {"network": A, "dir": "dhcp", "home": f"/state/dhcp/{A}"}
    with pytest.raises(Conflict):
        matches("{home}/host", f"/state/dhcp2/{A}/host", bound)


def test_what_has_the_wrong_form_is_no_conflict() -> None:
    assert matches("{network}", "rubbish", {"network": A}) is None


def test_typed_holes_stand_each_for_itself() -> None:
    assert matches("<uuid>/<uuid>", f"{A}/{B}") == {}


def test_matching_changes_no_bindings_of_the_caller() -> None:
    bound: dict[str, str] = {}
    assert matches("{network}", A, bound) == {"network": A}
    assert bound == {}


# ---------------------------------------------------------------- alternatives

ALTERNATIVES = tuple(parse_pattern(each) for each in ("tag-{network}", "tag-{segment}/{network}", "<tag>"))


def test_the_first_alternative_that_fits_is_taken() -> None:
    assert match_any(ALTERNATIVES, f"tag-{A}", NAMES, {}) == {"network": A}
    assert match_any(ALTERNATIVES, f"tag-5/{A}", NAMES, {}) == {"segment": "5", "network": A}
    assert match_any(ALTERNATIVES, "other", NAMES, {}) == {}


def test_none_when_no_alternative_fits() -> None:
    assert match_any(ALTERNATIVES, "tag,", NAMES, {}) is None
    assert match_any((), "", NAMES, {}) is None


def test_a_conflict_is_reported_only_if_no_alternative_fits() -> None:
    assert match_any(ALTERNATIVES, f"tag-{B}", NAMES, {"network": A}) == {"network": A}  # like <tag>
    with pytest.raises(Conflict):
        match_any(ALTERNATIVES[:2], f"tag-{B}", NAMES, {"network": A})


def test_a_failed_alternative_leaves_no_binding() -> None:
    patterns = (parse_pattern("{word},{network}"), parse_pattern("<tag>,x"))
    assert match_any(patterns, "a,x", NAMES, {}) == {}


# ---------------------------------------------------------------- syntax errors


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("<uuid", "does not close"),
        ("{network", "does not close"),
        ("a<", "does not close"),
        ("uuid>", "does not open"),
        ("network}", "does not open"),
        ("<uuid>>", "does not open"),
        ("<uuid><uuid>", "two holes"),
        ("{a}{b}", "two holes"),
        ("<uuid>{a}", "two holes"),
        ("<nothing>", "no type"),
        ("<>", "no type"),
        ("<integer>", "needs its bounds"),
        ("<uuid\n>", "no type"),
    ],
)
def test_syntax_error(source: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_pattern(source)


def test_the_names_of_a_pattern_in_their_order() -> None:
    assert parse_pattern("{home}/<name>/{network}").names == ("home", "network")


# ---------------------------------------------------------------- rendering


@pytest.mark.parametrize(
    ("source", "bindings", "text"),
    [
        ("/dev/null", {}, "/dev/null"),
        ("qdhcp-{network}", {"network": A}, f"qdhcp-{A}"),
        ("{network}-{segment}", {"network": A, "segment": "5"}, f"{A}-5"),
        ("{network}-{segment}", {"network": A}, None),
        ("<uuid>", {"uuid": A}, None),
        ("", {}, ""),
    ],
)
def test_render(source: str, bindings: dict[str, str], text: str | None) -> None:
    assert render(parse_pattern(source), bindings) == text


def test_render_first_skips_unbound_names() -> None:
    patterns = (parse_pattern("{network}-{segment}"), parse_pattern("{network}"))
    assert render_first(patterns, {"network": A}) == A
    assert render_first(patterns, {"network": A, "segment": "5"}) == f"{A}-5"
    assert render_first(patterns, {}) is None


# ---------------------------------------------------------------- every shipped pattern

PATTERNS = [
    pytest.param(policy, pattern, id=f"{policy.service}-{each.name}-{pattern.source}"[:80])
    for policy in map(preset, presets.names())
    for configuration in policy.configuration.values()
    for each in every(configuration.rules.directives)
    for pattern in each.values
    if pattern.names or any(isinstance(part, Typed) and part not in TEXTS for part in pattern.parts)
]
KEYWORDS = st.sampled_from([" namespace x", " ca-file", " ", " x", "", " { ", "; x", " # x", "\t", " @x"])


@pytest.mark.parametrize(("policy", "pattern"), PATTERNS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_pattern_of_a_preset_matches_more_words_than_it_has(
    policy: Policy, pattern: Pattern, data: DataObject
) -> None:
    """Values of a directive have the pattern's blanks and no others, wherever words are filled in."""
    if any(part in TEXTS for part in pattern.parts):
        return
    value = next(text for text, _ in filled(pattern.parts, policy.names, {}))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(value)))
        value = value[:at] + data.draw(KEYWORDS) + value[at:]
    blanks = sum(part.text.count(" ") for part in pattern.parts if isinstance(part, Literal))
    try:
        found = match(pattern, value, policy.names, {}, blanks=False)
    except Conflict:
        return
    assert found is None or value.count(" ") == blanks
