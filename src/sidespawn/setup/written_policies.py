"""The policies that `sidespawn enable` writes: their text, and the mark by which a change by hand is noticed."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from sidespawn.loading.document import parse_toml

MARK = "# Written by `sidespawn enable`; `sidespawn disable` removes it unless it was changed. "
MODE = re.compile(r"""^(\s*["']?mode["']?\s*=\s*)(?:"[a-z]*"|'[a-z]*')""")


@dataclass(frozen=True, kw_only=True)
class Written:
    """The content of a policy that `enable` writes. Without a value, the preset's holds."""

    preset: str | None = None
    mode: str | None = None
    engine: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def over(self, earlier: Written) -> Written:
        """Return this with what it does not say from an earlier one."""
        return replace(
            self,
            preset=self.preset or earlier.preset,
            mode=self.mode or earlier.mode,
            engine=self.engine or earlier.engine,
            parameters={**earlier.parameters, **self.parameters},
        )


def marked(body: str) -> str:
    return f"{MARK}{digest(body)}\n{body}"


def is_ours(text: str) -> bool:
    """Return whether a policy is still as `enable` wrote it."""
    first, _, body = text.partition("\n")
    return first == MARK + digest(body)


def digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def read_written(source: str, text: str) -> Written:
    """Return what a policy says that `enable` wrote. Raises PolicyError, with `source` as the file's name."""
    document, _ = parse_toml(source, text)
    return Written(
        preset=document.get("extends"),
        mode=document.get("mode"),
        engine=document.get("side_container", {}).get("engine"),
        parameters={name: str(value) for name, value in document.get("parameters", {}).items()},
    )


def with_mode(source: str, text: str, mode: str) -> str | None:
    """Return any policy with another mode and nothing else changed; None if no line can be found for it.

    Raises PolicyError if it is not TOML, with `source` as the file's name.
    """
    document, lines = parse_toml(source, text)
    wanted = {**document, "mode": mode}
    after = next((lines[each] for each in (("extends",), ("version",)) if each in lines), ":0")
    start = int(after.rpartition(":")[2])
    return next((each for each in attempts(text, mode, start) if means(each, wanted)), None)


def attempts(text: str, mode: str, start: int) -> Iterator[str]:
    """Yield the text with another value in each line that may set the mode, then with such a line added."""
    rows = text.split("\n")
    for number, row in enumerate(rows):
        if MODE.match(row):
            yield "\n".join((*rows[:number], MODE.sub(rf'\g<1>"{mode}"', row), *rows[number + 1 :]))
    for number in (start, 0):
        yield "\n".join((*rows[:number], f'mode = "{mode}"', *rows[number:]))


def means(text: str, document: Mapping[str, object]) -> bool:
    try:
        return tomllib.loads(text) == document
    except ValueError:
        return False
