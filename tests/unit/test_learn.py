"""`sidespawn learn` turns what monitor mode allowed into lines that, once pasted, allow exactly that."""

from __future__ import annotations

import json
import string
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidespawn.authoring.generalise import Value, generalise
from sidespawn.cli.learn import Lesson, Seen, learned, read, text
from sidespawn.core.pattern import match_any, parse_pattern
from sidespawn.core.policy import Policy
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Reason
from sidespawn.host.journal import Event, Journal
from sidespawn.host.service import note_excused
from tests.attacks.catalogue import attack
from tests.data import corpus
from tests.unit.shipped import policy_of, request_of
from tests.unit.small import ID, NET, OTHER, POLICY, changed, decide, denial, parse, request

MONITOR = "[agent]", 'mode = "monitor"\n\n[agent]'


class Kept(Journal):
    """Keeps records, as journalctl would show them, instead of sending them."""

    def __init__(self) -> None:
        super().__init__("kept")
        self.kept: list[dict[str, Any]] = []

    def write(self, event: Event, message: str, **fields: str | int) -> None:
        assert event is Event.MONITORED
        assert message.isprintable()
        self.kept.append({f"SIDESPAWN_{name.upper()}": str(value) for name, value in fields.items() if value != ""})


def watch(policy: Policy, *requests: StartRequest, files: dict[str, bytes] | None = None) -> list[Seen]:
    """Return what monitor mode records about these requests."""
    journal = Kept()
    for number, each in enumerate(requests):
        note_excused(journal, decide(policy, each, files), f"{number:032x}")
    seen = [read(record) for record in journal.kept]
    assert None not in seen
    return [each for each in seen if each]


def lines(lessons: list[Lesson]) -> str:
    return "".join(f"{each.line}\n" for each in lessons)


# ---------------------------------------------------------------- monitor mode


@pytest.fixture(scope="module")
def monitor() -> Policy:
    return parse(changed(MONITOR))


@pytest.mark.parametrize(
    ("arguments", "reason", "passed_on"),
    [
        (("-s", "/x"), Reason.OPTION_NOT_ALLOWED, ("--script=/x",)),
        (("--name=a/b",), Reason.VALUE_NOT_ALLOWED, ("--name=a/b",)),
        (("-n", "a", "-n", "b", "-n", "c"), Reason.OPTION_REPEATED, ("--name=a", "--name=b", "--name=c")),
        ((f"--data=/state/{OTHER}/data",), Reason.VALUE_CONFLICT, (f"--data=/state/{OTHER}/data",)),
        (("--data=",), Reason.VALUE_NOT_ALLOWED, ("--data=",)),
    ],
)
def test_arguments_pass_in_their_canonical_form(
    monitor: Policy, arguments: tuple[str, ...], reason: Reason, passed_on: tuple[str, ...]
) -> None:
    # TAG binds the name, like the namespace does, whatever the arguments say.
    allowed = decide(monitor, request(*arguments, TAG=f"tool-{NET}"))
    assert [each.reason for each in allowed.excused] == [reason]
    assert allowed.plan.arguments[-2 - len(passed_on) : -2] == passed_on
    assert (allowed.plan.instance, allowed.plan.netns) == (NET, f"ns-{NET}")
    assert denial(parse(POLICY), request(*arguments)).reason is reason


def test_a_missing_argument_is_noted(monitor: Policy) -> None:
    allowed = decide(monitor, StartRequest(**{**vars(request()), "untrusted_argv": ("tool",)}))
    assert [(each.reason, each.count) for each in allowed.excused] == [(Reason.OPTION_MISSING, 0)]


@pytest.mark.parametrize(
    "untrusted_request",
    [
        request("--unheard-of"),
        request("positional"),
        request("--scr=/x"),
        request("--quiet=1"),
        request(netns=None),
        request(netns="other"),
        request(OTHER="x"),
        request(TAG=f"tool-{OTHER}"),
        request("--file=/elsewhere/x"),
        request("--file=/state/bad"),
        StartRequest(id=ID, deadline=0, untrusted_argv=("sh",), untrusted_netns=f"ns-{NET}", untrusted_environment=()),
    ],
    ids=lambda each: " ".join(each.untrusted_argv[2:]) or str(each.untrusted_netns),
)
def test_everything_but_arguments_stays_refused(monitor: Policy, untrusted_request: StartRequest) -> None:
    files = {"bad": b"surprise=1\n"}
    refusals = []
    for policy in (monitor, parse(POLICY)):
        refusals.append(denial(policy, untrusted_request, files).reason)
    assert refusals[0] == refusals[1]


def test_nothing_else_of_a_plan_changes_with_the_mode(monitor: Policy) -> None:
    assert decide(monitor, request("-q")).plan == decide(parse(POLICY), request("-q")).plan


def test_what_is_not_passed_on_is_not_passed_on_in_monitor_mode_either() -> None:
    policy = parse(changed(MONITOR, ('data = { value = "{home}/data"', 'data = { pass = false, value = "{home}/data"')))
    assert not [each for each in decide(policy, request("--data=/x")).plan.arguments if "data" in each]


# ---------------------------------------------------------------- the round trip

SERVICES = {
    "neutron-dhcp-dnsmasq": corpus.DAEMONS,
    "neutron-l3-radvd": corpus.RADVD,
    "neutron-l3-keepalived": corpus.KEEPALIVED,
    "neutron-l3-keepalived-state-change": corpus.STATE_CHANGE,
    "neutron-l3-conntrackd": corpus.CONNTRACKD,
}
# Without its arguments the router is unknown, and monitor mode invents no name.
NAMED_BY_ARGUMENTS = "neutron-l3-keepalived-state-change"


def service_policy(preset: str, mode: str, options: str) -> Policy:
    own = f'extends = "{preset}"\nmode = "{mode}"\n\n[options]\n{options}'
    return policy_of(own)


def removable(preset: str) -> list[str]:
    """Return all options but those that are always checked: files with rules, the only source of the namespace."""
    options = service_policy(preset, "enforce", "").options
    return [name for name, rule in options.items() if not rule.configuration and name != "namespace"]


def calls(preset: str) -> list[tuple[StartRequest, dict[str, bytes]]]:
    return [(request_of(call), call.beneath) for call in SERVICES[preset]]


@pytest.mark.parametrize(
    ("preset", "removed"),
    [(preset, (name,)) for preset in SERVICES for name in removable(preset)]
    + [(preset, tuple(removable(preset))) for preset in SERVICES if preset != NAMED_BY_ARGUMENTS],
    ids=lambda each: each if isinstance(each, str) else each[0] if len(each) == 1 else "all",
)
def test_what_was_learned_allows_the_recorded_calls_again(preset: str, removed: tuple[str, ...]) -> None:
    taken_back = "".join(f"{name} = false\n" for name in removed)
    policy = service_policy(preset, "monitor", taken_back)
    seen = []
    for number, (each, files) in enumerate(calls(preset)):
        seen += [Seen(**{**vars(one), "request": f"{number}"}) for one in watch(policy, each, files=files)]
    lessons = learned(policy, seen)
    assert {each.option for each in lessons} == {each.option for each in seen} <= set(removed)
    enforcing = service_policy(preset, "enforce", "".join(
        f"{name} = false\n" for name in removed if name not in {each.option for each in lessons}
    ) + lines(lessons))  # fmt: skip
    for each, files in calls(preset):
        decide(enforcing, each, files)
    assert learned(enforcing, seen) == [], "what is there needs not be learned again"


def test_what_was_learned_keeps_instances_apart() -> None:
    preset = "neutron-dhcp-dnsmasq"
    policy = service_policy(preset, "monitor", "dhcp-hostsfile = false\n")
    (each, files), *_ = calls(preset)
    lessons = learned(policy, watch(policy, each, files=files))
    assert lines(lessons) == 'dhcp-hostsfile = "{home}/host"\n'
    assert lessons[0].doubts == ("it reads a file and shows lines of it in the log",)
    other = tuple(
        word.replace(str(each.untrusted_netns)[6:], OTHER) if "hostsf" in word else word for word in each.untrusted_argv
    )
    enforcing = service_policy(preset, "enforce", lines(lessons))
    assert (
        denial(enforcing, StartRequest(**{**vars(each), "untrusted_argv": other}), files).reason
        is Reason.VALUE_CONFLICT
    )


# ---------------------------------------------------------------- lines


def lesson_lines(*arguments: tuple[str, ...], text: str = "") -> str:
    policy = parse(text or changed(MONITOR))
    return lines(learned(policy, watch(policy, *(request(*each) for each in arguments))))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([("--loud",)], "loud = true\n"),
        ([("-x", "-x")], "x = { most = 2 }\n"),
        ([("--name=a/b",)], 'name = { value = ["<tag>", "a/b"], most = 2 }\n'),
        ([("-n", "a", "-n", "b", "-n", "c")], 'name = { value = "<tag>", most = 3 }\n'),
        ([("--log=a,b", "--log")], 'log = { value = ["<tag>", "a,b"], bare = true, most = 2 }\n'),
        ([("-q", "-q")], "quiet = { most = 2 }\n"),
        ([("-s", "7"), ("-s", "9"), ("-s", "8")], 'script = "<integer 7..9>"\n'),
        ([("-s", "/a"), ("-s", "/b")], 'script = ["/a", "/b"]\n'),
    ],
)
def test_the_line_for_an_option(arguments: list[tuple[str, ...]], expected: str) -> None:
    assert lesson_lines(*arguments) == expected
    tomllib.loads(expected)


def test_what_must_not_be_given_any_more() -> None:
    policy = parse(changed(MONITOR))
    missing = Seen(request="1", reason="option-missing", option="data", count=0, value=None, names={})
    assert lines(learned(policy, [missing])) == 'data = { value = "{home}/data", required = false }\n'


def test_doubtful_lines_are_commented_out() -> None:
    policy = parse(changed(MONITOR))
    seen = watch(policy, request("--script=/x", "--loud"), request(f"--data=/state/{OTHER}/data", TAG=f"tool-{NET}"))
    shown = text(policy, learned(policy, seen))
    assert "\n# DANGER: it runs a program\n# script = " in shown
    assert "\n# DANGER: a request for one instance could name the files of another\n# data = " in shown
    assert tomllib.loads(shown) == {"options": {"loud": True}}
    assert all(line.isprintable() for line in shown.splitlines())


@pytest.mark.parametrize("value", ["<x>", "{x}", "a<b", "tag,{x}"])
def test_a_line_that_would_allow_any_text_is_commented_out(value: str) -> None:
    policy = parse(changed(MONITOR))
    learned_lines = text(policy, learned(policy, watch(policy, request(f"--name={value}")))).splitlines()
    assert "# DANGER: any text would be allowed" in learned_lines
    assert [each for each in learned_lines if "<text>" in each and not each.startswith("#")] == []


def test_nothing_to_learn_is_reported() -> None:
    policy = parse(changed(MONITOR))
    assert text(policy, learned(policy, watch(policy, request("-q")))).startswith("# Nothing to learn")


def test_a_truncated_record_is_not_learned() -> None:
    record = {"SIDESPAWN_REQUEST": "1", "SIDESPAWN_REASON": "option-not-allowed", "SIDESPAWN_OPTION": "loud"}
    whole = record | {"SIDESPAWN_COUNT": "1", "SIDESPAWN_NAMES": "{}", "SIDESPAWN_VALUE": json.dumps("x" * 3000)}
    assert read(whole) is not None
    assert read(whole | {"SIDESPAWN_VALUE": whole["SIDESPAWN_VALUE"][:2048]}) is None
    assert read(record) is None


# ---------------------------------------------------------------- patterns

NAMES = {"network": (parse_pattern("<uuid>"),), "home": (parse_pattern("/state/<name>/{network}"),)}
BOUND = {"network": NET, "home": f"/state/dhcp/{NET}"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["5"], ["5"]),
        (["5", "9", "7"], ["<integer 5..9>"]),
        ([f"set:subnet-{OTHER},10.0.0.0,static,255.255.255.0,60s"], ["set:subnet-<uuid>,<ipv4>,static,<netmask>,60s"]),
        (["1h", "2h"], ["<duration>"]),
        (["fa:16:3e:00:00:01,h,10.0.0.2"], ["<mac>,h,<ipv4>"]),
        (["10.0.0.0/24", "fd00::/64"], ["<cidr>"]),
        (["/example.org/10.0.0.1", "/example.org/10.0.0.2"], ["/example.org/<ipv4>"]),
        (["::1", "10.0.0.1"], ["<ipv6>", "<ipv4>"]),
        ([f"/state/dhcp/{NET}/host"], ["{home}/host"]),
        ([f"/state/{NET}/host"], ["/state/{network}/host"]),
        ([f"x{NET}"], ["x<uuid>"]),
        ([f"tag-{NET}-7"], ["tag-{network}-7"]),
        (["a", "b"], ["a", "b"]),
        (["a", "b", "c", "d", "e"], ["<tag>"]),
        (["a.b:c", "d:e"], ["a.b:c", "d:e"]),
        (["<x>", "{y}"], ["<text>"]),
        ([""], [""]),
    ],
)
def test_values_become_patterns(values: list[str], expected: list[str]) -> None:
    assert generalise([Value(each, BOUND) for each in values], NAMES) == (expected, [])


@pytest.mark.parametrize("text", ["<\u00e9>", "\u00e9", "\U0001f600", "x" * 300 + "<"])
def test_a_value_that_no_pattern_allows_is_reported(text: str) -> None:
    value = Value(text, {})
    assert generalise([value], NAMES) == ([], [value])


VALUES = st.lists(
    st.text(alphabet=st.sampled_from(f"{string.ascii_letters}{string.digits}.,:;=/-_<>{{}}[]@%# \"'\\"), max_size=40)
    | st.from_regex(r"(tag|set):[a-z]{1,5}(,[0-9]{1,6}|,10\.0\.0\.[0-9]|,[0-9]{1,3}[smh]){0,3}", fullmatch=True)
    | st.sampled_from([f"/state/dhcp/{NET}/x", f"a-{NET}", f"{OTHER},{NET}", "::1,::2", "fa:16:3e:00:00:01"]),
    min_size=1,
    max_size=12,
)


@given(VALUES)
def test_every_value_is_allowed_by_a_pattern_or_said_to_be_hopeless(values: list[str]) -> None:
    patterns, hopeless = generalise([Value(each, BOUND) for each in values], NAMES)
    parsed = tuple(parse_pattern(each) for each in patterns)
    left = {each.text for each in hopeless}
    for value in values:
        assert (value in left) is (match_any(parsed, value, NAMES, BOUND) is None)
    document = tomllib.loads(f"x = {json.dumps(patterns)}")
    assert document["x"] == patterns


def test_monitor_mode_makes_no_name_up() -> None:
    preset = NAMED_BY_ARGUMENTS
    policy = service_policy(preset, "monitor", "router_id = false\n")
    (each, files), *_ = calls(preset)
    argv = [word for word in each.untrusted_argv if "qrouter-" not in word and word != "--namespace"]
    at = argv.index("--router_id")
    without = StartRequest(**{**vars(each), "untrusted_argv": (argv[0], *argv[at : at + 2])})
    assert denial(policy, without, files).reason is Reason.POLICY_INVALID


@attack(267)
@pytest.mark.parametrize("value", ["<text,...>", "<secret>", "/x/<secret,...>", "a-{network}", "{home}/x", "<uuid>"])
def test_a_value_that_reads_like_a_pattern_is_not_taken_for_one(value: str) -> None:
    """In monitor mode an agent chooses the values; the line that allows any text is marked, and not to be pasted."""
    assert generalise([Value(value, BOUND), Value("plain", BOUND)], NAMES)[0] in (
        ["<text>", "plain"],
        ["plain", "<text>"],
    )
