"""The targets: on every kept seed, for a few seconds each with atheris, and on readers that were broken on purpose."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from sidespawn.agent import wrapper
from sidespawn.core import configuration, options, wire
from sidespawn.errors import Denied
from tests.fuzz import __main__ as runner
from tests.fuzz import getopt, targets

SEEDS = sorted(path for name in runner.NAMES for path in (runner.SEEDS / name).iterdir())
SECONDS = 2  # for each target, two in parallel; use `./dev fuzz` to find bugs


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_seed_breaks_a_promise(path: Path) -> None:
    targets.TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_seeds_and_a_dictionary() -> None:
    assert tuple(targets.TARGETS) == runner.NAMES
    for name in runner.NAMES:
        assert len(list((runner.SEEDS / name).iterdir())) >= 5
        assert (runner.SEEDS / f"{name}.dict").read_text()


def test_atheris_finds_nothing_in_a_few_seconds(tmp_path: Path) -> None:
    outcomes = runner.fuzz(runner.NAMES, SECONDS, at_once=2, home=tmp_path, nice=0)
    for each in outcomes:
        print(f"{each.target}: {each.executions} executions, {each.edges} edges")
        assert not each.findings, each.said
        assert each.executions > 30
        assert each.edges > 10, "the readers are not instrumented"


# ---------------------------------------------------------------- the targets detect bugs


def accepts_anything(_value: object, _where: str) -> str:
    return str(_value)


def test_a_control_character_that_gets_through_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = (runner.SEEDS / "requests/start-0").read_bytes().replace(b'"dnsmasq"', b'"dns\\u0007masq"', 1)
    targets.requests(line)
    monkeypatch.setattr(wire, "plain_text", accepts_anything)
    with pytest.raises(AssertionError, match="control character"):
        targets.requests(line)


def test_a_duplicate_key_that_gets_through_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "unique_keys", lambda pairs: dict(reversed(pairs)))
    line = (runner.SEEDS / "requests/signal").read_bytes().replace(b'"pid": 4711', b'"pid": 4711, "pid": 4712')
    with pytest.raises(AssertionError, match="any reader of JSON"):
        targets.requests(line)


def test_an_abbreviation_that_gets_through_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\x00--conf-scr=/x"
    targets.arguments(content)
    table = targets.program_table("dnsmasq")
    lax = {**table.options, "conf-scr": options.Option(name="conf-scr", takes=options.Takes.VALUE)}
    table = options.ProgramTable(program="dnsmasq", version="1", options=lax, directives={})
    monkeypatch.setattr(targets, "program_table", lambda _program: table)
    with pytest.raises(AssertionError, match="conf-script"):
        targets.arguments(content)


def test_a_value_that_is_an_operand_to_the_program_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This bug existed before the table said that --conf-file takes its value only after `=`."""
    wrong = options.Option(name="conf-file", takes=options.Takes.VALUE, short="C")
    table = options.ProgramTable(program="dnsmasq", version="1", options={"conf-file": wrong}, directives={})
    monkeypatch.setattr(targets, "program_table", lambda _program: table)
    with pytest.raises(AssertionError, match="understands"):
        targets.arguments(b"\x00--conf-file\0/etc/x")


def test_a_character_that_a_program_expands_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in SEEDS if path.name.startswith("neutron-l3-radvd"))
    monkeypatch.setattr(configuration.Reader, "written", lambda *_arguments: "x $HOME\n")
    with pytest.raises(AssertionError, match="expand"):
        targets.configurations(path.read_bytes())


def test_a_reply_that_looks_like_success_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wrapper.EXIT_CODES, "rejected", wrapper.OK)
    with pytest.raises(AssertionError, match="success"):
        targets.replies((runner.SEEDS / "replies/rejected").read_bytes())


# ---------------------------------------------------------------- option tables compared with the programs

ARITY = {options.Takes.NOTHING: 0, options.Takes.VALUE: 1, options.Takes.OPTIONAL: 2}


@pytest.mark.parametrize("program", targets.ORACLES)
def test_the_table_is_the_programs_own(program: str) -> None:
    ours, theirs = targets.program_table(program), targets.oracle(program)
    aliases = {name for (where, _), names in targets.ALIASES.items() if where == program for name in names}
    assert set(ours.options) | aliases == {each.name for each in theirs.options}
    taken = {each.name: each.has_argument for each in theirs.options}
    assert {name: taken[name] for name in ours.options} == {
        name: ARITY[option.takes] for name, option in ours.options.items()
    }


@pytest.mark.parametrize("program", targets.ORACLES)
def test_a_letter_takes_a_value_where_the_programs_does(program: str) -> None:
    letters = targets.oracle(program).letters.decode().lstrip(":")
    theirs = {match[1]: match[2] == ":" for match in re.finditer(r"([^:])(:{0,2})", letters)}
    for option in targets.program_table(program).options.values():
        if option.short:
            needs = option.takes is options.Takes.VALUE or option.short_takes_value
            assert theirs[option.short] is needs, option.name


@pytest.mark.parametrize("program", targets.ORACLES)
def test_random_lists_that_are_allowed_are_understood_alike(program: str) -> None:
    """Try them without atheris's guidance, but with mostly valid lists, which are the same on each run."""
    chance, table, allowed = random.Random(program), targets.program_table(program), 0
    number = sorted(targets.ORACLES).index(program)
    names = sorted(table.options)
    for _ in range(3000):
        words: list[str] = []
        for name in chance.choices(names, k=chance.randint(1, 6)):
            option, value = table.options[name], chance.choice(("x", "", "--no-hosts", "a=b", "-", "é", " "))
            letter = f"-{option.short}" if option.short else option.spelling
            forms: list[tuple[str, ...]] = [(option.spelling,), (letter,)]
            forms += [(f"{option.spelling}={value}",), (option.spelling, value), (letter, value), (letter + value,)]
            weights = (6, 3, 1, 1, 0, 0) if option.takes is options.Takes.NOTHING else (2, 2, 6, 4, 4, 1)
            words += chance.choices(forms, weights)[0]
        content = bytes([number]) + "\0".join(words).encode()
        targets.arguments(content)
        try:
            options.read_arguments(table, (program, *words))
            allowed += 1
        except Denied:
            pass
    print(f"{program}: {allowed} of 3000 lists are allowed")
    assert allowed > 300


def test_getopt_is_glibcs_own() -> None:
    table = targets.oracle("dnsmasq")
    seen = getopt.understood(table, ("dnsmasq", "--conf-scr=/x", "-x", "pid", "--pid-file", "left", "--nothing"))
    assert seen.options == (("conf-script", "/x"), ("pid-file", "pid"), ("pid-file", None))
    assert (seen.operands, seen.wrong) == (("left",), True)
