"""The script that prepares a Kolla-Ansible agent for its wrappers, in temporary directories, with links for mounts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "integrations/ansible/roles/kolla/files/copy-wrappers"
WRAPPER, PROGRAM = "the wrapper\n", "the program\n"
MOUNT = '#!/bin/sh\necho "$@" >>"$CALLS"\n[ "$1" = --bind ] && ln -f "$2" "$3"\n'


class Container:
    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, root / "calls"
        for each in ("wrappers", "usr/sbin", "usr/bin", "usr/local/bin", "bin"):
            (root / each).mkdir(parents=True)
        (root / "wrappers/dnsmasq").write_text(WRAPPER)
        (root / "bin/mount").write_text(MOUNT)
        (root / "bin/mount").chmod(0o755)
        (root / "mountinfo").write_text(f"1 2 0:3 / {root}/wrappers/dnsmasq ro - tmpfs x rw\n")

    def start(self) -> str:
        text = SCRIPT.read_text()
        for old, new in (("/proc/self/mountinfo", "mountinfo"), ("/usr/local/lib/neutron-wrappers", "wrappers")):
            text = text.replace(old, f"{self.root}/{new}")
        text = text.replace("/usr/sbin/", f"{self.root}/usr/sbin/").replace("/usr/bin/", f"{self.root}/usr/bin/")
        text = text.replace("/usr/local/bin/", f"{self.root}/usr/local/bin/").replace("/proc/sys/net/ipv4", "/tmp")
        text = text.replace("if [ ! -w /tmp/ip_forward ]", "if false")
        code = "".join(line.partition("# ")[0] for line in text.splitlines())
        assert code.count("/usr/") == code.count(f"{self.root}/usr/")  # writes nothing of this host
        environment = {"PATH": f"{self.root}/bin:{os.environ['PATH']}", "CALLS": str(self.calls)}
        done = subprocess.run(("sh", "-c", text), env=environment, capture_output=True, text=True, check=True)
        return done.stderr

    def mounted(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def read(self, path: str) -> str:
        return (self.root / path).read_text()


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


@pytest.mark.parametrize("place", ["usr/sbin", "usr/bin"])
def test_the_wrapper_is_where_the_program_was_and_the_program_beside_it(container: Container, place: str) -> None:
    (container.root / place / "dnsmasq").write_text(PROGRAM)
    assert container.start() == ""
    assert container.read(f"{place}/dnsmasq") == container.read("usr/local/bin/dnsmasq") == WRAPPER
    assert container.read(f"{place}/dnsmasq.real") == PROGRAM


def test_a_wrapper_that_is_there_already_is_not_taken_for_the_program(container: Container) -> None:
    """Earlier versions of the role had the engine mount it. As its own program, it would execute itself forever."""
    os.link(container.root / "wrappers/dnsmasq", container.root / "usr/sbin/dnsmasq")
    assert container.start() == ""
    assert not (container.root / "usr/sbin/dnsmasq.real").exists()
    assert container.mounted() == []


def test_where_both_directories_are_one_it_is_mounted_once(container: Container) -> None:
    (container.root / "usr/bin/dnsmasq").write_text(PROGRAM)
    (container.root / "usr/sbin").rmdir()
    (container.root / "usr/sbin").symlink_to("bin")
    assert container.start() == ""
    assert len(container.mounted()) == 1
    assert container.read("usr/bin/dnsmasq.real") == PROGRAM
