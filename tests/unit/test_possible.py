"""Policies that can never allow anything are refused when loaded, with file and line."""

from __future__ import annotations

import pytest

from sidespawn.core.values import TYPES, parse_type
from sidespawn.errors import PolicyError
from sidespawn.loading.possible import EXAMPLES, example
from tests.unit.small import POLICY, changed, line_of, load, parse

NAMES = 'home = "/state/{net}"'
IMPOSSIBLE = {
    "configuration outside of the state": (
        [('path = "/state/<name>"', 'path = "/etc/<name>"')],
        'path = "/etc',
        "configuration.extra.path can never be used: '/etc/a' is not under /state",
    ),
    "mount of the whole state": (
        [('mounts = ["{home}"]', 'mounts = ["/state"]')],
        "mounts",
        "side_container.mounts can never be used: '/state' is not under /state",
    ),
    "mount elsewhere": (
        [('mounts = ["{home}"]', 'mounts = ["/statement/{net}"]')],
        "mounts",
        "side_container.mounts can",
    ),
    "reads outside of the state": (
        [("scratch =", 'reads = { "/run/agent" = "/run/x" }\nscratch =')],
        "reads",
        "side_container.reads./run/agent can never be used: '/run/x' is not under /state",
    ),
    "writes the whole state": (
        [("scratch =", 'writes = { "/run/agent" = "/state" }\nscratch =')],
        "writes",
        "side_container.writes./run/agent can never be used",
    ),
    "pid file elsewhere": (
        [('pid_file = "{home}/pid"', 'pid_file = "/run/{net}/pid"')],
        "pid_file",
        "pid_file can never",
    ),
    "pid file in a root that is only read": (
        [
            ("[names]", '[agent.roots]\nx = { path = "/run/x", on_host = "/run/x" }\n[names]'),
            ('pid_file = "{home}/pid"', 'pid_file = "/run/x/{net}/pid"'),
        ],
        "pid_file",
        "pid_file can never be used",
    ),
    "namespace with an underscore": (
        [('netns = "ns-{net}"', 'netns = "ns_{net}"')],
        "netns",
        "request.netns never produces a name of letters, digits and hyphens",
    ),
    "namespace that is too long": (
        [('netns = "ns-{net}"', 'netns = "{net}-{net}"')],
        "netns",
        "request.netns never produces",
    ),
    "instance with a dot": (
        [('instance = "{net}"', 'instance = "a.{net}"')],
        "instance = ",
        "request.instance never produces",
    ),
    "instance of what nothing binds": (
        [('instance = "{net}"', 'instance = "{other}"'), (NAMES, f'{NAMES}\nother = "<tag>"')],
        "instance = ",
        "request.instance is made of names that nothing in a request binds",
    ),
    "namespace of what nothing binds": (
        [
            ('netns = "ns-{net}"', 'netns = "ns-{other}"\ncaller = "outside"'),
            (NAMES, f'{NAMES}\nother = "<tag>"'),
        ],
        "netns",
        "request.netns is made of names that nothing in a request binds",
    ),
    "a directory over the configuration file": (
        [
            ("scratch =", 'reads = { "/state/conf" = "{home}" }\nscratch ='),
            ('path = "/state/<name>"', 'path = "/state/conf/<name>"'),
        ],
        "path = ",
        "configuration.extra.path is inside a mount of the side container",
    ),
    "a mount inside a mount": (
        [('mounts = ["{home}"]', 'mounts = ["{home}", "{home}/data"]')],
        "mounts = ",
        "side_container.mounts has '{home}/data', which is inside another mount",
    ),
    "a place for reading inside another": (
        [("scratch =", 'reads = { "/run/agent" = "/state", "/run/agent/x" = "/state" }\nscratch =')],
        "reads = ",
        "side_container.reads has /run/agent/x, which is inside a mount",
    ),
    "scratch inside a mount": (
        [("scratch =", 'reads = { "/run" = "/state" }\nscratch =')],
        "scratch = ",
        "which is inside a mount",
    ),
    "a wrapper of another name": (
        [('wrapper = "/usr/sbin/tool"', 'wrapper = "/usr/sbin/tools"')],
        "wrapper",
        "agent.wrapper",
    ),
    "two words at once": (
        [("quiet = true", "go = { required = true }\nstop = { required = true }")],
        "stop = ",
        "a second word is required",
    ),
}


@pytest.mark.parametrize(("changes", "blamed", "said"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_can_never_be_allowed_is_an_error(changes: list[tuple[str, str]], blamed: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(*changes)
    assert caught.value.message.startswith(f"small.toml:{line_of(changed(*changes), blamed)}: ")
    assert said in caught.value.message


POSSIBLE = {
    "one of several is": [
        ('mounts = ["{home}"]', 'mounts = ["{place}"]'),
        (NAMES, f'{NAMES}\nplace = ["/run/{{net}}", "{{home}}"]'),
    ],
    "all of the state can be read": [("scratch =", 'reads = { "/run/agent" = "/state" }\nscratch =')],
    "a name that can have a hyphen": [('netns = "ns-{net}"', 'netns = "<tag>-{net}"')],
    "an instance that a file binds": [
        ('instance = "{net}"', 'instance = "{other}"'),
        (NAMES, f'{NAMES}\nother = "<tag>"'),
        ("log-queries = true", 'log-queries = "{other}"'),
    ],
}


@pytest.mark.parametrize("changes", POSSIBLE.values(), ids=POSSIBLE.keys())
def test_possible_policies_are_accepted(changes: list[tuple[str, str]]) -> None:
    load(*changes)


def test_every_type_has_an_example() -> None:
    for spelling in (*TYPES, "integer 5..9", "ip,...", "integer 0..1,..."):
        assert parse_type(spelling)(example(spelling))
    assert EXAMPLES.keys() <= TYPES.keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POLICY.replace("[agent]", "[agnet]"), ": agnet is not allowed here; did you mean agent?"),
        (POLICY.replace("[names]", "[name]"), ": name is not allowed here; did you mean names?"),
        (POLICY.replace("scratch =", "xyzzy = 1\nscratch ="), "xyzzy is not allowed here"),
    ],
)
def test_a_misspelled_key_names_the_nearest(text: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert said in caught.value.message
