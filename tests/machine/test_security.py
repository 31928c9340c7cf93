"""The security module is the one that was asked for, and it refuses things."""

from __future__ import annotations

import pytest

from tests.machine.inner import run_inside
from vm.machine import Machine
from vm.recipes import Module, Recipe, Release

_APPARMOR = """
set -e
printf 'profile refuses { /{,**} rmix, deny /root/secret r, }\\n' >/root/refuses
echo >/root/secret
apparmor_parser --replace /root/refuses
"""
_SELINUX = """
set -e
[[ $(getenforce) == Enforcing ]]
[[ -z $(find /etc /usr /root /var -xdev -context '*:unlabeled_t:*' -print -quit) ]]
"""


@pytest.mark.part("module")
def test_the_module_enforces(machine: Machine, recipe: Recipe) -> None:
    match recipe.module:
        case Module.APPARMOR:
            machine.run(_APPARMOR)
            assert machine.run("aa-exec -p refuses -- cat /root/refuses").returncode == 0
            refused = machine.run("aa-exec -p refuses -- cat /root/secret", check=False)
            machine.run("apparmor_parser --remove /root/refuses; rm /root/refuses /root/secret")
            assert "Permission denied" in refused.stderr
        case Module.SELINUX:
            machine.run(_SELINUX)
            # No one may become the kernel.
            refused = machine.run("runcon system_u:system_r:kernel_t:s0 true", check=False)
            assert "Permission denied" in refused.stderr
        case Module.NONE:
            names = machine.run("cat /sys/kernel/security/lsm").stdout.split(",")
            assert not {"apparmor", "selinux"} & set(names)


@pytest.fixture
def with_apparmor(recipe: Recipe) -> None:
    if recipe.module is not Module.APPARMOR:
        pytest.skip("the machine has another security module")


@pytest.mark.part("apparmor")
@pytest.mark.usefixtures("with_apparmor")
def test_what_apparmor_and_the_list_of_system_calls_deny(machine: Machine, recipe: Recipe) -> None:
    names = "apparmor and not docker and not contained"
    if recipe.release is Release.BOOKWORM:
        names += " and not quadlet"  # which needs podman 4.4
    run_inside(machine, "tests/host", "-k", names, timeout=180)


@pytest.fixture
def with_selinux(recipe: Recipe) -> None:
    if recipe.module is not Module.SELINUX:
        pytest.skip("the machine has another security module")


@pytest.mark.part("contained")
@pytest.mark.usefixtures("with_selinux_module")
def test_an_agent_in_the_printed_recipe_reaches_nothing(machine: Machine, recipe: Recipe) -> None:
    if recipe.module is Module.NONE:
        pytest.skip("tests/attacks tries it where there is no security module")
    run_inside(machine, "tests/host/test_contained_agent.py", "-k", recipe.module.value, timeout=300)


@pytest.mark.part("selinux-module")
@pytest.mark.usefixtures("with_selinux")
def test_selinux_gets_its_module_and_loses_it(machine: Machine) -> None:
    run_inside(machine, "tests/host/test_selinux_module.py", timeout=300)


@pytest.mark.part("selinux")
@pytest.mark.usefixtures("with_selinux")
def test_what_selinux_denies(machine: Machine) -> None:
    run_inside(machine, "tests/host/test_selinux.py", timeout=300)


@pytest.fixture
def with_provider(recipe: Recipe) -> None:
    if recipe.release is Release.BOOKWORM:
        pytest.skip("Debian 12 has no FIPS provider")


@pytest.mark.part("fips")
@pytest.mark.usefixtures("with_provider", "with_selinux_module")
def test_openssl_in_fips_mode(machine: Machine) -> None:
    run_inside(machine, "tests/host/test_fips.py", timeout=300)
