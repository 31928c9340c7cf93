"""`sidespawn check` on hosts with many kinds of podman: what its configuration adds to side containers, its storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sidespawn.host_report import containers_conf, podman_storage
from sidespawn.host_report.engines import Podman, judge_podman, numbers
from sidespawn.host_report.findings import Finding, State
from sidespawn.setup import hardening
from sidespawn.system.processes import ENVIRONMENT
from tests.unit.test_host_report import states, the

# ---------------------------------------------------------------- containers.conf

STOCK = '[containers]\ndefault_sysctls = [\n  "net.ipv4.ping_group_range=0 0",\n]\n'
OLD, NEW = "4.3.1", "5.4.2"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory with this host's /usr/share/containers, /etc/containers, /root."""
    for name in ("VENDOR", "HOST", "ROOT"):
        monkeypatch.setattr(containers_conf, name, tmp_path / name.lower())
    monkeypatch.setattr(hardening, "has_apparmor", lambda: True)
    monkeypatch.setattr(hardening, "has_selinux", lambda: False)
    write(tmp_path, {"vendor/containers.conf": STOCK})
    return tmp_path


def write(home: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)


def judged(version: str) -> list[Finding]:
    return list(containers_conf.judge(containers_conf.look(version, numbers(version))))


def reached(version: str) -> dict[str, list[object]]:
    """Return the values that reach side containers, by key without its table."""
    found: dict[str, list[object]] = {}
    for each in containers_conf.look(version, numbers(version)).settings:
        found.setdefault(each.key.partition(".")[2], []).append(each.value)
    return found


@pytest.mark.parametrize("version", ["4.0.0", OLD, "4.4.4"])
def test_what_every_distribution_has_is_only_mentioned(home: Path, version: str) -> None:
    (found,) = judged(version)
    assert found.state is State.OK
    assert f'{home}/vendor/containers.conf: default_sysctls = ["net.ipv4.ping_group_range=0 0"]' in found.found


@pytest.mark.parametrize("version", ["4.5.0", "4.9.3", NEW, "6.0.0-dev"])
def test_our_last_file_empties_it(home: Path, version: str) -> None:
    (found,) = judged(version)
    assert (found.state, found.found) == (
        State.OK,
        "no setting in containers.conf adds to side containers or loosens them",
    )


@pytest.mark.parametrize(
    ("line", "reaches"),
    [
        ('annotations = ["run.oci.handler=krun"]', True),
        ('default_sysctls = ["net.ipv4.ping_group_range=0 1000"]', True),
        ('devices = ["/dev/fuse"]', True),
        ('Devices = ["/dev/fuse"]', True),  # podman does not mind
        ('volumes = ["/srv:/srv"]', True),
        ('apparmor_profile = "unconfined"', True),
        ('apparmor_profile = "mine"', False),
        ("label = false", False),  # this host has no SELinux
        ("devices = []", False),
        # Those that requests set, or that this version does not know or give to containers of its API.
        ('cgroup_conf = ["memory.high=1"]', False),
        ('default_capabilities = ["SYS_ADMIN"]', False),
        ('default_ulimits = ["memlock=-1:-1"]', False),
        ('env = ["A=1"]', False),
        ('mounts = ["type=bind,src=/srv,dst=/srv"]', False),
        ("oom_score_adj = 500", False),
        ('cgroups = "no-conmon"', False),
        ("privileged = true", False),
    ],
)
def test_what_an_old_podman_gives_to_side_containers(home: Path, line: str, reaches: bool) -> None:
    write(home, {"host/containers.conf": f"[containers]\n{line}\n"})
    (found,) = judged(OLD)
    assert found.state is (State.WARNING if reaches else State.OK)
    if reaches:
        assert line.lower() in found.found
        assert found.subject == f"{home}/host/containers.conf"
        assert found.hint.startswith("remove them there")
        assert ("4.5" in found.hint) is not line.startswith("apparmor")  # a newer podman reads the profile, too
    (found,) = judged(NEW)
    assert found.state is (State.WARNING if line == 'apparmor_profile = "unconfined"' else State.OK)


def test_what_every_distribution_has_is_not_among_what_to_remove(home: Path) -> None:
    sysctls = '["net.ipv4.ping_group_range=0 0", "net.ipv4.ip_forward=1"]'
    write(home, {"host/containers.conf": f"[containers]\ndefault_sysctls = {sysctls}\n"})
    assert judged(OLD)[0].found.endswith('containers.conf: default_sysctls = ["net.ipv4.ip_forward=1"]')


def test_root_is_moved_instead_of_pivoted_only_if_the_host_says_so(home: Path) -> None:
    write(home, {"host/containers.conf": "[engine]\nno_pivot_root = true\n"})
    for version in (OLD, NEW):
        (found,) = judged(version)
        assert found.message == f"podman {version} confines side containers less than it should"
    write(home, {"host/containers.conf": "[containers]\nno_pivot_root = true\n[engine]\nno_pivot_root = false\n"})
    assert judged(NEW)[0].state is State.OK


def test_labels_count_with_selinux(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "has_selinux", lambda: True)
    write(home, {"host/containers.conf": "[containers]\nlabel = false\n"})
    assert judged(NEW)[0].state is State.WARNING


def test_harmless_settings_are_mentioned(home: Path) -> None:
    write(home, {"host/containers.conf": '[containers]\ntz = "local"\ndns_servers = ["192.0.2.1", "192.0.2.2"]\n'})
    (found,) = judged(NEW)
    assert found.state is State.OK
    assert 'tz = "local", dns_servers = ["192.0.2.1", "192.0.2.2"]' in found.found


def test_a_vendors_file_is_not_edited(home: Path) -> None:
    write(home, {"vendor/containers.conf": '[containers]\ndevices = ["/dev/x"]\n'})
    assert judged(OLD)[0].hint.startswith(f"override them in {home}/host/containers.conf.d")


def test_each_file_is_named_with_what_remains_of_it(home: Path) -> None:
    write(
        home,
        {
            "host/containers.conf": '[containers]\ndevices = ["/dev/a"]\nvolumes = ["/a:/a", "/b:/b"]\n',
            "host/containers.conf.d/20.conf": '[containers]\nannotations = ["b=2"]\n',
            "host/containers.conf.d/10.conf": '[containers]\nannotations = ["a=1"]\ndevices = ["/dev/b"]\n',
            "host/containers.conf.d/30.txt": '[containers]\nvolumes = ["/c:/c"]\n',
            "host/containers.conf.d/sub.conf/40.conf": '[containers]\nvolumes = ["/d:/d"]\n',
        },
    )
    found = {each.subject.removeprefix(f"{home}/host/"): each.found for each in judged(OLD)}
    assert found == {
        "containers.conf": f'{home}/host/containers.conf: volumes = ["/a:/a", "/b:/b"]',
        "containers.conf.d/10.conf": f'{home}/host/containers.conf.d/10.conf: devices = ["/dev/b"]',
        "containers.conf.d/20.conf": f'{home}/host/containers.conf.d/20.conf: annotations = ["b=2"]',
    }


@pytest.mark.parametrize(
    ("host", "later", "left"),
    [
        ('["/dev/a", {append = true}]', "", ["/dev/a"]),
        ('["/dev/a", {append = true}]', '["/dev/b"]', ["/dev/a", "/dev/b"]),
        ('["/dev/a", {append = true}]', '["/dev/b", {append = false}]', []),
        ('["/dev/a"]', '["/dev/b", {append = true}]', ["/dev/a", "/dev/b"]),
        ('["/dev/a"]', "[{append = true}]", ["/dev/a"]),
        ("[{append = true}]", "", []),
        ('["/dev/a"]', "", []),
    ],
)
def test_our_last_file_cannot_empty_a_list_that_the_host_appends_to(
    home: Path, host: str, later: str, left: list[object]
) -> None:
    write(home, {"host/containers.conf": f"[containers]\ndevices = {host}\n"})
    if later:
        write(home, {"host/containers.conf.d/1.conf": f"[containers]\ndevices = {later}\n"})
    assert reached(NEW).get("devices", []) == left
    for each in judged(NEW):
        assert ("append = true" in each.hint) is (bool(left) and "append = true" in Path(each.subject).read_text())


def test_limits_that_requests_set_count_last(home: Path) -> None:
    limits = '["nofile=1:1", "NPROC=1:1", "core=1:1", "memlock=1:1", {append = true}]'
    write(home, {"host/containers.conf": f"[containers]\ndefault_ulimits = {limits}\n"})
    assert reached(NEW) == {"default_ulimits": ["memlock=1:1"]}


ONE = '[containers]\ntz = "{}"\n'
PLACES = {
    "vendor/containers.conf": ONE.format("vendor"),
    "vendor/containers.conf.d/50.conf": ONE.format("vendor-drop-in"),
    "vendor/containers.rootful.conf.d/60.conf": ONE.format("vendor-rootful"),
    "host/containers.conf": ONE.format("host"),
    "host/containers.conf.d/40.conf": ONE.format("host-drop-in"),
    "root/containers.conf": ONE.format("root"),
    "root/containers.conf.d/30.conf": ONE.format("root-drop-in"),
}


@pytest.mark.parametrize(
    ("version", "read"),
    [
        (OLD, ["vendor/containers.conf", "host/containers.conf", "host/containers.conf.d/40.conf"]),
        ("4.9.3", ["vendor/containers.conf", "host/containers.conf", "host/containers.conf.d/40.conf"]),
        (
            "5.0.0",
            [
                "vendor/containers.conf",
                "host/containers.conf",
                "host/containers.conf.d/40.conf",
                "root/containers.conf",
                "root/containers.conf.d/30.conf",
            ],
        ),
        (
            "6.0.0-dev",
            [
                "root/containers.conf",
                "root/containers.conf.d/30.conf",
                "host/containers.conf.d/40.conf",
                "vendor/containers.conf.d/50.conf",
                "vendor/containers.rootful.conf.d/60.conf",
            ],
        ),
    ],
)
def test_which_files_count(home: Path, version: str, read: list[str]) -> None:
    write(home, PLACES)
    assert [str(each.relative_to(home)) for each in containers_conf.files(numbers(version))] == read


def test_from_podman_6_on_a_hosts_drop_in_replaces_the_vendors_of_that_name(home: Path) -> None:
    for name in ("vendor/containers.conf.d", "host/containers.conf.d", "host/containers.rootful.conf.d"):
        write(home, {f"{name}/50.conf": ONE.format(name)})
    assert reached("6.0.0") == {"tz": ["host/containers.rootful.conf.d"]}
    (home / "vendor/containers.conf").unlink()
    assert [each.name for each in containers_conf.files((6, 0))] == ["containers.conf", "50.conf"]


@pytest.mark.parametrize("text", ["[containers\n", "devices = \xff\n"])
def test_a_file_that_cannot_be_read_is_named(home: Path, text: str) -> None:
    write(home, {"host/containers.conf.d/1.conf": '[containers]\ndevices = ["/dev/a"]\n'})
    (home / "host/containers.conf").write_bytes(text.encode("latin-1"))
    odd, other = judged(OLD)
    assert (odd.state, odd.subject) == (State.WARNING, f"{home}/host/containers.conf")
    assert odd.message == "its settings were not checked"
    assert "/dev/a" in other.found


@pytest.mark.parametrize(
    "text", ["containers = 1\n", "[containers]\ndevices = 'x'\n", "[[containers]]\ndevices = []\n"]
)
def test_an_odd_file_raises_nothing(home: Path, text: str) -> None:
    """Leave it to podman, which does not start with such a file."""
    write(home, {"host/containers.conf": text})
    assert judged(OLD)
    assert judged(NEW)


def test_ours_sets_what_podman_would_add() -> None:
    documents, unreadable = containers_conf.read((containers_conf.OURS,))
    (ours,) = documents.values()
    assert not unreadable
    assert {f"containers.{name}" for name in ours["containers"]} >= set(containers_conf.LISTS)


# ---------------------------------------------------------------- storage


def store(tmp_path: Path, driver: str = "overlay", **options: object) -> dict[str, Any]:
    return {
        "graphDriverName": driver,
        "graphRoot": str(tmp_path),
        "graphOptions": {f"{driver}.{name}": value for name, value in options.items()},
        "configFile": "/etc/containers/storage.conf",
    }


def stored(info: dict[str, Any], kernel: str = "") -> Finding:
    facts = podman_storage.look(info)
    if kernel:
        facts = podman_storage.Storage(**{**vars(facts), "kernel": kernel})
    (found,) = podman_storage.judge(facts)
    return found


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("overlay", {}),
        ("overlay", {"mountopt": "nodev,metacopy=on", "size": "0", "use_composefs": "false"}),
        ("overlay", {"imagestore": "/srv/images", "additionalImageStores": ["/srv/images"]}),
        ("btrfs", {}),
        ("vfs", {"ignore_chown_errors": "true"}),
    ],
)
def test_storage_that_works_within_podmans_unit(tmp_path: Path, driver: str, options: dict[str, object]) -> None:
    assert stored(store(tmp_path, driver, **options)).state is State.OK


FUSE = {"Executable": "/usr/bin/fuse-overlayfs", "Version": "1.10", "Package": "fuse-overlayfs"}


@pytest.mark.parametrize(
    ("driver", "options", "said", "hint"),
    [
        ("zfs", {}, "/dev/zfs", 'driver = "overlay"'),
        ("devicemapper", {}, "/dev/mapper/control", 'driver = "overlay"'),
        ("overlay", {"mount_program": FUSE}, "/dev/fuse", "remove mount_program"),
        ("overlay", {"mount_program": "/usr/bin/fuse-overlayfs"}, "/dev/fuse", "remove mount_program"),
        ("overlay", {"size": "10G", "inodes": "1000"}, "quotas", "remove size and inodes"),
        ("overlay", {"use_composefs": "true"}, "/dev/loop-control", "6.12"),
    ],
)
def test_storage_that_podmans_unit_blocks(
    tmp_path: Path, driver: str, options: dict[str, object], said: str, hint: str
) -> None:
    found = stored(store(tmp_path, driver, **options), kernel="6.1.0-18-amd64")
    assert found.state is State.PROBLEM
    assert said in found.message
    assert hint in found.hint
    assert "/etc/containers/storage.conf" in found.hint


def test_newer_kernels_mount_composefs_without_a_device(tmp_path: Path) -> None:
    assert stored(store(tmp_path, use_composefs="true"), kernel="6.12.48").state is State.OK


@pytest.mark.parametrize(
    ("noted", "installed", "state"), [("true", True, "problem"), ("true", False, "ok"), ("false", True, "ok")]
)
def test_a_program_that_podman_finds_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: str, installed: bool, state: str
) -> None:
    """podman looks for it if it has mounted images with one before, or could not mount them itself."""
    write(tmp_path, {"overlay/.has-mount-program": f"{noted}\n"})
    if installed:
        write(tmp_path, {"bin/fuse-overlayfs": "#!/bin/sh\n"})
        (tmp_path / "bin/fuse-overlayfs").chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", str(tmp_path / "bin"))
    found = stored(store(tmp_path))
    assert found.state == state
    assert (f"{tmp_path}/bin/fuse-overlayfs" in found.found) is (state == "problem")


@pytest.mark.parametrize(
    ("file", "edited"),
    [
        ("/root/storage.conf", "/root/storage.conf"),
        ("", "/etc/containers/storage.conf"),
        ("/usr/share/no-such-file", "/etc/containers/storage.conf"),
        ("/usr/bin/env", "/etc/containers/storage.conf, a copy of /usr/bin/env"),
    ],
)
def test_which_file_to_edit(file: str, edited: str) -> None:
    assert podman_storage.where(file) == edited


def test_podman_6_does_not_name_its_file(tmp_path: Path) -> None:
    info = store(tmp_path, "zfs")
    del info["configFile"]
    assert "in /etc/containers/storage.conf" in stored(info).hint


def test_all_of_it_is_among_the_findings_about_podman() -> None:
    works = Podman(version=NEW, runtime="/usr/bin/crun", store="/var/lib/containers/storage")
    assert states(judge_podman(works)) == {"podman": "ok", "podman-storage": "ok", "podman-settings": "ok"}
    blocked = Podman(version=NEW, runtime="/usr/bin/crun", storage=podman_storage.Storage(driver="zfs"))
    assert the(judge_podman(blocked), "podman-storage").state is State.PROBLEM
