"""How virtual machines are put together, without booting one."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lab import places
from lab.places import Directory, PlaceError, start_time
from sidespawn.testing import images
from vm import qemu
from vm.accelerator import Accelerator
from vm.cache import CHECKOUT, Cache
from vm.qemu import Hardware, Process
from vm.recipes import Module, Recipe, Release
from vm.record import Record

RECIPES = [Recipe(release=release, module=module) for release in Release for module in Module]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(top=tmp_path / "cache")


def test_dev_has_nothing_to_install_in_a_machine() -> None:
    (line,) = re.findall(r"^packages=\((.*)\)$", (CHECKOUT / "dev").read_text(), re.MULTILINE)
    for recipe in RECIPES:
        missing = set(line.split()) - set(recipe.packages)
        assert missing <= ({"isc-dhcp-client"} if recipe.release is Release.SID else set())


def test_debians_package_can_be_installed_in_a_machine() -> None:
    control = (CHECKOUT / "packaging/debian/control.in").read_text()
    (listed,) = re.findall(r"^Depends:((?:\n .*)+)", control, re.MULTILINE)
    for recipe in RECIPES:
        assert set(re.findall(r"^ ([a-z][\w.+-]*)", listed, re.MULTILINE)) <= set(recipe.packages)


def test_apparmor_and_none_share_their_disks_but_not_the_kernel_options() -> None:
    apparmor, none, selinux = (Recipe(release=Release.TRIXIE, module=module) for module in
                               (Module.APPARMOR, Module.NONE, Module.SELINUX))  # fmt: skip
    assert (apparmor.disk, apparmor.packages) == (none.disk, none.packages)
    assert selinux.disk != none.disk
    assert len({recipe.kernel_options for recipe in (apparmor, none, selinux)}) == 3


def test_commands_at_the_same_time_make_a_layer_once(cache: Cache) -> None:
    built = []

    def build(draft: Path) -> None:
        built.append(draft)
        (draft / "file").write_text("made")

    threads = [threading.Thread(target=cache.layer, args=("disk", "x", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert (cache.layer("disk", "x", build) / "file").read_text() == "made"


def test_a_layer_that_failed_leaves_nothing(cache: Cache) -> None:
    def fail(draft: Path) -> None:
        (draft / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        cache.layer("disk", "x", fail)
    assert list((cache.top / "disk").iterdir()) == []


def test_drafts_of_killed_commands_are_removed_and_those_in_the_making_are_not(cache: Cache) -> None:
    left = cache.top / "disk/.x-0123456789abcdef-tmp12345"
    left.mkdir(parents=True)
    layer = cache.layer("disk", "x-0123456789abcdef", lambda draft: cache.tidy())
    assert not left.exists() or layer.exists()
    cache.tidy()
    assert [path.name for path in (cache.top / "disk").iterdir()] == ["x-0123456789abcdef"]


def test_qemu_does_not_start_without_its_record(tmp_path: Path) -> None:
    hardware = Hardware(disk=tmp_path / "disk.img", kernel=tmp_path / "k", initial_root=tmp_path / "i", options="",
                        console=tmp_path / "console", port=1)  # fmt: skip
    seen: list[Process] = []

    def refuse(process: Process) -> None:
        seen.append(process)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        qemu.start(hardware, Accelerator(name="tcg", factor=1), refuse, outlives_us=True)
    (process,) = seen
    process.kill()
    assert not process.alive()
    assert hardware.console.read_bytes() == b""


def test_only_emulated_processors_lack_what_makes_them_slow(tmp_path: Path) -> None:
    hardware = Hardware(disk=tmp_path / "disk.img", kernel=tmp_path / "k", initial_root=tmp_path / "i",
                        options="root=/dev/vda", console=tmp_path / "console", port=1)  # fmt: skip
    kvm, tcg = (" ".join(hardware.command(Accelerator(name=name, factor=1))) for name in ("kvm", "tcg"))
    assert "-cpu host " in kvm and "-append root=/dev/vda no_timer_check -" in kvm
    assert "-cpu max,-erms," in tcg and "-append root=/dev/vda no_timer_check init_on_alloc=0 " in tcg


def test_a_machine_is_stale_when_its_owner_is_gone() -> None:
    child = subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE)
    record = Record(pid=0, started=0, owner=child.pid, owner_started=start_time(child.pid) or 0, release="sid",
                    module="none", checkout="/", cache="/", port=1)  # fmt: skip
    before = record.stale
    child.communicate(b"\n")
    assert (before, record.stale) == (False, True)
    assert not replace(record, owner=0, owner_started=0).stale


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a\n", "a\0", "a" * 41])
def test_a_name_is_a_plain_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(PlaceError):
        Directory(base=tmp_path, name=name)


def test_a_place_that_is_locked_is_not_free(tmp_path: Path) -> None:
    directory = Directory(base=tmp_path / "base", name="a")
    with directory.locked(), directory.locked_if_free() as free:
        assert not free
    with directory.locked_if_free() as free:
        assert free
    directory.save({"pid": 1})
    assert places.names(directory.base) == ["a"]
    assert directory.load() == {"pid": 1}
    directory.remove()
    assert directory.load() is None
    assert places.names(directory.base) == []


DEB822 = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
deb [signed-by=/k] http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm-updates main
deb http://mirror.example/debian-security bookworm-security main
"""


@pytest.mark.parametrize(
    ("text", "deb822", "suite", "expected"),
    [
        (DEB822, True, "trixie", DEB822.replace("bookworm", "trixie")),
        (DEB822, True, "sid", DEB822.partition("\n\n")[0].replace("bookworm bookworm-updates", "sid") + "\n"),
        (ONE_LINE, False, "trixie", ONE_LINE.replace("bookworm", "trixie")),
        (ONE_LINE, False, "sid", "deb [signed-by=/k] http://mirror.example/debian sid main\n"),
        ("deb http://example.org/bookworm-like stable main\n", False, "sid", ""),
    ],
)
def test_sources_are_rewritten_for_another_suite(text: str, deb822: bool, suite: str, expected: str) -> None:
    assert images._for_suite(text, "bookworm", suite, deb822=deb822) == expected


def test_tars_of_another_suite_do_not_outdate_the_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_unpack_packages", lambda root, recipe, suite: root.mkdir())
    monkeypatch.setattr(images, "_adapt", lambda root, recipe: (root / "suite").touch())
    plain = (replace(images.AGENT, wheels=()),)
    own = images.build_tars(tmp_path, plain)
    other = "sid" if images.machine_suite() != "sid" else "trixie"
    outdated = tmp_path / f"sidespawn-agent-{other}-0123456789abcdef.tar"
    outdated.touch()
    others = images.build_tars(tmp_path, plain, other)
    assert {*own, *others} == set(tmp_path.glob("*.tar"))
