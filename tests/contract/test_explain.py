"""`sidespawn explain` shows what a call leads to, without root or a prepared host, and without starting anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sidespawn import presets
from sidespawn.cli import presets as preset_files
from sidespawn.cli.check import checked
from sidespawn.cli.explain import preset_policy
from sidespawn.cli.main import cli
from tests.contract.command import printed_json, sidespawn_command
from tests.data.corpus import DAEMONS, EVERY_DAEMON, Call

PRESET = "neutron-dhcp-dnsmasq"
PLAIN = next(call for call in DAEMONS if str(call) == "plain")
EVERYTHING = next(call for call in DAEMONS if str(call) == "everything")


def options(call: Call) -> list[str]:
    return [f"--netns={call.netns}", *(f"--env={name}={value}" for name, value in call.env.items())]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make an agent's file system with its recorded files."""
    tmp_path.chmod(0o755)
    return tmp_path


def lay_out(root: Path, call: Call) -> None:
    (root / "var/lib/neutron").mkdir(parents=True)
    for name, content in call.files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize("call", DAEMONS, ids=str)
def test_every_recorded_call_is_allowed(root: Path, call: Call) -> None:
    lay_out(root, call)
    command = ("explain", "--preset", PRESET, "--json", "--root", root, *options(call), "--", *call.argv)
    done = sidespawn_command(*command)
    assert (done.returncode, done.stderr) == (0, "")
    found = printed_json(done)
    assert found["verdict"] == "allowed"
    assert found["names"]["network"] == str(call.netns).removeprefix("qdhcp-")
    own = [each.removeprefix("--conf-file=") for each in call.argv if each.startswith("--conf-file=/var/")]
    assert [(each["file"], each["verdict"]) for each in found["configuration"]] == [(path, "allowed") for path in own]


def test_json_of_an_allowed_call() -> None:
    done = sidespawn_command("explain", "--preset", PRESET, "--json", *options(PLAIN), "--", *PLAIN.argv)
    found = printed_json(done)
    assert found.keys() == {
        *("verdict", "instance", "name", "program", "arguments", "names", "configuration", "capabilities", "user"),
        "engine_command", "only_in_monitor_mode",
    }  # fmt: skip
    assert found["only_in_monitor_mode"] == []
    assert found["instance"] == PLAIN.netns
    assert found["name"] == f"{PRESET}_{PLAIN.netns}"
    assert found["program"][0] == "/usr/sbin/dnsmasq"
    assert found["engine_command"][-len(found["program"]) + 1 :] == found["program"][1:]
    assert found["capabilities"] == ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"]
    assert [each["argument"] for each in found["arguments"]] == list(PLAIN.argv[1:])
    for each in found["arguments"]:
        assert each.keys() == {"argument", "passed_on", "rule"}
        file, _, line = each["rule"].rpartition(":")
        assert file.endswith(f"{PRESET}.toml")
        assert line.isdecimal()


def test_json_of_a_refused_call() -> None:
    argv = [*PLAIN.argv, "--conf-script=/tmp/x"]
    done = sidespawn_command("explain", "--preset", PRESET, "--json", *options(PLAIN), "--", *argv)
    assert done.returncode == 77
    found = printed_json(done)
    assert found.keys() == {"verdict", "reason", "message", "hint", "argument", "rule", "arguments"}
    assert (found["verdict"], found["reason"]) == ("refused", "option-not-allowed")
    assert found["argument"] == "--conf-script=/tmp/x"
    assert [each["argument"] for each in found["arguments"]] == list(PLAIN.argv[1:])  # what was allowed first


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--conf-scr=/tmp/x"], "option-unknown"),
        (["-6/tmp/x"], "option-unknown"),
        (["--user=root"], "option-not-allowed"),
        (["eth0"], "positional-not-allowed"),
        (["--json"], "option-unknown"),  # after --, so it belongs to the program
        (["--domain=a\nb"], "bad-request"),
        (["--domain=\u202e"], "bad-request"),
        (["--server=[/red]"], "value-not-allowed"),
    ],
)
def test_a_refused_call(arguments: list[str], reason: str) -> None:
    done = sidespawn_command("explain", "--preset", PRESET, *options(PLAIN), "--", *PLAIN.argv, *arguments)
    assert done.returncode == 77
    assert f"\nrefused ({reason}): " in f"\n{done.stdout}"
    assert done.stderr == ""


@pytest.mark.parametrize("text", ["[bold]x", "[/x]", "[red]", "a [b] c"])
def test_what_looks_like_markup_is_shown_as_it_is(text: str) -> None:
    argument = f"--txt-record=host,{text}"
    done = sidespawn_command("explain", "--preset", PRESET, *options(PLAIN), "--", *PLAIN.argv, argument)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(argument) >= 2  # as given, and as passed on


def test_a_call_from_no_namespace_is_refused() -> None:
    done = sidespawn_command("explain", "--preset", PRESET, "--json", "--", *PLAIN.argv)
    assert printed_json(done)["reason"] == "namespace-not-allowed"


def test_a_configuration_file_is_judged_line_by_line(root: Path) -> None:
    lay_out(root, EVERYTHING)
    file = root / "var/lib/neutron/dnsmasq-neutron.conf"
    file.write_text("log-dhcp\nconf-script=/tmp/x\n")
    command = ("explain", "--preset", PRESET, "--json", "--root", root, *options(EVERYTHING), "--", *EVERYTHING.argv)
    done = sidespawn_command(*command)
    assert done.returncode == 77
    found = printed_json(done)
    assert found["reason"] == "configuration-not-allowed"
    assert "line 2 of '/var/lib/neutron/dnsmasq-neutron.conf', 'conf-script=/tmp/x'," in found["message"]


@pytest.mark.parametrize("make", ["nothing", "link", "pipe"])
def test_a_configuration_file_that_cannot_be_read_here_is_judged_as_by_a_start(root: Path, make: str) -> None:
    lay_out(root, EVERYTHING)
    file = root / "var/lib/neutron/dnsmasq-neutron.conf"
    file.unlink()
    if make == "link":
        file.symlink_to("/etc/passwd")
    elif make == "pipe":
        os.mkfifo(file)
    command = ("explain", "--preset", PRESET, "--json", "--root", root, *options(EVERYTHING), "--", *EVERYTHING.argv)
    found = printed_json(sidespawn_command(*command))
    if make == "nothing":
        assert found["configuration"][0]["verdict"] == "to be checked at the start"
    else:
        assert (found["verdict"], found["reason"]) == ("refused", "state-unusable")


def test_a_file_that_is_too_large_for_a_start_is_refused(root: Path) -> None:
    lay_out(root, EVERYTHING)
    (root / "var/lib/neutron/dnsmasq-neutron.conf").write_text("log-dhcp\n" * 40_000)
    command = ("explain", "--preset", PRESET, "--json", "--root", root, *options(EVERYTHING), "--", *EVERYTHING.argv)
    found = printed_json(sidespawn_command(*command))
    assert (found["verdict"], found["reason"]) == ("refused", "configuration-not-allowed")


def test_a_root_that_is_the_state_itself_is_noticed(root: Path) -> None:
    lay_out(root, EVERYTHING)
    below = root / "var/lib/neutron"
    done = sidespawn_command(
        "explain", "--preset", PRESET, "--root", below, *options(EVERYTHING), "--", *EVERYTHING.argv
    )
    assert done.returncode == 64
    assert "the agent's whole path" in done.stderr.replace("\n", " ")


def test_it_needs_no_root_and_starts_nothing(root: Path) -> None:
    lay_out(root, PLAIN)
    command = ("explain", "--preset", PRESET, "--json", *options(PLAIN), "--", *PLAIN.argv)
    as_root = sidespawn_command(*command)
    as_nobody = sidespawn_command(*command, as_nobody=True)
    assert (as_nobody.returncode, as_nobody.stderr) == (0, "")
    assert as_nobody.stdout == as_root.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["explain"], 64),
        (["explain", "--", "dnsmasq"], 64),  # no preset: the first word names a service
        (["explain", "--preset", "nothing", "--", "dnsmasq"], 78),
        (["explain", "--preset", "../x", "--", "dnsmasq"], 78),
        (["explain", "No-Service", "--", "dnsmasq"], 64),
        (["explain", "--preset", PRESET, "--nothing", "--", "dnsmasq"], 64),
        (["explain", "--preset", PRESET, "--root", "/nothing", "--", "dnsmasq"], 64),
    ],
)
def test_wrong_use(arguments: list[str], code: int) -> None:
    done = sidespawn_command(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# ---------------------------------------------------------------- every helper of Neutron

PRESETS = {
    ("dnsmasq", "qdhcp"): "neutron-dhcp-dnsmasq",
    ("haproxy", "qdhcp"): "neutron-dhcp-haproxy",
    ("haproxy", "qrouter"): "neutron-l3-haproxy",
    ("haproxy", "ovnmeta"): "neutron-ovn-metadata-haproxy",
    ("haproxy", ""): "neutron-ovs-metadata-haproxy",
    ("radvd", "qrouter"): "neutron-l3-radvd",
    ("keepalived", "qrouter"): "neutron-l3-keepalived",
    ("conntrackd", "qrouter"): "neutron-l3-conntrackd",
    ("neutron-keepalived-state-change", ""): "neutron-l3-keepalived-state-change",
}
OTHERS = [call for call in EVERY_DAEMON if call.program != "dnsmasq"]


@pytest.mark.parametrize("call", OTHERS, ids=lambda call: f"{call.program}: {call.variant}")
def test_every_recorded_call_of_another_helper_is_allowed(
    root: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(root, call)
    preset = PRESETS[call.program, (call.netns or "").partition("-")[0]]
    said = options(call)[0 if call.netns else 1 :]
    arguments = ["explain", "--preset", preset, "--json", f"--root={root}", *said, "--", *call.argv]
    code = cli.main(arguments, prog_name="sidespawn", standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert (code, found["verdict"]) == (0, "allowed"), found
    assert all(each["verdict"] == "allowed" for each in found["configuration"])
    assert [each["file"] for each in found["configuration"]] == list(call.files)


def test_every_preset_but_the_one_for_older_releases_has_recorded_calls() -> None:
    assert sorted({*PRESETS.values(), "neutron-l3-dibbler"}) == list(presets.names())
    assert {(call.program, (call.netns or "").partition("-")[0]) for call in EVERY_DAEMON} == set(PRESETS)


@pytest.mark.parametrize("name", presets.names())
def test_a_wrapper_is_where_the_program_is_looked_for_first(name: str) -> None:
    """Outside a namespace rootwrap takes the first match in exec_dirs and ignores a wrapper in a later directory."""
    wrapper = Path(preset_policy(name).agent.wrapper)
    assert str(wrapper.parent) in ("/usr/sbin", "/usr/bin")
    assert wrapper.name == preset_policy(name).table.program


def test_a_variable_that_a_wrapper_omits_is_omitted_and_reported() -> None:
    arguments = ["explain", "--preset", "neutron-dhcp-dnsmasq", *options(PLAIN), "--env", "LANG=C", "--env", "X"]
    done = sidespawn_command(*arguments, "--", *PLAIN.argv)
    assert done.returncode == 0, done.stdout
    assert "the wrapper leaves out 'LANG'" in done.stderr
    assert "the wrapper leaves out 'X'" in done.stderr
    assert "PROCESS_TAG" not in done.stderr
    wrong = sidespawn_command(*arguments, "--env", "PROCESS_TAG=x", "--", *PLAIN.argv)
    assert wrong.returncode == 77
    assert "environment variable 'PROCESS_TAG'" in wrong.stdout


@pytest.mark.parametrize(("number", "code"), [(500, 0), (900, 64)])
def test_a_call_too_long_for_a_request_is_not_called_allowed(number: int, code: int) -> None:
    """Unless the policy allows longer requests, the wrapper refuses it."""
    tag = "subnet-0065347c-3513-59a1-aef3-65d693fe6e19"
    ranges = [f"--dhcp-range=set:{tag},10.20.{each % 250}.0,static,255.255.255.0,86400s" for each in range(number)]
    arguments = ["explain", "--preset", "neutron-dhcp-dnsmasq", *options(PLAIN), "--", *PLAIN.argv, *ranges]
    done = sidespawn_command(*arguments)
    assert (done.returncode == 0) is (code == 0), done.stdout[-300:] + done.stderr
    assert ("longer than 65536 bytes" in done.stdout + done.stderr) is (code != 0)


def test_a_preset_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge the host's own text, as `enable` and `presets` do, instead of the one that ships."""
    monkeypatch.setattr(preset_files, "OWN", tmp_path)
    for name in ("mine", PRESET):
        (tmp_path / f"{name}.toml").write_text(f'extends = "neutron-dhcp-haproxy"\ndescription = "own {name}"\n')
        assert preset_policy(name).description == f"own {name}"
        judged = checked(name)
        assert judged.policy is not None
        assert (judged.error, judged.policy.description) == (None, f"own {name}")
