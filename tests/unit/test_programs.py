"""The shipped option tables are complete, and warn of options that reach beyond the program's job."""

from __future__ import annotations

import tomllib

import pytest

from sidespawn import presets
from sidespawn.core.options import Takes
from sidespawn.loading.programs import parse_program

PROGRAMS = sorted(path.stem for path in (presets.DIRECTORY / "programs").glob("*.toml"))

# Options that run code, read, write, signal, or change the program's user, as people type them.
REACHING = {
    "dnsmasq": (
        "-6 --dhcp-script --dhcp-luascript --conf-script -C -7 --servers-file -H --hostsdir -r --dhcp-hostsfile"
        " --dhcp-optsfile --dhcp-hostsdir --dhcp-optsdir -Z --tftp-root -8 -x -l --dumpfile --dnssec-timestamp -u -g"
        " --dhcp-scriptuser --enable-dbus --enable-ubus --ipset --nftset"
    ),
    "haproxy": "-W -Ws -sf -st -f -C -p -x -S",
    "keepalived": "-M -p -r -c -b -A -s -u -i -f -g -t",
    "radvd": "-C -l -p -t -u",
    "conntrackd": "-C -k -F -f -c",
    "dibbler-client": "-w",
    "neutron-keepalived-state-change": (
        "--conf_dir --log-file --pid_file --state_path --namespace --user --group --enable_conntrackd"
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_table_lists_its_version_and_dangers(program: str) -> None:
    table = parse_program(program, presets.read_program(program))
    assert table.version
    assert any(option.danger for option in table.options.values())


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_danger_belongs_to_an_option_and_explains_it(program: str) -> None:
    document = tomllib.loads(presets.read_program(program))
    named = {name for takes in Takes for name in document.get(takes.value, {})}
    for name, danger in document["danger"].items():
        assert name in named
        assert danger == danger.strip(" .")
        assert danger[:1].islower()


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_letter_means_two_options(program: str) -> None:
    table = parse_program(program, presets.read_program(program))
    letters = [option.short for option in table.options.values() if option.short]
    assert len(letters) == len(set(letters))
    assert not set(letters) & set(table.options)


def test_every_table_is_looked_at() -> None:
    assert sorted(REACHING) == PROGRAMS


@pytest.mark.parametrize(
    ("program", "spelling"), [(program, each) for program, line in REACHING.items() for each in line.split()]
)
def test_an_option_that_reaches_further_is_dangerous(program: str, spelling: str) -> None:
    option = parse_program(program, presets.read_program(program)).spelled(spelling)
    assert option is not None
    assert option.danger


@pytest.mark.parametrize(
    ("program", "name", "value", "written"),
    [
        ("haproxy", "f", "/a", ("-f", "/a")),
        ("haproxy", "sf", "1", ("-sf", "1")),
        ("haproxy", "Ws", None, ("-Ws",)),
        ("keepalived", "vrrp_pid", "/a", ("--vrrp_pid=/a",)),
        ("radvd", "config", "/a", ("--config=/a",)),
        ("conntrackd", "C", "/a", ("-C", "/a")),
        ("conntrackd", "f", None, ("-f",)),
        ("neutron-keepalived-state-change", "conf_dir", "/a", ("--conf_dir=/a",)),
        ("neutron-keepalived-state-change", "debug", None, ("--debug",)),
    ],
)
def test_an_option_is_written_as_the_program_reads_it(
    program: str, name: str, value: str | None, written: tuple[str, ...]
) -> None:
    option = parse_program(program, presets.read_program(program)).options[name]
    assert option.written(value) == written
