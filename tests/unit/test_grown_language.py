"""Attacks on later additions to the policy language: roots, lists, secrets, second namespaces, long lines."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sidespawn.agent.wrapper import encode
from sidespawn.core.configuration import accept_configuration
from sidespawn.core.decide import beneath
from sidespawn.core.wire import LONGEST_LINE, StartRequest, parse_request
from sidespawn.errors import Denied, LaunchError, PolicyError, Reason
from sidespawn.host.state import AgentState
from tests.attacks.catalogue import attack
from tests.data.releases import MATRIX_CALLS, MatrixCall
from tests.unit.shipped import policy_of, preset
from tests.unit.small import ID, NET, OTHER, decide, denial, load, request, start_request

MONITOR = "neutron-l3-keepalived-state-change"
NEUTRON = 42435


def recorded(helper: str, option: str = "defaults", release: str = "") -> MatrixCall:
    return next(
        call
        for call in MATRIX_CALLS
        if call.helper == helper and call.option == option and (not release or release in call.releases)
    )


@attack(185)
@pytest.mark.parametrize("what", ["link", "directory link", "pipe", "directory", "the root itself"])
def test_only_regular_files_in_a_root_are_read(tmp_path: Path, what: str) -> None:
    secret, root = tmp_path / "secret", tmp_path / "etc"
    secret.mkdir()
    (secret / "dnsmasq.conf").write_text("root:$6$hash\n")
    if what != "the root itself":
        root.mkdir()
    place = root / "dnsmasq.conf"
    match what:
        case "link":
            place.symlink_to(secret / "dnsmasq.conf")
        case "directory link":
            (root / "d").symlink_to(secret)
            place = root / "d" / "dnsmasq.conf"
        case "pipe":
            os.mkfifo(place)
        case "directory":
            place.mkdir()
        case _:
            root.symlink_to(secret)
    state = AgentState(str(tmp_path / "state"))
    with pytest.raises(LaunchError) as caught:
        state.read(f"{root}//{place.relative_to(root)}", 100)
    assert caught.value.reason is Reason.STATE_UNUSABLE
    assert "hash" not in caught.value.message


@attack(186, answer="policy-invalid")
def test_no_checked_file_is_at_the_place_of_a_mount() -> None:
    """Agents would have a file there while it is judged, and a directory when it is mounted."""
    home = f"/var/lib/neutron/dhcp/{NET}"
    argv = recorded("neutron-dhcp-dnsmasq").argv
    argv = tuple(f"--conf-file={home}" if each.startswith("--conf-file") else each for each in argv)
    call = start_request(argv, f"qdhcp-{NET}", {})
    found = denial(preset("neutron-dhcp-dnsmasq"), call, {f"dhcp/{NET}": b"log-dhcp\n"})
    assert found.reason is Reason.POLICY_INVALID
    assert "is inside a mount" in found.message


@attack(187, answer="policy-invalid")
@pytest.mark.parametrize("place", ["/usr/sbin/tool", "/usr/sbin", "/run/scripts/helper", "/run/scripts"])
def test_no_mount_hides_the_program_or_a_script(place: str) -> None:
    """Operators could cause this with a root at the directory of the image's programs."""
    above, _, last = place.rpartition("/")
    roots = f'[agent.roots]\nx = {{ path = "{above}", on_host = "/srv/x", writable = true }}\n\n[names]\n'
    policy = load(
        ("[names]\n", f'{roots}where = "<name>"\n'),
        ('name = { value = "<tag>", most = 2 }', 'name = { value = "{where}", most = 2 }'),
        ('mounts = ["{home}"]', f'mounts = ["{above}/{{where}}", "{{home}}"]'),
        (
            "[side_container.ready]",
            '[side_container.scripts]\n"/run/scripts/helper" = ["#!/bin/sh"]\n\n[side_container.ready]',
        ),
    )
    assert decide(policy, request("--name=harmless")).plan.mounts
    found = denial(policy, request(f"--name={last}"))
    assert found.reason is Reason.POLICY_INVALID
    assert "is inside a mount" in found.message


@attack(266, answer="policy-invalid")
@pytest.mark.parametrize(
    ("home", "log_home"), [(f"a/{NET}", f"a/{NET}/{NET}"), (f"a/{NET}/5/{NET}", f"a/{NET}"), ("a/5/" + NET, "a/" + NET)]
)
def test_no_mount_is_inside_another(home: str, log_home: str) -> None:
    """Agents would put a link in its place, to have it mounted over a checked file, or over anything else."""
    state = "/var/lib/neutron"
    plain = recorded("neutron-dhcp-dnsmasq").argv
    argv = (*(each.replace(f"dhcp/{NET}", home) for each in plain), f"--log-facility={state}/{log_home}/dhcp_dns_log")
    policy, call = preset("neutron-dhcp-dnsmasq"), start_request(argv, f"qdhcp-{NET}", {})
    if home.startswith("a/5/"):  # side by side
        assert {each.path for each in decide(policy, call, {}).plan.mounts} == {
            f"{state}/{home}",
            f"{state}/{log_home}",
        }
        return
    found = denial(policy, call, {})
    assert found.reason is Reason.POLICY_INVALID
    assert f"{state}/{max(home, log_home, key=len)}' is inside a mount" in found.message


@attack(189)
def test_a_rule_with_a_secret_and_something_else_lets_no_other_word_through() -> None:
    def rules(value: str) -> tuple[tuple[str, str], ...]:
        return ('format = "lines"', 'format = "blocks"'), ("cache-size =", f"password = {value}\ncache-size =")

    mixed, plain = load(*rules('["<secret>", "<tag> <text>"]')), load(*rules('"<secret>"'))
    for text in (b"password a$b", b"password a @b", b"password a b~c", b"password a'"):
        with pytest.raises(Denied, match="a word cannot have"):
            accept(mixed, text)
    assert accept(plain, b"password a$b'@") == "password a$b'@\n"
    for format_ in ("lines", "sections", "quoted"):
        with pytest.raises(PolicyError, match='only format "blocks"'):
            load(("cache-size =", 'password = ["<secret>", "<tag>"]\ncache-size ='), ('"lines"', f'"{format_}"'))


def accept(policy: object, text: bytes) -> str:
    rules = policy.configuration["extra"].rules  # type: ignore[attr-defined]
    return accept_configuration(rules, "/state/x", text, policy.names, {})[0]  # type: ignore[attr-defined]


@attack(190, answer="value-conflict")
@pytest.mark.parametrize("helper", ["neutron-l3-keepalived", "neutron-l3-conntrackd", MONITOR])
@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_the_second_namespace_is_no_way_to_another_router(helper: str, mode: str) -> None:
    policy = policy_of(f'extends = "{helper}"\nmode = "{mode}"\n')
    call = recorded(helper, release="2025.1")
    router = (call.netns or call.argv[2]).partition("-")[2].removeprefix("-namespace=qrouter-")
    for namespace in (f"snat-{OTHER}", f"qrouter-{OTHER}", f"snat-{router}-{OTHER}", "snat-", f"snat-qrouter-{router}"):
        if helper == MONITOR:  # an argument names it; in monitor mode nothing that does not match binds a name
            argv = tuple(each.replace(f"qrouter-{router}", namespace) for each in call.argv)
            changed = start_request(argv, None, {})
        else:
            changed = start_request(call.argv, namespace, call.env)
        files = {beneath(policy, path): text.encode() for path, text in call.files.items()}
        assert denial(policy, changed, files).reason in (
            Reason.VALUE_CONFLICT,
            Reason.VALUE_NOT_ALLOWED,
            Reason.NAMESPACE_NOT_ALLOWED,
            Reason.POLICY_INVALID,
            Reason.CONFIGURATION_NOT_ALLOWED,
        )


@attack(191, answer="value-not-allowed")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("monitor_interface", each) for each in ("ha-1=--user", "ha-1 --user", "ha-1;id", "$(id)", "ha-1\t", "-x")),
        *(("conf_dir", each) for each in ("/var/lib/neutron/a=b/{router}", "/var/lib/neutron/a$b/{router}")),
        *(("monitor_cidr", each) for each in ("169.254.0.1/24=x", "169.254.0.1/24 x", "169.254.0.1/33")),
        *(("log-file", each) for each in ("/dev/stdout", "/etc/cron.d/x", "/var/log/neutron/../x", "/run/monitor/x")),
        *(("user", each) for each in ("root", "0=--config-file", "-1", "0 0")),
        *(("pid_file", each) for each in ("/run/monitor/x", "/var/lib/neutron/external/pids/{router}.pid")),
        *(("state_path", each) for each in ("/var/lib/neutron/ha_confs", "/", "/var/lib/neutron/")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("release", ["2025.1", "2026.2"])
def test_nothing_splits_the_words_of_the_state_change_monitor(release: str, option: str, value: str) -> None:
    """In its shell form, `--name=value` is split at the equals sign."""
    call, policy = recorded(MONITOR, release=release), preset(MONITOR)
    argv = list(call.argv)
    router = next(each for each in argv if each.count("-") >= 4).rpartition("=")[2]
    value = value.format(router=router)
    at = next(n for n, each in enumerate(argv) if each.partition("=")[0] == f"--{option}")
    if "=" in argv[at]:
        argv[at] = f"--{option}={value}"
    else:
        argv[at + 1] = value
    assert denial(policy, start_request(tuple(argv), None, {})).reason in (
        Reason.VALUE_NOT_ALLOWED,
        Reason.OPTION_MALFORMED,
    )


@attack(191, answer="option-unknown")
@pytest.mark.parametrize(
    "option", ["--config-file=/x", "--config-dir=/x", "--use-syslog", "--log-dir=/x", "--root_helper=x"]
)
def test_the_python_monitor_takes_no_option_of_its_library(option: str) -> None:
    """oslo.config would read a file of the agent's, which can name the program to call as root_helper."""
    call = recorded(MONITOR, release="2025.1")
    assert denial(preset(MONITOR), start_request((*call.argv, option), None, {})).reason is Reason.OPTION_UNKNOWN


COMMAS = "a," * 500_000


@attack(196)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--txt-record=" + COMMAS],
        ["--txt-record=a." + "a." * 250_000],
        ["--dhcp-range=set:" + COMMAS],
        ["--server=/" + "a/" * 250_000],
        [f"--dhcp-range=set:a,10.{each % 250}.0.0,static,255.255.255.0,60s," for each in range(8000)],
        ["--dhcp-option-force=" + "option:" * 70_000],
        ["--log-facility=" + "/var/lib/neutron/a" * 28_000],
        ["--dhcp-hostsfile=/var/lib/neutron/" + "a/" * 250_000],
    ],
    ids=lambda arguments: arguments[0][:30],
)
def test_a_long_line_takes_no_longer_to_judge_than_many_short_ones(arguments: list[str]) -> None:
    """It has eight times the usual maximum length, and the worst content for each pattern."""
    fields = {"v": 1, "id": ID, "op": "start", "deadline": 1, "argv": ["dnsmasq"], "netns": f"qdhcp-{NET}", "env": {}}
    arguments = [each[: LONGEST_LINE - 300] for each in arguments]
    line = encode({**fields, "argv": ["dnsmasq", *arguments]}).encode()
    began = time.process_time()
    found = parse_request(line, LONGEST_LINE)
    assert isinstance(found, StartRequest)
    with pytest.raises(Denied):
        decide(preset("neutron-dhcp-dnsmasq"), found)
    assert time.process_time() - began < 4, "it takes 0.3 s at most"


@attack(268, answer="state-unusable")
@pytest.mark.parametrize(
    ("mode", "owner", "is_read"),
    [
        *((0o604, (0, 0), True), (0o640, (0, 0), False), (0o600, (0, 0), False)),
        *((0o640, (0, NEUTRON), True), (0o600, (0, NEUTRON), False), (0o600, (NEUTRON, 0), True)),
        (0o600, (NEUTRON + 1, NEUTRON + 1), False),
    ],
)
def test_the_host_reads_only_files_that_the_agent_may_read(
    tmp_path: Path, mode: int, owner: tuple[int, int], is_read: bool
) -> None:
    """Keep others closed, since a refusal may quote a line."""
    path = tmp_path / "dnsmasq.conf"
    path.write_text("password\n")
    os.chown(path, *owner)
    path.chmod(mode)
    assert AgentState(str(tmp_path)).read("dnsmasq.conf", 100)  # an agent that is root may read everything
    state = AgentState(str(tmp_path), NEUTRON, NEUTRON)
    if is_read:
        assert state.read("dnsmasq.conf", 100) == b"password\n"
        return
    with pytest.raises(LaunchError) as caught:
        state.read("dnsmasq.conf", 100)
    assert caught.value.reason is Reason.STATE_UNUSABLE
    assert "Permission denied" in caught.value.message
