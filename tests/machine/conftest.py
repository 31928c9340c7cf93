"""Tests on a real machine: `./dev vm test`. A plain `./dev test` leaves them out.

They run on the development machine and act in the machine through its fixture. A test or a module belongs to a part by
the marker `part("NAME")`; what is reported for a part is whether all its tests passed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.machine import results
from vm import machines
from vm.machine import Machine
from vm.recipes import Module, Recipe, Release

FACTS = """
echo "kernel $(uname -r)"
echo "systemd $(systemctl --version | awk 'NR == 1 { print $2 }')"
echo "podman $(podman version --format '{{.Client.Version}}')"
echo "docker $(docker version --format '{{.Server.Version}}' 2>/dev/null)"
echo "python $(python3 -c 'import platform; print(platform.python_version())')"
"""
# What security modules say of themselves.
MODE = {
    Module.APPARMOR: "aa-enabled && aa-status --enabled && echo enforcing",
    Module.SELINUX: "getenforce",
    Module.NONE: "! aa-enabled --quiet && [[ ! -e /sys/fs/selinux/enforce ]] && echo off",
}

KEEPER, KEEPER_STATE = "keeper", "/var/lib/keeper"
KEEP = f"sidespawn enable {KEEPER} --preset=neutron-dhcp-dnsmasq"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("machine")
    group.addoption("--release", type=Release, choices=tuple(Release), default=Release.TRIXIE)
    group.addoption("--module", type=Module, choices=tuple(Module), default=Module.APPARMOR)
    group.addoption("--report", type=Path, help="write versions and parts to this file, as JSON")
    group.addoption("--short", action="store_true", help="only what CI runs each time")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long unless it was asked for, by `--all` or by its name."""

    def is_wanted(item: pytest.Item) -> bool:
        if config.getoption("--short"):
            return item.get_closest_marker("short") is not None
        named = config.getoption("--all") or any("::" in argument for argument in config.args)
        return named or item.get_closest_marker("slow") is None

    config.hook.pytest_deselected(items=[each for each in items if not is_wanted(each)])
    items[:] = filter(is_wanted, items)
    if config.getoption("--module") is Module.SELINUX:
        # Those that need a host without our module come first: it is installed once, and stays.
        items.sort(key=lambda item: "with_selinux_module" in item.fixturenames)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """The kind of machine that was asked for."""
    return Recipe(release=request.config.getoption("--release"), module=request.config.getoption("--module"))


@pytest.fixture(scope="session")
def machine(recipe: Recipe, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """One machine for all tests, booted once. Tests leave it as they found it."""
    with machines.temporary(recipe, "test") as booted:
        request.config.stash[FACTS_KEY] = facts(booted, recipe)
        yield booted


@pytest.fixture(scope="session")
def with_selinux_module(recipe: Recipe, request: pytest.FixtureRequest) -> Iterator[None]:
    """Where the machine has SELinux, a service keeps the module installed: installing it takes minutes each time."""
    if recipe.module is not Module.SELINUX:
        yield
        return
    machine = request.getfixturevalue("machine")
    machine.run(f"mkdir -p {KEEPER_STATE} && {KEEP} --set=state_on_host={KEEPER_STATE}", timeout=180)
    yield
    machine.run(f"sidespawn disable --purge {KEEPER} && rm -r {KEEPER_STATE}", timeout=180)


@pytest.fixture
def fresh_machine(recipe: Recipe, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine for this test alone, which may do to it what it likes."""
    with machines.temporary(recipe, "fresh") as booted:
        if FACTS_KEY not in request.config.stash:
            request.config.stash[FACTS_KEY] = facts(booted, recipe)
        yield booted


FACTS_KEY = pytest.StashKey[dict[str, str]]()
PARTS_KEY = pytest.StashKey[dict[str, bool]]()
SECONDS_KEY = pytest.StashKey[dict[str, float]]()


def facts(booted: Machine, recipe: Recipe) -> dict[str, str]:
    """The versions of what matters, and what the security module says of itself."""
    versions = dict(line.partition(" ")[::2] for line in booted.run(FACTS, timeout=60).stdout.splitlines())
    mode = booted.run(MODE[recipe.module], check=False).stdout.split()
    return {**versions, "mode": mode[-1].lower() if mode else "unknown"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    parts = item.config.stash.setdefault(PARTS_KEY, {})
    seconds = item.config.stash.setdefault(SECONDS_KEY, {})
    for mark in item.iter_markers("part"):
        name = mark.args[0]
        seconds[name] = seconds.get(name, 0) + call.duration
        if report.failed:  # at once, since the other tests may take an hour
            item.config.get_terminal_writer().line(f"\n{report.longreprtext}")
        # Each test reports three times; a part holds when all were passed, and is left out when none ran.
        if report.failed or (report.when == "call" and not report.skipped):
            parts[name] = parts.get(name, True) and report.passed
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    target = config.getoption("--report")
    if target is not None:
        versions = config.stash.get(FACTS_KEY, None) or {}
        parts = dict(sorted(config.stash.get(PARTS_KEY, {}).items()))
        took = config.stash.get(SECONDS_KEY, {})
        result = {
            "release": config.getoption("--release"),
            "module": config.getoption("--module"),
            **versions,
            "parts": parts,
            "seconds": {name: round(took[name]) for name in parts},
        }
        target.write_text(json.dumps(result) + "\n")
        if os.environ.get("SIDESPAWN_WRITE_TABLE") == "1" and versions:
            results.add(result)
