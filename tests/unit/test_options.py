"""Reading arguments exactly: stricter than getopt_long(3), so that a program cannot understand more than was judged."""

from __future__ import annotations

import pytest

from sidespawn import presets
from sidespawn.core.options import Option, ProgramTable, Takes, read_arguments
from sidespawn.errors import Denied, Reason
from sidespawn.loading.programs import parse_program

DNSMASQ = parse_program("dnsmasq", presets.read_program("dnsmasq"))
LETTERS = ProgramTable(  # like haproxy's: `-f FILE`, `-V`
    directives={},
    program="letters",
    version="1",
    options={
        "f": Option(name="f", takes=Takes.VALUE),
        "V": Option(name="V", takes=Takes.NOTHING),
        "o": Option(name="o", takes=Takes.OPTIONAL),
    },
)


def read(*arguments: str, table: ProgramTable = DNSMASQ) -> list[tuple[str, str | None]]:
    given = read_arguments(table, (table.program, *arguments))
    return [(each.option.name, each.untrusted_value) for each in given]


def refusal(*arguments: str, table: ProgramTable = DNSMASQ) -> Denied:
    with pytest.raises(Denied) as caught:
        read_arguments(table, (table.program, *arguments))
    return caught.value


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], []),
        (["--no-hosts"], [("no-hosts", None)]),
        (["--domain=example"], [("domain", "example")]),
        (["--domain", "example"], [("domain", "example")]),
        (["--domain="], [("domain", "")]),
        (["--domain", ""], [("domain", "")]),
        (["--domain=a=b"], [("domain", "a=b")]),
        (["--domain", "--no-hosts"], [("domain", "--no-hosts")]),  # as getopt_long(3) reads it; no type accepts it
        (["--log-queries"], [("log-queries", None)]),
        (["--log-queries=extra"], [("log-queries", "extra")]),
        (["-k"], [("keep-in-foreground", None)]),
        (["-s", "example"], [("domain", "example")]),
        (["-q"], [("log-queries", None)]),
        (["-A", "/a/10.0.0.1"], [("address", "/a/10.0.0.1")]),
        (["-a", "10.0.0.1"], [("listen-address", "10.0.0.1")]),  # letters are case-sensitive
        (["", "--no-hosts", " "], [("no-hosts", None)]),
        (["--server=1", "--server=2", "--server=1"], [("server", "1"), ("server", "2"), ("server", "1")]),
    ],
)
def test_read(arguments: list[str], given: list[tuple[str, str | None]]) -> None:
    assert read(*arguments) == given


def test_letters_that_are_an_options_only_name() -> None:
    assert read("-f", "/etc/x", "-V", "-o", table=LETTERS) == [("f", "/etc/x"), ("V", None), ("o", None)]


def test_each_option_knows_where_it_stood() -> None:
    given = read_arguments(DNSMASQ, ("dnsmasq", "", "--domain", "example", "--no-hosts"))
    assert [each.argument for each in given] == [2, 4]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "argument",
    [
        # getopt_long takes these (seen with dnsmasq 2.90), so they must not be read as something else.
        *(
            "--conf-scr=/tmp/x",
            "--log-fac=/tmp/x",
            "--pid-f=/tmp/x",
            "--addn=/tmp/x",
            "--tftp-ro=/",
            "--dhcp-hostsf=/x",
        ),
        *("-6/tmp/x", "-C/tmp/x", "-7/tmp/x", "-x/tmp/x", "-8/tmp/x"),
        *("-kd", "-hk", "-qextra"),
        # These are merely odd.
        *("--NO-HOSTS", "--no_hosts", "--No-hosts", "-no-hosts", "---no-hosts", "--no-hosts ", "--no-hosts\n"),
        *("--no-hosts\0", "--", "---", "--=", "--=x", "-=x", "--k", "-\u006b\u0301", "--no\u2010hosts", "-~", "- k"),
    ],
)
def test_an_option_is_spelled_in_full_or_refused(argument: str) -> None:
    expected = Reason.POSITIONAL_NOT_ALLOWED if argument == "--" else Reason.OPTION_UNKNOWN
    assert refusal("--no-hosts", argument, "value").reason is expected


def test_the_refusal_says_which_argument_and_what_to_do() -> None:
    denied = refusal("--no-hosts", "", "--conf-scr=/tmp/x")
    assert denied.argument == 3
    assert "argument 3, '--conf-scr=/tmp/x', is not an option of dnsmasq 2.90" in denied.message
    assert "in full" in denied.hint


@pytest.mark.parametrize("argument", ["-", "--", "eth0", "/etc/shadow", " --no-hosts", "\n", "\t", "\u2013k", "=x"])
def test_nothing_positional(argument: str) -> None:
    assert refusal("--no-hosts", argument).reason is Reason.POSITIONAL_NOT_ALLOWED


def test_a_value_that_needs_an_equals_sign_is_not_the_next_argument() -> None:
    denied = refusal("--pid-file", "/tmp/x")
    assert (denied.reason, denied.argument) == (Reason.POSITIONAL_NOT_ALLOWED, 2)


@pytest.mark.parametrize(
    ("argument", "table"),
    [
        ("--no-hosts=", DNSMASQ),
        ("--no-hosts=1", DNSMASQ),
        ("-k=1", DNSMASQ),
        ("-s=example", DNSMASQ),  # getopt reads the value as "=example"
        ("-q=extra", DNSMASQ),
        ("-f=/etc/x", LETTERS),
        ("-o=x", LETTERS),
        ("-V=", LETTERS),
    ],
)
def test_an_equals_sign_where_none_belongs(argument: str, table: ProgramTable) -> None:
    assert refusal(argument, table=table).reason is Reason.OPTION_MALFORMED


@pytest.mark.parametrize(("arguments", "table"), [(["--domain"], DNSMASQ), (["-s"], DNSMASQ), (["-f"], LETTERS)])
def test_a_missing_value(arguments: list[str], table: ProgramTable) -> None:
    denied = refusal(*arguments, table=table)
    assert (denied.reason, denied.argument) == (Reason.OPTION_MALFORMED, 1)


def test_an_agents_string_is_escaped_in_the_message() -> None:
    message = refusal("--\x1b[31m\n<0>" + "A" * 5000).message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 400


# ---------------------------------------------------------------- what the program gets


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["--domain", "example"], ["--domain=example"]),
        (["--domain=example"], ["--domain=example"]),
        (["-s", "example"], ["--domain=example"]),
        (["-k"], ["--keep-in-foreground"]),
        (["--log-queries"], ["--log-queries"]),
        (["-q"], ["--log-queries"]),
        (["--log-queries=extra"], ["--log-queries=extra"]),
        (["--domain", "--no-hosts"], ["--domain=--no-hosts"]),  # cannot be taken for an option any more
        (["--domain="], ["--domain="]),
        (["", " "], []),
    ],
)
def test_written_in_one_canonical_way(arguments: list[str], written: list[str]) -> None:
    given = read_arguments(DNSMASQ, ("dnsmasq", *arguments))
    assert [text for each in given for text in each.option.written(each.untrusted_value)] == written


def test_an_option_that_is_only_a_letter_is_written_as_two_arguments() -> None:
    assert LETTERS.options["f"].written("/etc/x") == ("-f", "/etc/x")


def test_what_is_written_is_read_back_as_the_same() -> None:
    for option in DNSMASQ.options.values():
        value = None if option.takes is Takes.NOTHING else "value"
        assert read(*option.written(value)) == [(option.name, value)]


def test_no_two_options_of_the_shipped_table_share_a_letter() -> None:
    letters = [option.short for option in DNSMASQ.options.values() if option.short]
    assert len(letters) == len(set(letters)) > 40


# ---------------------------------------------------------------- words

WORDS = ProgramTable(
    directives={},
    program="words",
    version="1",
    options={
        "start": Option(name="start", takes=Takes.WORD),
        "stop": Option(name="stop", takes=Takes.WORD),
        "w": Option(name="w", takes=Takes.VALUE),
    },
)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["start"], [("start", None)]),
        (["start", "-w", "stop"], [("start", None), ("w", "stop")]),
        (["", "start"], [("start", None)]),
        (["-w", "start"], [("w", "start")]),
    ],
)
def test_a_word_comes_first(arguments: list[str], given: list[tuple[str, str | None]]) -> None:
    assert read(*arguments, table=WORDS) == given


@pytest.mark.parametrize(
    "arguments",
    [["-w", "x", "start"], ["start", "stop"], ["start", "start"], ["star"], ["started"], ["START"], ["start\n"], ["w"]],
    ids=ascii,
)
def test_a_word_elsewhere_or_another_is_positional(arguments: list[str]) -> None:
    assert refusal(*arguments, table=WORDS).reason is Reason.POSITIONAL_NOT_ALLOWED


@pytest.mark.parametrize("argument", ["-start", "--start", "start=1"])
def test_a_word_is_no_option(argument: str) -> None:
    assert refusal(argument, table=WORDS).reason in (Reason.OPTION_UNKNOWN, Reason.OPTION_MALFORMED)


def test_a_word_is_written_as_it_is() -> None:
    assert WORDS.options["start"].written(None) == ("start",)
