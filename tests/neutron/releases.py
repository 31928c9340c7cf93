"""Virtual environments of Neutron releases, and images that contain one, in which helpers of that release run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.networks import command

CACHE = Path(__file__).parents[2] / ".cache"
AGENT_IMAGE = "localhost/sidespawn-neutron-agent:latest"
NEWEST, OLD = "newest", "old"
VENVS = {NEWEST: (CACHE / "neutron").resolve(), OLD: (CACHE / "neutron-old").resolve()}


@contextmanager
def image_of(release: str) -> Iterator[str]:
    """Add the release to the agent's image, as in a deployment, at the path in its scripts' first lines.

    Also add the release's only program that is a helper, at the path where packages have it.
    """
    name, venv = f"localhost/sidespawn-test-{release}:latest", VENVS[release]
    file = Path(f"/run/sidespawn-test-{release}.containerfile")
    helper = "COPY bin/neutron-keepalived-state-change /usr/bin/"
    file.write_text(f"FROM {AGENT_IMAGE}\nCOPY . {venv}/\n{helper}\n")
    command("podman", "build", "--quiet", "--isolation=chroot", f"--tag={name}", f"--file={file}", str(venv))
    file.unlink()
    try:
        yield name
    finally:
        command("podman", "image", "rm", "--force", name)
