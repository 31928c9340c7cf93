"""Builds a kubelet from Debian's source package of Kubernetes, for tests.

    python -m tests.kubernetes.node.build GO TARGET

GO is the root into which Debian's golang was unpacked. No release of Debian has a package of it, and the newest source
package that has more than the client is Debian 12's. TARGET has the program in the end. Takes minutes of two
processors, and 2 GB while it compiles. One that was interrupted goes on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from sidespawn.testing.images import sources_of

SUITE = "bookworm"
PROGRAM = "kubelet"
IMPORT = "k8s.io/kubernetes"
# No clouds' libraries, and no accounting of the kernel's memory that kernels have dropped.
TAGS = "providerless nokmem"
VERSIONS = ("component-base/version", "client-go/pkg/version")
UNPACKED = ".unpacked"


def main() -> None:
    go, target = (Path(each).resolve() for each in sys.argv[1:])
    scratch = target / "scratch"
    source = scratch / "gopath/src" / IMPORT
    if not (source / UNPACKED).exists():
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        unpack(scratch, source)
    environment = {
        "HOME": str(scratch),
        "PATH": f"{go}/usr/lib/go-1.19/bin:/usr/bin:/bin",
        "GOROOT": f"{go}/usr/lib/go-1.19",
        "GOPATH": f"{scratch}/gopath",
        "GOCACHE": f"{scratch}/cache",
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
        "GOFLAGS": os.environ.get("GOFLAGS", ""),
    }
    version = version_of(source)
    print(f"compiling {PROGRAM} {version}", flush=True)
    flags = f"-s -w {' '.join(f'-X {name}={value}' for name, value in stamps(version))}"
    options = ("-tags", TAGS, "-ldflags", flags, "-o", str(scratch / PROGRAM))
    run("go", "build", *options, f"{IMPORT}/cmd/{PROGRAM}", cwd=source, environment=environment)
    (scratch / PROGRAM).rename(target / PROGRAM)
    shutil.rmtree(scratch)


def unpack(scratch: Path, source: Path) -> None:
    """Debian's package with its patches."""
    lists, sources = scratch / "lists", scratch / "sources"
    for path in (lists / "partial", sources, scratch / "archives/partial"):
        path.mkdir(parents=True)
    for file in sources_of(SUITE, sources):
        text = re.sub(r"^(Types:\s*)?deb(?=\s)", r"\1deb-src", file.read_text(), flags=re.MULTILINE)
        (sources / file.name).write_text(text)
    options = (
        "Dir::Etc::SourceList=/dev/null",
        f"Dir::Etc::SourceParts={sources}",
        f"Dir::State::Lists={lists}",
        f"Dir::Cache={scratch}",
        "APT::Sandbox::User=root",
    )
    apt = ("apt-get", *(f"--option={each}" for each in options))
    run(*apt, "update", cwd=scratch)
    run(*apt, "source", "--download-only", "kubernetes", cwd=scratch)
    (description,) = scratch.glob("*.dsc")
    source.parent.mkdir(parents=True)
    run("dpkg-source", "--no-check", "--extract", description.name, str(source), cwd=scratch)
    (source / UNPACKED).touch()


def version_of(source: Path) -> str:
    first = (source / "debian/changelog").read_text(encoding="utf-8").partition("\n")[0]
    found = re.search(r"(\d+\.\d+\.\d+)-", first)  # 1.20.5+really1.20.2-1
    assert found is not None, first
    return f"v{found[1]}"


def stamps(version: str) -> Iterator[tuple[str, str]]:
    """The variables in which the programs have their version; clients and servers compare them."""
    major, minor, _ = version.removeprefix("v").split(".")
    for package in VERSIONS:
        for name, value in {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitCommit": "debian"}.items():
            yield f"{IMPORT}/vendor/k8s.io/{package}.{name}", value


def run(*argv: str, cwd: Path, environment: dict[str, str] | None = None) -> None:
    subprocess.run(argv, cwd=cwd, env=environment, check=True)


if __name__ == "__main__":
    main()
