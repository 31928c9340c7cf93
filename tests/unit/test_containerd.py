"""Which of containerd's images a policy's image is."""

from __future__ import annotations

import pytest

from sidespawn.engines import containerd
from sidespawn.system.processes import Output
from tests.attacks.catalogue import attack

DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names that containerd lists."""
    names: list[str] = []
    monkeypatch.setattr(containerd, "run", lambda *_: Output(0, "".join(f"{each}\n" for each in names), ""))
    return names


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("helpers", "docker.io/library/helpers:latest"),
        ("helpers:1", "docker.io/library/helpers:1"),
        ("org/helpers", "docker.io/org/helpers:latest"),
        ("localhost/helpers", "localhost/helpers:latest"),
        ("registry:5000/helpers", "registry:5000/helpers:latest"),
        ("quay.io/org/helpers:1", "quay.io/org/helpers:1"),
        (f"quay.io/org/helpers@{DIGEST}", f"quay.io/org/helpers@{DIGEST}"),
        (f"helpers@{DIGEST}", f"docker.io/library/helpers@{DIGEST}"),
        (DIGEST, DIGEST),
    ],
)
def test_an_image_by_the_name_that_containerd_completes(lists: list[str], image: str, name: str) -> None:
    assert containerd.find_image(image) is None
    lists += ["another.example/x:latest", name]
    assert containerd.find_image(image) == name


@attack(269)
@pytest.mark.parametrize("image", ["localhost/helpers:latest", "quay.io/org/x:1", "helpers", "org/helpers:latest"])
def test_a_tenants_image_whose_name_ends_like_it(lists: list[str], image: str) -> None:
    """Ignore it: a node has the images of every pod, and lists them in the order of their names."""
    lists += [f"a.example/{image}", f"a.example/{image}:latest", f"a.example/docker.io/library/{image}:latest"]
    assert containerd.find_image(image) is None
