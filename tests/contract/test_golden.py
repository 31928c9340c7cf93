"""The exact output of each verb: plain, as JSON, and its errors, as far as no host is needed.

A file in golden/ holds the command, its output and its exit code. SIDESPAWN_WRITE_GOLDEN=1 rewrites them; read the
difference before you commit it. What depends on the host is left out: its warnings, and line numbers of presets.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidespawn.cli import main as command
from sidespawn.cli import output, top
from sidespawn.cli.main import cli
from sidespawn.errors import Reason, SidespawnError
from sidespawn.service_report.figures import Figures, Limits, PolicyFacts
from sidespawn.setup import services
from sidespawn.system.places import Places
from tests.contract.command import SOURCE, sidespawn_command

LOOK = "  sidespawn check says what is wrong with this host\n"
GOLDEN = Path(__file__).parent / "golden"
UUID = "4f3c1f4e-8a5b-4f2e-9a36-2f1d7b0c5e11"
EXPLAIN = f"explain --preset neutron-l3-radvd --netns qrouter-{UUID}"
RADVD = f"radvd --pidfile=/var/lib/neutron/external/pids/{UUID}.pid.radvd"

# File, and what it is about. No host has services with these names.
CASES = {
    "help": "--help",
    "no-verb": "",
    "unknown-verb": "chek",
    "unknown-verb-json": "chek --json",
    "unknown-verb-far": "frobnicate",
    "unknown-option": "ps --jsn",
    "agent-options-error": "agent-options no-such-service",
    "agent-options-error-json": "agent-options no-such-service --json",
    "check": "check neutron-l3-radvd",
    "check-json": "check neutron-l3-radvd --json",
    "check-error": "check neutron-l3-radvdd",
    "check-error-json": "check neutron-l3-radvdd --json",
    "check-unreadable": "check /etc",
    "demo-error": "demo --engine",
    "demo-error-json": "demo --engine=lxc --json",
    "disable-error": "disable No_Service",
    "disable-error-json": "disable No_Service --json",
    "enable-error": "enable no-such-service --dry-run",
    "enable-error-json": "enable neutron-l3-radv --dry-run --json",
    "enable-policy-error": "enable neutron-l3-radvd --dry-run --policy /no-such-file",
    "enable-policy-error-json": "enable neutron-l3-radvd --dry-run --json --policy /no-such-file",
    "enable-policy-usage": "enable neutron-l3-radvd --dry-run --policy /no-such-file --mode monitor",
    "doctor-error": "doctor --jsno",
    "doctor-error-json": "doctor --verbose --json",
    "explain-incomplete": f"{EXPLAIN} -- {RADVD}",
    "explain-refused": f"{EXPLAIN} -- {RADVD} --chrootdir=/",
    "explain-refused-json": f"{EXPLAIN} --json -- {RADVD} --chrootdir=/",
    "explain-error": "explain --preset neutron-l3-radv -- radvd",
    "explain-error-json": "explain --preset neutron-l3-radv --json -- radvd",
    "explain-local": "explain --preset neutron-l3-radvd -- radvd --version",
    "learn-error": "learn no-such-service",
    "learn-error-json": "learn no-such-service --json",
    "logs-error": "logs No_Service",
    "logs-error-json": "logs No_Service --json",
    "metrics-error": "metrics --jsno",
    "options-error": "options no-such-service",
    "options-error-json": "options no-such-service --json",
    "presets": "presets",
    "presets-json": "presets --json",
    "presets-list": "presets list",
    "presets-show": "presets show neutron-ovn-metadata-haproxy",
    "presets-show-json": "presets show neutron-ovn-metadata-haproxy --json",
    "presets-error": "presets show neutron-ovn-haproxy",
    "presets-error-json": "presets show neutron-ovn-haproxy --json",
    "presets-unknown-verb": "presets lst",
    "ps-error": "ps no-such-service",
    "ps-error-json": "ps no-such-service --json",
    "scan-error": "scan --jsno",
    "scan-error-json": "scan podman --json",
    "signal-error": "signal no-such-service one HUP",
    "signal-error-json": "signal no-such-service one HUP --json",
    "stop-error": "stop no-such-service --all",
    "stop-error-json": "stop no-such-service --all --json",
    "top-error": "top no-such-service --once",
    "top-error-json": "top no-such-service --once --json",
    "top-interval": "top --interval 0",
    "sync-error": "sync no-such-service",
}


def outcome(arguments: str) -> str:
    done = sidespawn_command(*shlex.split(arguments))
    text = f"$ sidespawn {arguments}\n{done.stdout}"
    if done.stderr:
        text += f"--- standard error\n{done.stderr}"
    return of_any_host(f"{text}--- exit code {done.returncode}\n")


def of_any_host(text: str) -> str:
    """Return the text without what depends on the host or on a preset's lines."""
    # JSON has a list of warnings, plain output has one on each line.
    text = re.sub(r'"warnings": \[[^\]]*\]', '"warnings": []', text)
    text = re.sub(r"^  (?:warning|problem) .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"(\.toml):\d+", r"\1:LINE", text.replace(str(SOURCE), "SOURCE"))
    text = re.sub(r"services with a policy: .*?(?=[\"\n])", "services with a policy: …", text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_output_is_what_was_agreed_on(name: str) -> None:
    found = outcome(CASES[name])
    assert agreed(name, found) == found
    assert "Traceback" not in found
    assert not re.search(r"\[?Errno \d|\berrno\b", found)


def agreed(name: str, found: str) -> str:
    """Return the text of the golden file, after writing it on request."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("SIDESPAWN_WRITE_GOLDEN"):
        path.write_text(found)
    return path.read_text()


def test_each_summary_in_the_help_fits_a_line() -> None:
    lines = sidespawn_command("--help").stdout.partition("Set up:")[2].splitlines()
    assert [line for line in lines if line.startswith("    ")] == []


# ---------------------------------------------------------------- top, with services

LIVE = {"top": "top --once", "top-json": "top --once --json"}
SERVING = Figures(
    service="neutron-dhcp-dnsmasq",
    is_active=True,
    policy=PolicyFacts(digest="0123456789abcdef", engine="podman", mode="enforce"),
    limits=Limits(
        used={"instances": 2, "burst": 7}, allowed={"instances": 1000, "burst": 2000}, waiting=0, backing_off=0
    ),
    side_containers={"running": 1, "adopted": 0, "orphan": 0, "exited": 1},
    counts={"answers running ok": 4, "answers done ok": 1, "answers rejected option-not-allowed": 2},
)
LIMITED = Figures(
    service="neutron-l3-radvd",
    is_active=True,
    policy=PolicyFacts(digest="0123456789abcdef", engine="podman", mode="monitor"),
    limits=Limits(
        used={"instances": 3, "burst": 2000}, allowed={"instances": 3, "burst": 2000}, waiting=2048, backing_off=1
    ),
    side_containers={"running": 3, "adopted": 0, "orphan": 0, "exited": 0},
    counts={"answers running ok": 3, "answers failed image-missing": 1},
    unanswered=2,
    oldest=7.4,
)
BROKEN = Figures(
    service="neutron-dhcp-haproxy", is_active=False, policy=None, limits=None, side_containers={}, counts={}
)
RUNNING = top.SideContainer(
    service="neutron-dhcp-dnsmasq",
    name=f"neutron-dhcp-dnsmasq_qdhcp-{UUID}",
    state="running",
    pid=4711,
    age=3725.0,
    memory=3 << 20,
    netns=f"qdhcp-{UUID}",
)
EXITED = top.SideContainer(
    service="neutron-dhcp-dnsmasq",
    name="neutron-dhcp-dnsmasq_qdhcp-two",
    state="exited",
    pid=4712,
    age=61.0,
    memory=None,
    netns="qdhcp-two",
)


@pytest.mark.parametrize("name", LIVE)
def test_top_with_services(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{SERVING.service}.toml").touch()
    monkeypatch.setattr(services, "POLICIES", tmp_path)
    monkeypatch.setattr(top, "gather", lambda: [SERVING, BROKEN, LIMITED])
    monkeypatch.setattr(
        top, "side_containers", lambda places, _: [RUNNING, EXITED] if places.service == SERVING.service else []
    )
    monkeypatch.setattr(time, "time", lambda: 1800000000.0)
    done = CliRunner().invoke(cli, shlex.split(LIVE[name]))
    found = f"$ sidespawn {LIVE[name]}\n{done.output}--- exit code {done.exit_code}\n"
    assert agreed(name, found) == found


# ---------------------------------------------------------------- without services, and with one


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["ps"], "no service is enabled on this host; see: sidespawn enable --help\n"),
        (["ps", "--limits"], "no service is enabled on this host; see: sidespawn enable --help\n"),
        (["ps", "--json"], "[]\n"),
        (["top", "--once"], "no service is enabled on this host; see: sidespawn enable --help\n"),
    ],
    ids=" ".join,
)
def test_a_host_without_services(
    arguments: list[str], printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "POLICIES", tmp_path)
    assert CliRunner().invoke(cli, arguments).output == printed


@pytest.mark.parametrize("verb", ["ps", "stop"])
def test_a_service_that_was_disabled(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`disable` keeps the policy, so the service only needs enabling."""
    monkeypatch.setattr(output, "Places", partial(Places, policies=tmp_path))
    (tmp_path / "kept.toml").touch()
    failed = CliRunner().invoke(cli, [verb, "kept", *(["--all"] if verb == "stop" else [])])
    assert isinstance(failed.exception, SidespawnError)
    assert (failed.exception.reason, failed.exception.hint) == (Reason.NOT_ENABLED, "enable it: sidespawn enable kept")


@pytest.mark.parametrize(
    ("service", "hint"),
    [
        ("neutron-dhcp-dnsmsq", "did you mean neutron-dhcp-dnsmasq?"),
        ("quite-another", "services with a policy: neutron-dhcp-dnsmasq, other"),
    ],
)
@pytest.mark.parametrize("verb", ["ps", "stop", "options"])
def test_a_misspelt_service(
    verb: str, service: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("neutron-dhcp-dnsmasq", "other"):
        (tmp_path / f"{name}.toml").touch()
    monkeypatch.setattr(services, "POLICIES", tmp_path)
    failed = CliRunner().invoke(cli, [verb, service, *(["--all"] if verb == "stop" else [])])
    assert isinstance(failed.exception, SidespawnError)
    assert failed.exception.hint == hint


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (PermissionError(13, "Permission denied", "/etc/sidespawn/x.toml"),
         "sidespawn: /etc/sidespawn/x.toml: permission denied (host-unsuitable)\n  run it as root\n"),
        (FileNotFoundError(2, "No such file or directory", "/usr/bin/journalctl"),
         f"sidespawn: /usr/bin/journalctl: no such file or directory (internal)\n{LOOK}"),
        (OSError(28, "No space left on device"),
         f"sidespawn: no space left on device (internal)\n{LOOK}"),
    ],
    ids=["permission", "missing", "full"],
)  # fmt: skip
def test_an_error_of_the_system_has_no_number(
    error: OSError, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(command.cli, "main", fail)
    monkeypatch.setattr(sys, "argv", ["sidespawn", "ps"])
    with pytest.raises(SystemExit):
        command.main()
    assert capsys.readouterr().err == printed


# ---------------------------------------------------------------- colour


def test_a_pipe_gets_no_colour() -> None:
    assert "\x1b" not in sidespawn_command("check", "neutron-l3-radvd").stdout


@pytest.mark.parametrize(("variable", "coloured"), [("TERM", True), ("NO_COLOR", False)])
def test_a_terminal_has_colour_unless_told_otherwise(variable: str, coloured: bool) -> None:
    assert ("\x1b[32m" in on_a_terminal("check", "neutron-l3-radvd", **{variable: "xterm"})) == coloured


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """Return what the command writes to a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        launcher = "from sidespawn.cli.main import main; main()"
        os.execve(
            sys.executable,
            [sys.executable, "-c", launcher, *arguments],
            {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TERM": "xterm", **environment},
        )
    found = b""
    try:
        while more := os.read(terminal, 65536):
            found += more
    except OSError:  # EIO: the other end is closed
        pass
    os.close(terminal)
    os.waitpid(child, 0)
    return found.decode()


def test_a_reader_that_leaves_early_gets_no_complaint() -> None:
    launcher = "from sidespawn.cli.main import main; main()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", launcher, "presets", "show", "neutron-dhcp-dnsmasq"],
        stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode != 0, done.stderr) == (True, "")
