"""A compiled policy is used only for exactly the files that it was compiled from."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

import sidespawn
from sidespawn import presets
from sidespawn.errors import PolicyError
from sidespawn.host import current_policy, policies
from sidespawn.host.current_policy import Stamps, are_current, load_compiled
from sidespawn.host.policies import load_policy
from sidespawn.system.files import read_trusted
from sidespawn.system.places import Places
from tests.unit import small

SERVICE = "neutron-dhcp-dnsmasq"
NO_CHANGE_FOR = 0.15  # seconds; longer than policies.TICK_NS


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(SERVICE, run=tmp_path / "run", policies=tmp_path / "etc")
    made.home.mkdir(parents=True)
    made.policies.mkdir()
    write(made.policy, f'extends = "{SERVICE}"\n')
    return made


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    time.sleep(NO_CHANGE_FOR)


def test_loading_leaves_it_compiled_for_root_only(places: Places) -> None:
    policy = load_policy(places)
    assert load_compiled(places, {}) == policy == load_policy(places)
    assert places.compiled.stat().st_mode & 0o777 == 0o600


def test_a_changed_policy_holds_at_once(places: Places) -> None:
    load_policy(places)
    places.policy.write_text(f'extends = "{SERVICE}"\n[pace]\nlinger = 7\n')
    assert load_policy(places).pace.linger == 7
    time.sleep(NO_CHANGE_FOR)
    assert load_policy(places) == load_compiled(places, {})


def test_a_change_that_leaves_size_and_time_alone_is_seen(places: Places) -> None:
    write(places.policy, f'extends = "{SERVICE}"\n[pace]\nlinger = 7\n')
    assert load_policy(places).pace.linger == 7
    before = places.policy.stat()
    places.policy.write_text(f'extends = "{SERVICE}"\n[pace]\nlinger = 8\n')
    os.utime(places.policy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_policy(places).pace.linger == 8


@pytest.mark.parametrize("folder, name", [("presets", SERVICE), ("programs", "dnsmasq")])
def test_a_hosts_preset_or_program_counts_exactly_while_it_exists(places: Places, folder: str, name: str) -> None:
    load_policy(places)
    own = places.policies / folder / f"{name}.toml"
    shipped = presets.read_preset(name) if folder == "presets" else presets.read_program(name)
    for text, word in ((shipped.replace('version = "', 'version = "own '), "own "), (shipped, "")):
        write(own, text.replace('description = "', 'description = "own ') if word and folder == "presets" else text)
        found = load_policy(places)
        assert (found.description + found.table.version).count("own ") == bool(word)
    own.write_text("not TOML")
    with pytest.raises(PolicyError, match=f"{name}.toml"):
        load_policy(places)
    own.unlink()
    assert load_compiled(places, {}) is None
    assert load_policy(places).table.program == "dnsmasq"


def test_a_program_that_the_package_does_not_know_has_a_table_of_the_operators(places: Places) -> None:
    text = small.POLICY.replace('"tool"', '"own-tool"').replace("/usr/sbin/tool", "/usr/sbin/own-tool")
    write(places.policy, text)
    with pytest.raises(PolicyError, match="there is no program named own-tool") as caught:
        load_policy(places)
    assert "add your own to /etc/sidespawn/programs" in caught.value.hint
    write(places.policies / "programs" / "own-tool.toml", small.PROGRAM.replace('"tool"', '"own-tool"'))
    assert load_policy(places).table.program == "own-tool"


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("folder, name", [("presets", SERVICE), ("programs", "dnsmasq")])
def test_a_run_sees_every_file_of_its_policy_change(places: Places, folder: str, name: str, is_compiled: bool) -> None:
    if is_compiled:
        load_policy(places)
    stamps: Stamps = {}
    load_policy(places, stamps)
    assert are_current(stamps)
    write(places.policies / folder / f"{name}.toml", "version = 2\n")
    assert not are_current(stamps)
    stamps = {}
    with pytest.raises(PolicyError, match=f"{name}.toml"):
        load_policy(places, stamps)
    assert are_current(stamps)
    (places.policies / folder / f"{name}.toml").unlink()
    assert not are_current(stamps)


def test_a_policy_that_became_invalid_or_went_is_not_served_from_what_was_compiled(places: Places) -> None:
    load_policy(places)
    places.policy.write_text("version = 2\n")
    with pytest.raises(PolicyError, match="version"):
        load_policy(places)
    places.policy.unlink()
    with pytest.raises(PolicyError, match="does not exist"):
        load_policy(places)


def test_other_code_compiles_it_again(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    load_policy(places)
    content = json.loads(places.compiled.read_text())
    stamped = {Path(path).name for path in content["stamps"]}
    assert {"parse.py", "document.py", "policy.py", "pattern.py", "policies.py"} <= stamped
    loading = next(path for path in content["stamps"] if path.endswith("/parse.py"))
    content["stamps"][loading][2] += 1
    places.compiled.write_text(json.dumps(content))
    assert load_compiled(places, {}) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"stamps": {}}', '{"stamps": {}, "kinds": [], "value": 1}'])
def test_damage_costs_only_time(places: Places, text: str) -> None:
    policy = load_policy(places)
    places.compiled.write_text(text)
    assert load_compiled(places, {}) is None
    assert load_policy(places) == policy


def test_a_cut_file_is_not_used_whatever_its_length(places: Places) -> None:
    policy = load_policy(places)
    content = places.compiled.read_bytes()
    for length in range(0, len(content), 997):
        places.compiled.write_bytes(content[:length])
        assert load_compiled(places, {}) is None
    assert load_policy(places) == policy


def test_what_others_than_root_can_write_is_not_used(places: Places) -> None:
    load_policy(places)
    places.compiled.chmod(0o666)
    assert load_compiled(places, {}) is None
    places.compiled.chmod(0o600)
    os.chown(places.compiled, 1000, 1000)
    assert load_compiled(places, {}) is None


def test_a_file_that_was_changed_just_now_is_not_compiled_yet(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another change might come within the same clock tick and go unnoticed."""
    monkeypatch.setattr(policies, "TICK_NS", 10**9 * 60)  # so that it remains "just now", however slowly this runs
    places.policy.touch()
    load_policy(places)
    assert not places.compiled.exists()


def test_without_a_place_for_it_a_policy_is_still_loaded(places: Places) -> None:
    places.home.rmdir()
    assert load_policy(places).service == SERVICE


def test_stamps_are_taken_before_the_file_is_read(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_and_change(path: Path) -> str:
        text = read_trusted(path)
        if path == places.policy:
            path.write_text(f'extends = "{SERVICE}"\n[pace]\nlinger = 9\n')
        return text

    monkeypatch.setattr(policies, "read_trusted", read_and_change)
    assert load_policy(places).pace.linger == 3
    monkeypatch.undo()
    assert load_policy(places).pace.linger == 9


# ---------------------------------------------------------------- as a run loads it


@pytest.fixture
def loader(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load a policy that is not in /etc, in a separate process as a run does."""
    code = (
        f"import sys; sys.path.append({str(Path(sidespawn.__file__).parents[1])!r}); from pathlib import Path\n"
        "from sidespawn.host import policies; from sidespawn.system.places import Places\n"
        f"sys.exit(policies.main(Places(sys.argv[1], Path({str(places.run)!r}), Path({str(places.policies)!r}))))"
    )
    monkeypatch.setattr(current_policy, "LOADER", (sys.executable, "-I", "-S", "-c", code))


@pytest.mark.usefixtures("loader")
def test_a_run_is_given_what_a_verb_would_load(places: Places) -> None:
    stamps: Stamps = {}
    found = current_policy.current_policy(places, stamps)
    assert found == load_policy(places)
    assert {str(places.policy), str(places.policies / "programs" / "dnsmasq.toml")} <= stamps.keys()
    assert are_current(stamps)
    write(places.policy, f'extends = "{SERVICE}"\n[pace]\nlinger = 7\n')
    assert not are_current(stamps)
    assert current_policy.current_policy(places, {}).pace.linger == 7


@pytest.mark.usefixtures("loader")
def test_a_run_learns_what_is_wrong_with_a_policy(places: Places) -> None:
    write(places.policy, 'extends = "nothing-like-it"\n')
    with pytest.raises(PolicyError) as expected:
        load_policy(places)
    stamps: Stamps = {}
    with pytest.raises(PolicyError) as caught:
        current_policy.current_policy(places, stamps)
    assert (caught.value.message, caught.value.hint) == (expected.value.message, expected.value.hint)
    assert are_current(stamps)
    write(places.policy, f'extends = "{SERVICE}"\n')
    assert not are_current(stamps)


@pytest.mark.parametrize(
    "argv, what",
    [
        (("sh", "-c", "echo Killed >&2; exit 137"), "exit code 137, 'Killed'"),
        (("sh", "-c", "echo '{\"stamps\": {'"), "exit code 0, ''"),
        (("sh", "-c", "echo '[]'"), "exit code 0, ''"),
        (("/nonexistent/python3",), "/nonexistent/python3 cannot be run"),
        (("sh", "-c", "sleep 60"), "took more than 0 s"),
    ],
)
def test_a_loader_that_fails_is_a_policy_that_cannot_be_loaded(
    places: Places, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], what: str
) -> None:
    monkeypatch.setattr(current_policy, "LOADER", argv)
    monkeypatch.setattr(current_policy, "LOADING_SECONDS", 0.3 if "sleep 60" in argv else 30)
    stamps: Stamps = {}
    with pytest.raises(PolicyError, match="cannot be loaded") as caught:
        current_policy.current_policy(places, stamps)
    assert what in caught.value.message
    assert str(places.policy) in stamps
