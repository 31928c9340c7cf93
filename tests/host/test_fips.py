"""A host in FIPS mode: for Python, services and their programs, OpenSSL has only its FIPS provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.networks import SIDESPAWN, command

SETTINGS = Path("/etc/ssl/openssl.cnf")  # the host's, for all that starts: no environment reaches everything
SELF_TEST = SETTINGS.with_name("sidespawn-tests.self-test")
ONLY_FIPS = f"""
config_diagnostics = 1
openssl_conf = init
.include {SELF_TEST}
[init]
providers = providers
alg_section = algorithms
[providers]
fips = fips_sect
base = base
[base]
activate = 1
[algorithms]
default_properties = fips=yes
"""
USES_MD5 = "import _hashlib; print(_hashlib.get_fips_mode()); _hashlib.openssl_md5(b'')"


@pytest.fixture(autouse=True)
def in_fips_mode() -> Iterator[None]:
    """Turn it on for all processes that start from now on."""
    provider = next(Path("/usr/lib").glob("*/ossl-modules/fips.so"))
    command("openssl", "fipsinstall", "-out", str(SELF_TEST), "-module", str(provider))
    before = SETTINGS.read_text()
    SETTINGS.write_text(ONLY_FIPS)
    yield
    SETTINGS.write_text(before)
    SELF_TEST.unlink()


def test_services_can_use_no_other_hash(tmp_path: Path) -> None:
    """OpenSSL refuses MD5, which proves that the provider is in use."""
    output = tmp_path / "output"  # SELinux does not let PID 1 take pipes of a test
    shell = f'exec /usr/bin/python3 -I -c "$0" >{output} 2>&1'
    done = command("systemd-run", "--wait", "--collect", "--quiet", "/bin/sh", "-c", shell, USES_MD5, check=False)
    assert done.returncode == 1
    said = output.read_text().splitlines()
    assert "1" in said
    assert "unsupported" in " ".join(said)


def test_check_says_so() -> None:
    assert "OpenSSL in FIPS mode" in command(*SIDESPAWN, "check", check=False).stdout


@pytest.mark.parametrize("engine", ["podman", "systemd"])
def test_the_demo_passes(engine: str) -> None:
    done = command(*SIDESPAWN, "demo", f"--engine={engine}", "--json", check=False)
    assert done.returncode == 0, done.stderr
