"""The code that runs as root on a request is small, uses only the standard library, and is layered like its folders."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import time
import tokenize
from pathlib import Path

import pytest

from sidespawn.loading.parse import ENGINES
from tests.contract.imports import PACKAGE, imports, path_of

MOST_LINES = 3884  # code that grows here must save lines elsewhere; HACKING.md says what prevents a smaller number
# What the unit's command imports, directly and indirectly.
START = "sidespawn.run"


def reached(start: str, without: frozenset[str] = frozenset()) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in found | without:
            continue
        found.add(module)
        waiting += [each for each in imports(module) if each.partition(".")[0] == "sidespawn"]
        waiting += [module.rpartition(".")[0]] if "." in module else []
    return found


BASE = sorted(reached(START))
# Imported by runs that serve no requests: the timer's, and those that look for containers of legacy wrappers.
OFF_DUTY = frozenset(("sidespawn.core.adoption", "sidespawn.host.adoption", "sidespawn.host.sweep"))
ON_A_REQUEST = sorted(reached("sidespawn.host.sync", OFF_DUTY) | {START})  # no loader, no creation of directories
# Imported by the separate process that loads a policy from TOML.
LOADER = reached("sidespawn.host.policies") - set(ON_A_REQUEST)
# Shared by the runtimes around runc; no other engine has it.
OF_RUNTIMES = "sidespawn.system.oci"
PURE = ("sidespawn.core", "sidespawn.errors", "sidespawn.frozen")


def engine_modules(engine: str) -> set[str]:
    own = {f"sidespawn.engines.{path.stem}" for path in (PACKAGE / "engines").glob(f"{engine}*.py")}
    return own | ({OF_RUNTIMES} if f"sidespawn.engines.{engine}_runtime" in own else set())


def code_lines(path: Path) -> int:
    """Return the numbers of lines with code: no blank lines, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def is_within(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in allowed)


# ---------------------------------------------------------------- what it consists of


def test_it_is_what_the_folders_say() -> None:
    folders = {module.split(".")[1] for module in BASE if "." in module}
    assert folders == {"core", "engines", "errors", "frozen", "host", "loading", "presets", "run", "system"}
    assert {"sidespawn.host.sync", "sidespawn.core.decide", "sidespawn.engines.podman"} <= set(BASE)


def test_it_does_not_reach_what_is_only_convenient() -> None:
    assert not [
        module
        for module in BASE
        if is_within(module, ("sidespawn.cli", "sidespawn.testing", "sidespawn.agent.wrapper"))
    ]
    assert "sidespawn.host_report.suitability" not in BASE


@pytest.mark.parametrize("module", BASE)
def test_it_imports_only_the_standard_library_and_itself(module: str) -> None:
    for each in imports(module):
        assert each.partition(".")[0] in sys.stdlib_module_names | {"sidespawn"}


@pytest.mark.parametrize("module", [each for each in BASE if is_within(each, ("sidespawn.core", "sidespawn.loading"))])
def test_core_touches_nothing(module: str) -> None:
    """Deciding needs no files, clock, environment or processes. `_socket` is only asked to parse addresses."""
    names = {each.partition(".")[0] for each in imports(module)}
    assert not names & {
        "os",
        "pathlib",
        "subprocess",
        "time",
        "datetime",
        "random",
        "secrets",
        "shutil",
        "threading",
        "io",
    }
    assert "socket" not in names
    if module != "sidespawn.core.values":
        assert "_socket" not in names
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path_of(module).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "eval", "exec", "compile", "__import__"}


def test_it_runs_without_the_site_module() -> None:
    """Units run it like this: only the standard library can be imported."""
    modules = [module for module in BASE if module != START]
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import {', '.join(modules)}\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - sys.stdlib_module_names <= {"sidespawn", "__main__", "sitecustomize"}


def test_it_does_without_what_takes_long_to_import() -> None:
    """Importing one of these would cost every run milliseconds before its first request."""
    modules = ", ".join(each for each in ON_A_REQUEST if each not in engine_modules("docker"))
    code = (
        f"import sys; sys.path.append({str(PACKAGE.parent)!r}); import contextlib, {START}\n"
        f"with contextlib.suppress(FileNotFoundError): {START}.main(['sync', 'not-enabled'])\n"
        f"import {modules}; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    slow = {"dataclasses", "inspect", "queue", "socket", "string", "tomllib", "typing"}
    assert not slow & set(done.stdout.split())


@pytest.mark.parametrize("module", BASE)
def test_it_replaces_no_module(module: str) -> None:
    """Python can be built in a way that needs exactly the module that seemed unnecessary."""
    targets = [
        each for node in ast.walk(tree(module)) if isinstance(node, ast.Assign | ast.Delete) for each in node.targets
    ]
    assert not [each for each in targets if ast.unparse(each).startswith("sys.modules")]


BUILT_IN = ("_md5", "_sha1", "_sha2", "_sha256", "_sha512", "_sha3")
HIDE_BUILT_IN = f"for name in {BUILT_IN!r}: sys.modules[name] = None"
ONLY_FIPS = """
import _hashlib
def refuse(*arguments, usedforsecurity=True):
    if usedforsecurity: raise ValueError("[digital envelope routines] unsupported")
_hashlib.openssl_md5 = refuse
"""


@pytest.mark.parametrize(
    "difference",
    [HIDE_BUILT_IN, HIDE_BUILT_IN + ONLY_FIPS, "sys.modules['_hashlib'] = None"],
    ids=["without built-in hashes, as RHEL builds it", "the same in FIPS mode", "without OpenSSL"],
)
def test_hashing_works_however_python_is_built(difference: str) -> None:
    """Hide what such a Python lacks. tests/machine tries it with a real FIPS provider."""
    code = (
        f"import sys, contextlib; sys.path.append({str(PACKAGE.parent)!r})\n{difference}\n"
        f"import {START}\n"
        f"with contextlib.suppress(FileNotFoundError): {START}.main(['sync', 'not-enabled'])\n"
        f"from sidespawn.host.ledger import digest_of\n"
        f"print(digest_of('abc'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"


def test_a_run_has_another_process_load_a_policy_that_was_changed(tmp_path: Path) -> None:
    """Check that the run never imports a TOML parser, whether the policy is compiled or not."""
    service, (policies, run) = "neutron-dhcp-dnsmasq", (tmp_path / "etc", tmp_path / "run")
    policies.mkdir()
    (run / service / "ledger").mkdir(parents=True)
    (policies / f"{service}.toml").write_text(f'extends = "{service}"\n')
    time.sleep(0.2)  # a file that was changed just now is not compiled yet
    places = (
        f"import sys; sys.path.append({str(PACKAGE.parent)!r}); from pathlib import Path\n"
        "from sidespawn.system.places import Places\n"
        f"places = Places({service!r}, run=Path({str(run)!r}), policies=Path({str(policies)!r}))\n"
    )
    load = places + f"from sidespawn.host import policies; Path({str(tmp_path / 'loaded')!r}).touch()\n"
    load += "sys.exit(policies.main(places))"
    code = places + (
        "import sidespawn.run, sidespawn.host.sync as sync, sidespawn.host.current_policy as current\n"
        f"current.LOADER = (sys.executable, '-I', '-S', '-c', {load!r})\n"
        f"assert sync.make_service(places, None, {{}}).policy.service == {service!r}; print(*sys.modules)"
    )
    for is_compiled in (False, True):
        (tmp_path / "loaded").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "loaded").exists() is not is_compiled
        assert {each for each in done.stdout.split() if each.partition(".")[0] == "sidespawn"} <= set(ON_A_REQUEST)


@pytest.mark.parametrize("arguments", [[], ["sync"], ["sync", "No_Service"], ["sync", "../x"], ["sync", "a", "b"]])
def test_wrong_use_of_the_units_command(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(path_of(START)), *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("usage: ")


# ---------------------------------------------------------------- processes


def tree(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", BASE)
def test_no_shell(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            assert not [each for each in node.keywords if each.arg == "shell"]
            name = ast.unparse(node.func)
            assert not name.startswith(
                ("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "pty.")
            )


@pytest.mark.parametrize("module", [each for each in BASE if each != "sidespawn.system.processes"])
def test_processes_start_in_one_module(module: str) -> None:
    assert not {"subprocess", "multiprocessing", "pty"} & {each.partition(".")[0] for each in imports(module)}


def test_every_process_has_a_time_limit() -> None:
    calls = [
        node
        for node in ast.walk(tree("sidespawn.system.processes"))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("Popen", ".communicate", ".wait", "subprocess.run"))
    ]
    assert len(calls) == 3
    for call in calls:
        wanted = {"env", "stdin"} if ast.unparse(call.func) == "Popen" else {"timeout"}
        assert wanted <= {each.arg for each in call.keywords}, ast.unparse(call)


# ---------------------------------------------------------------- size


def without_others(engine: str, engines: dict[str, set[str]]) -> set[str]:
    """Return what a run with this engine imports."""
    others = frozenset(set().union(*engines.values()) - engines[engine])
    return reached("sidespawn.host.sync", OFF_DUTY | others) | {START}


def test_it_can_be_read_in_one_sitting(capsys: pytest.CaptureFixture[str]) -> None:
    """Services have one engine each, so the longest one counts. An engine's files begin with its name."""
    engines = {name: engine_modules(name) for name in ENGINES}
    reach = {name: without_others(name, engines) for name in ENGINES}
    longest = max(reach, key=lambda name: sum(code_lines(path_of(each)) for each in reach[name]))
    modules = reach[longest]
    code = {module: code_lines(path_of(module)) for module in modules}
    decides = sum(lines for module, lines in code.items() if is_within(module, PURE))
    lines = sum(len(path_of(module).read_text(encoding="utf-8").splitlines()) for module in modules)
    loader = sum(code_lines(path_of(module)) for module in LOADER)
    with capsys.disabled():
        print(f"\n{loader} lines of code more load a policy, in a process of its own for each change", end="")
        print(f"\n{sum(code_lines(path_of(module)) for module in OFF_DUTY)} more sweep and adopt", end="")
        print(
            f"\ntrusted base: {sum(code.values())} lines of code, {lines} in all, {len(code)} files ({longest})", end=""
        )
        print(f": {decides} decide, {sum(code.values()) - decides} act")
    assert sum(code.values()) <= MOST_LINES, sorted(code.items(), key=lambda each: -each[1])


@pytest.mark.parametrize("module", BASE)
def test_no_file_is_too_long_to_hold_in_mind(module: str) -> None:
    assert len(path_of(module).read_text(encoding="utf-8").splitlines()) <= 420


def test_what_counts_as_code(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('"""A\nB"""\n\n# C\nx = 1  # D\n\n\ndef f(\n    a,\n):\n    """E"""\n    return """\n    """\n')
    assert code_lines(path) == 6
