"""How a real program reads its arguments: with glibc's getopt_long(3), and the table from the program's file.

People wrote the option tables in `presets/programs`. This table is read from the installed ELF file: the array of
`struct option` that the program passes to getopt_long, and its string of short options. So the two are independent, and
`understood` is how the program would read an argument list before it looks at values.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

OPTION_BYTES = 32  # struct option on 64-bit machines: name, has_arg, flag, val
LETTERS = re.compile(rb"[-+:]{0,2}(?:[A-Za-z0-9?@]:{0,2}){6,}")
RELATIVE = frozenset({8, 1027})  # R_X86_64_RELATIVE, R_AARCH64_RELATIVE
NO_ARGUMENT, REQUIRED, OPTIONAL = 0, 1, 2


@dataclass(frozen=True)
class LongOption:
    name: str
    has_argument: int
    flag: int  # the address that gets `value`; 0 in all relevant tables
    value: int


@dataclass(frozen=True)
class Table:
    """A program's table: the short options as getopt_long(3) takes them, and the long options in order."""

    letters: bytes
    options: tuple[LongOption, ...]


@dataclass(frozen=True)
class Understood:
    """`options`: index of the long option or the letter, with its value. `wrong` if getopt_long reported an error."""

    options: tuple[tuple[str, str | None], ...]
    operands: tuple[str, ...]
    wrong: bool


@cache
def table_of(program: Path, known: str) -> Table:
    """Return the table of an installed program that has a long option called `known`."""
    with program.open("rb") as file:
        image = Image(ELFFile(file))
        starts = [at for at, target in image.pointers.items() if image.text(target) == known.encode()]
        tables = [table for at in starts if len(table := image.table_around(at)) > 3]
        assert tables, f"{program} has no table of long options with {known}"
        options = max(tables, key=len)
        letters = image.letters(options)
    return Table(letters=letters, options=options)


class Image:
    """An ELF file as mapped into memory. Positions count from where it is loaded."""

    def __init__(self, elf: ELFFile) -> None:
        self.segments = [(each["p_vaddr"], each.data()) for each in elf.iter_segments("PT_LOAD")]
        constants, relocations = elf.get_section_by_name(".rodata"), elf.get_section_by_name(".rela.dyn")
        assert constants is not None
        assert isinstance(relocations, RelocationSection)
        self.constants = constants.data()
        self.pointers: dict[int, int] = {
            each["r_offset"]: each["r_addend"]
            for each in relocations.iter_relocations()
            if each["r_info_type"] in RELATIVE
        }

    def bytes_at(self, position: int, most: int) -> bytes:
        for start, content in self.segments:
            if start <= position < start + len(content):
                return bytes(content[position - start :][:most])
        return b""

    def text(self, position: int) -> bytes:
        return self.bytes_at(position, 80).partition(b"\0")[0]

    def option(self, position: int) -> LongOption | None:
        name, rest = self.pointers.get(position), self.bytes_at(position + 8, 24)
        if name is None or len(rest) < 24:
            return None
        has_argument, flag, value = struct.unpack("<i4xqi4x", rest)
        if has_argument not in (NO_ARGUMENT, REQUIRED, OPTIONAL) or not self.text(name):
            return None
        return LongOption(self.text(name).decode("ascii", "replace"), has_argument, flag, value)

    def table_around(self, position: int) -> tuple[LongOption, ...]:
        while self.option(position - OPTION_BYTES) is not None:
            position -= OPTION_BYTES
        return tuple(takewhile(lambda each: each is not None, self.from_there(position)))  # type: ignore[arg-type]

    def from_there(self, position: int) -> Iterator[LongOption | None]:
        while True:
            yield self.option(position)
            position += OPTION_BYTES

    def letters(self, options: tuple[LongOption, ...]) -> bytes:
        """Return the constant that agrees best with the long options; the compiler keeps no name for it."""
        wanted = {chr(each.value): each.has_argument for each in options if 32 < each.value < 127}
        candidates = [each for each in self.constants.split(b"\0") if LETTERS.fullmatch(each)]
        if not wanted or not candidates:
            return b""

        def agreement(candidate: bytes) -> int:
            letters = candidate.decode().lstrip("-+:")
            has = {match[1]: len(match[2]) for match in re.finditer(r"([^:])(:{0,2})", letters)}
            return sum(1 if has.get(letter) == takes else -1 for letter, takes in wanted.items())

        return max(candidates, key=agreement)


class Option(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("has_arg", ctypes.c_int),
        ("flag", ctypes.c_void_p),
        ("val", ctypes.c_int),
    )


libc = ctypes.CDLL(None)
libc.getopt_long.argtypes = (
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.c_char_p,
    ctypes.POINTER(Option),
    ctypes.POINTER(ctypes.c_int),
)
optarg = ctypes.c_char_p.in_dll(libc, "optarg")
optind = ctypes.c_int.in_dll(libc, "optind")
opterr = ctypes.c_int.in_dll(libc, "opterr")


@cache
def array_of(table: Table) -> ctypes.Array[Option]:
    """Return the long options with their index as the value, so that getopt_long's answer identifies the option."""
    rows = [Option(each.name.encode(), each.has_argument, None, 1000 + i) for i, each in enumerate(table.options)]
    return (Option * (len(rows) + 1))(*rows, Option(None, 0, None, 0))


def understood(table: Table, argv: tuple[str, ...]) -> Understood:
    """Return what the program reads in `argv`, which begins with its own name."""
    arguments = (ctypes.c_char_p * (len(argv) + 1))(*(each.encode() for each in argv), None)
    letters = table.letters.lstrip(b":") or b""
    by_letter = {chr(each.value): each.name for each in table.options if 32 < each.value < 127}
    optind.value, opterr.value = 0, 0  # 0: glibc starts over
    found: list[tuple[str, str | None]] = []
    wrong = False
    while (code := libc.getopt_long(len(argv), arguments, b":" + letters, array_of(table), None)) != -1:
        value = None if optarg.value is None else optarg.value.decode()
        if code in (ord("?"), ord(":")):
            wrong = True
        elif code >= 1000:
            found.append((table.options[code - 1000].name, value))
        else:
            found.append((by_letter.get(chr(code), chr(code)), value))
    operands = tuple((arguments[i] or b"").decode() for i in range(optind.value, len(argv)))
    return Understood(tuple(found), operands, wrong)
