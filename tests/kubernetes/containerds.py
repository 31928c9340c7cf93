"""containerd for tests: of several versions, with files, socket and state apart, and our runtime as a handler."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidespawn.system.oci import RUNC
from tests.lab.networks import command, wait_until

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".cache"
PYTHON = CACHE / "cri/bin/python"
PROTOS = CACHE / "cri-api/usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1"
CRI = Path(__file__).with_name("cri.py")
RUNTIME = CHECKOUT / "src/sidespawn/engines/kubernetes-runtime"
AGENT_RUNTIME = CHECKOUT / "src/sidespawn/engines/agent-runtime"
# Of Debian 12, 13 and sid, as `./dev test` unpacks them. That of sid is whatever sid has; tests are named by it.
PROGRAMS = {version: CACHE / f"containerd-{version}/usr/bin" for version in ("1.6", "1.7", "2")}
UNIT = "test-containerd.service"
UNIT_FILE = Path("/run/systemd/system") / UNIT
# As its own unit has it: shims and programs stay.
SERVICE = """\
[Service]
Environment=PATH={programs}:{path}
ExecStart={programs}/containerd --config={home}/config.toml
KillMode=process
Delegate=yes
TimeoutStopSec=20
"""
AGENT = "localhost/sidespawn-agent:latest"
PAUSE = "localhost/sidespawn-test-pause:latest"
# What this kernel or a lab does not offer, and nothing here needs.
UNWANTED = ("snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.aufs", "snapshotter.v1.devmapper")
SETTINGS = """\
restrict_oom_score_adj = true
disable_apparmor = true
tolerate_missing_hugetlb_controller = true
disable_hugetlb_controller = true
"""


def whole_version(version: str) -> str:
    """Return what the program calls itself, 1.6.20 for 1.6; the same again where it is not unpacked."""
    program = PROGRAMS[version] / "containerd"
    if not program.exists():
        return version
    done = subprocess.run((program, "--version"), capture_output=True, text=True, timeout=60, check=True)
    return re.split("[^0-9.]", done.stdout.split()[2].removeprefix("v"))[0]


VERSIONS = tuple(pytest.param(each, id=f"containerd-{whole_version(each)}") for each in PROGRAMS)


class Refused(Exception):
    """What containerd, or our runtime behind it, said to a call."""


@dataclass
class Containerd:
    version: str
    home: Path
    runtime: Path = RUNTIME
    address: Path | None = None
    has_slices: bool = True  # of systemd for control groups, as kubelet names them unless it makes none
    client: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def socket(self) -> str:
        return str(self.address or self.home / "containerd.sock")

    def call(self, method: str, **request: Any) -> dict[str, Any]:
        """A call of CRI; fields are named as in api.proto. Raises Refused."""
        if self.client is None:
            argv = (str(PYTHON), "-I", str(CRI), str(PROTOS), self.socket)
            pipe = subprocess.PIPE
            self.client = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        print(json.dumps([method, request]), file=self.client.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.client.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        response: dict[str, Any] = answer["response"]
        return response

    def start(self) -> None:
        self.home.mkdir(exist_ok=True)
        Path(self.socket).parent.mkdir(exist_ok=True)
        (self.home / "config.toml").write_text(self.configuration())
        if not UNIT_FILE.exists():
            UNIT_FILE.write_text(
                SERVICE.format(programs=PROGRAMS[self.version], path=os.environ["PATH"], home=self.home)
            )
            command("systemctl", "daemon-reload")
        command("systemctl", "start", UNIT)
        self.wait()

    def wait(self) -> None:
        wait_until(lambda: self.ctr("version", check=False).returncode == 0, patience=30)
        wait_until(self.is_ready, patience=30)

    def is_ready(self) -> bool:
        with suppress(Refused):
            return "runtime_name" in self.call("Version")
        return False

    def stop(self) -> None:
        command("systemctl", "stop", UNIT)
        self.forget_client()

    def kill(self) -> None:
        """As `kill -9` does it."""
        command("systemctl", "kill", "--kill-who=main", "--signal=KILL", UNIT)
        wait_until(lambda: command("systemctl", "is-active", UNIT, check=False).returncode != 0)
        self.forget_client()

    def restart(self) -> None:
        command("systemctl", "restart", UNIT)
        self.wait()
        self.forget_client()

    def forget_client(self) -> None:
        if self.client is not None:
            self.client.communicate(timeout=30)
            self.client = None

    def ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        program = f"{PROGRAMS[self.version]}/ctr"
        return command(program, f"--address={self.socket}", "--namespace=k8s.io", *arguments, check=check)

    def load(self, *images: str) -> None:
        """From podman, which has the images of all tests."""
        archive = Path("/var/tmp/sidespawn-image.tar")  # in the lab, its own
        for image in images:
            try:
                command("podman", "save", "--quiet", f"--output={archive}", image)
                self.ctr("images", "import", str(archive))
            finally:
                archive.unlink(missing_ok=True)

    def configuration(self) -> str:
        version = 3 if self.version[0] == "2" else 2
        plugin = "io.containerd.cri.v1.runtime" if version == 3 else "io.containerd.grpc.v1.cri"
        images = f"[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{PAUSE}'\n" if version == 3 else ""
        sandbox = "" if version == 3 else f"sandbox_image = '{PAUSE}'\n"
        unwanted = [f"io.containerd.{each}" for each in (*UNWANTED, "internal.v1.opt", "nri.v1.nri")]
        handlers = ""
        for name, binary in (("runc", "runc"), ("sidespawn", self.runtime), ("sidespawn-agent", AGENT_RUNTIME)):
            place = f"[plugins.'{plugin}'.containerd.runtimes.{name}"
            handlers += f"{place}]\nruntime_type = 'io.containerd.runc.v2'\n"
            handlers += f"{place}.options]\nBinaryName = '{binary}'\nSystemdCgroup = {str(self.has_slices).lower()}\n"
            handlers += f"Root = '{RUNC}'\n" if name == "sidespawn" else ""
        return (
            f"version = {version}\nroot = '/var/lib/containerd/{self.version}'\nstate = '{self.home}/state'\n"
            f"disabled_plugins = {json.dumps(unwanted)}\n[grpc]\naddress = '{self.socket}'\n{images}"
            f"[plugins.'{plugin}']\n{sandbox}{SETTINGS}{handlers}"
        )

    def clean(self) -> None:
        """End every pod."""
        for each in self.call("ListPodSandbox").get("items", ()):
            self.call("StopPodSandbox", pod_sandbox_id=each["id"])
            self.call("RemovePodSandbox", pod_sandbox_id=each["id"])


@contextmanager
def running(
    version: str, *images: str, runtime: Path = RUNTIME, address: Path | None = None, has_slices: bool = True
) -> Iterator[Containerd]:
    if not (PROGRAMS[version].exists() and PYTHON.exists() and PROTOS.exists()):
        pytest.skip("needs containerd and a client of CRI in .cache, which ./dev test kubernetes unpacks")
    home = Path(f"/run/test-containerd-{version}")
    containerd = Containerd(version=version, home=home, runtime=runtime, address=address, has_slices=has_slices)
    assert not Path(containerd.socket).exists(), "another containerd is there"
    make_pause()
    containerd.start()
    try:
        containerd.load(PAUSE, *images)
        yield containerd
        containerd.clean()
    finally:
        containerd.stop()
        command("systemctl", "kill", "--signal=KILL", UNIT, check=False)  # what could not be ended in order
        UNIT_FILE.unlink()
        command("systemctl", "daemon-reload")
        command("systemctl", "reset-failed", UNIT, check=False)
        Path(containerd.socket).unlink(missing_ok=True)
        shutil.rmtree(containerd.home, ignore_errors=True)
        shutil.rmtree(f"/var/lib/containerd/{version}", ignore_errors=True)
        shutil.rmtree(RUNC, ignore_errors=True)
        command("podman", "image", "rm", "--force", PAUSE)


def make_pause() -> None:
    """An image of what does nothing: the first container of a pod, which holds its namespaces."""
    root = Path("/var/tmp/sidespawn-pause")  # in the lab, its own
    (root / "bin").mkdir(parents=True)
    container = command("podman", "create", AGENT, "sh").stdout.strip()
    try:
        command("podman", "cp", f"{container}:/usr/bin/busybox", f"{root}/bin/sleep")
        command("tar", f"--directory={root}", "--create", f"--file={root}.tar", "bin")
        entry = '--change=ENTRYPOINT ["/bin/sleep", "infinity"]'
        command("podman", "import", "--quiet", entry, f"{root}.tar", PAUSE)
    finally:
        command("podman", "rm", container)
        shutil.rmtree(root)
        Path(f"{root}.tar").unlink(missing_ok=True)
