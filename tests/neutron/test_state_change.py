"""neutron-keepalived-state-change of releases before 29, a Python program in the release, as a side container."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidespawn.authoring.example_calls import ExampleCall, example_calls
from sidespawn.system.processes import identify
from tests.lab.conftest import new_service
from tests.lab.networks import NEUTRON, command, wait_until
from tests.lab.reports import Reports, is_watching
from tests.lab.test_state_change import MONITOR, Watched
from tests.neutron.releases import OLD, VENVS, image_of
from tests.unit.shipped import preset

PROGRAM = "neutron-keepalived-state-change"


class WatchedInPython(Watched):
    """Called as these releases do: each value in the same argument as its option, and with PROCESS_TAG."""

    def options(self) -> list[str]:
        apart = super().options()
        return [f"{name}={value}" for name, value in zip(apart[::2], apart[1::2], strict=True)]

    def start(self, *more: str) -> tuple[int, str]:
        tag = f"PROCESS_TAG={MONITOR}-{self.id}.monitor"
        return self.run("env", tag, str(self.service.wrapper), *self.options(), *more)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with image_of(OLD) as name:
        yield name


@pytest.fixture
def router(image: str) -> Iterator[WatchedInPython]:
    service = new_service(PROGRAM)
    parameters = (f"image={image}", f"script={VENVS[OLD]}/bin/{PROGRAM}", f"state_on_host={service.state}")
    service.enable("--preset=neutron-l3-keepalived-state-change", *(f"--set={each}" for each in parameters))
    made = WatchedInPython(service, str(uuid.uuid4()))
    for path in ("external", "external/pids", "ha_confs", f"ha_confs/{made.id}"):
        (service.state / path).mkdir()
        os.chown(service.state / path, NEUTRON, NEUTRON)
    command("ip", "netns", "add", made.netns)
    command("ip", "-n", made.netns, "link", "add", "ha-test", "type", "veth", "peer", "name", "far")
    for name in ("lo", "far", "ha-test"):
        command("ip", "-n", made.netns, "link", "set", name, "up")
    yield made
    service.clean()
    command("ip", "netns", "del", made.netns)


def test_it_reports_to_the_agent_also_after_the_agents_restart(router: WatchedInPython) -> None:
    reports = Reports(router.service.state / "keepalived-state-change")
    with reports.served():
        assert router.start() == (0, "")
        pid = router.pid
        wait_until(lambda: is_watching(pid))
        wait_until(lambda: reports.told == [(router.id, "backup")])
        router.address("add")
        wait_until(lambda: (router.id, "primary") in reports.told)
        assert router.state == "primary"

        status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(NEUTRON)] * 4
        assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == [0] * 4
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{router.netns}").st_ino
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        assert f"{router.id}.monitor" in arguments  # how Neutron recognises it
        assert int(status["VmHWM"].split()[0]) < 200 * 1024  # within the preset's limit

    with reports.served():
        router.address("del")
        wait_until(lambda: reports.told[-1] == (router.id, "backup"))
        assert router.state == "backup"
    assert router.start() == (0, "")
    assert router.pid == pid  # running already

    assert router.kill("15", pid) == (0, "")
    assert identify(pid) is None
    assert not router.pid_file.exists()
    assert router.service.containers() == {}


def test_the_initial_state_is_that_of_the_interface(router: WatchedInPython) -> None:
    router.address("add")
    with Reports(router.service.state / "keepalived-state-change").served():
        assert router.start("--debug") == (0, "")
        wait_until((router.service.state / "ha_confs" / router.id / "state").exists)
        wait_until(lambda: router.state == "primary")
        assert router.kill("9") == (0, "")
        assert command("ip", "netns", "pids", router.netns).stdout == ""


PARSED = """
import sys
from neutron.agent.l3 import keepalived_state_change as program
from oslo_config import cfg
program.keepalived.register_cli_l3_agent_keepalived_opts()
program.keepalived.register_l3_agent_keepalived_opts()
program.config.setup_logging = lambda: None
program.configure(cfg.CONF)
print(cfg.CONF.router_id, cfg.CONF.namespace)
"""


EXAMPLES = [
    call
    for call in example_calls(preset("neutron-l3-keepalived-state-change"))
    if call.rule != "enable_conntrackd"  # new in 2025.1
]


@pytest.mark.parametrize("call", EXAMPLES, ids=lambda call: call.rule)
def test_the_release_takes_each_example(call: ExampleCall) -> None:
    """Try those of `sidespawn check --examples`; tests/lab/test_examples.py has those of the other presets."""
    argv = (str(VENVS[OLD] / "bin/python"), "-c", PARSED, *call.argv[1:])
    given = dict(word.removeprefix("--").partition("=")[::2] for word in call.argv[1:])
    assert command(*argv).stdout.split() == [given["router_id"], given["namespace"]]
