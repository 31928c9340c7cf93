"""Builds the programs of a cluster, Kubernetes 1.20, from Debian's source package, for tests.

    python -m tests.kubernetes.node.build GO TARGET

GO is the root into which Debian's golang was unpacked. No release of Debian has a binary package of them, and the
newest source package that has more than the client is Debian 12's. TARGET has the programs in the end. Takes minutes of
two processors, and 3 GB while it compiles. One that was interrupted goes on.
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
PROGRAMS = ("kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
IMPORT = "k8s.io/kubernetes"
# No clouds' libraries, and no accounting of the kernel's memory that kernels have dropped.
TAGS = "providerless nokmem"
VERSIONS = ("component-base/version", "client-go/pkg/version")
OPENAPI = "pkg/generated/openapi"
UNPACKED = ".unpacked"
MARK = "+k8s:openapi-gen="
WITHOUT = ("testdata", "_examples", "sample-apiserver", "sample-controller", "code-generator")


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
    if not (source / OPENAPI / "zz_generated.openapi.go").exists():
        describe_api(source, scratch, environment)
    version = version_of(source)
    for program in (each for each in PROGRAMS if not (target / each).exists()):
        say(f"compiling {program} {version}")
        flags = f"-s -w {' '.join(f'-X {name}={value}' for name, value in stamps(version))}"
        options = ("-tags", TAGS, "-ldflags", flags, "-o", str(scratch / program))
        run("go", "build", *options, f"{IMPORT}/cmd/{program}", cwd=source, environment=environment)
        (scratch / program).rename(target / program)
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


def describe_api(source: Path, scratch: Path, environment: dict[str, str]) -> None:
    """Generate the API server's description of its types, which the source does not contain."""
    say("generating the API's description")
    generator = str(scratch / "openapi-gen")
    package = f"{IMPORT}/vendor/k8s.io/kube-openapi/cmd/openapi-gen"
    run("go", "build", "-o", generator, package, cwd=source, environment=environment)
    header = "hack/boilerplate/boilerplate.generatego.txt"
    outputs = ("-p", f"{IMPORT}/{OPENAPI}", "-O", "zz_generated.openapi", "-h", header, "-r", f"{scratch}/violations")
    inputs = ",".join(sorted(set(described(source))))
    run(generator, "--logtostderr", "-i", inputs, *outputs, cwd=source, environment=environment)


def described(source: Path) -> Iterator[str]:
    """Packages with types of the API, by their import paths."""
    for top in ("pkg", "staging/src/k8s.io", "cmd"):
        for path in (source / top).rglob("*.go"):
            place = path.parent.relative_to(source)
            if path.name.endswith("_test.go") or not set(place.parts).isdisjoint(WITHOUT):
                continue
            if MARK in path.read_text(encoding="utf-8"):
                inside = str(place)
                vendored = inside.removeprefix("staging/src/")
                yield f"{IMPORT}/{inside}" if vendored == inside else f"{IMPORT}/vendor/{vendored}"


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


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
