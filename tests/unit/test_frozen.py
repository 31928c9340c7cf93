"""Records behave like the dataclasses that type checkers take them for."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from sidespawn import frozen


@frozen.dataclass(frozen=True)
class Point:
    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        return self.x + self.y


@frozen.dataclass(frozen=True, kw_only=True)
class Named(Point):
    name: str
    parts: tuple[Point, ...] = ()


@dataclasses.dataclass(frozen=True)
class RealPoint:
    x: int
    y: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealNamed(RealPoint):
    name: str
    parts: tuple[RealPoint, ...] = ()


A, REAL = Named(x=1, name="a", parts=(Point(3),)), RealNamed(x=1, name="a", parts=(RealPoint(3),))


def test_fields_are_set_by_position_and_by_name_with_defaults() -> None:
    assert Point(1) == Point(1, 2) == Point(x=1, y=2) == Point(1, y=2)
    assert (Point(1).x, Point(1).y, Point(1).sum) == (1, 2, 3)


@pytest.mark.parametrize("values, named", [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})])
def test_missing_extra_duplicate_and_unknown_keys_are_refused(values: tuple[int, ...], named: dict[str, Any]) -> None:
    for kind in (Point, RealPoint):
        make: Any = kind
        with pytest.raises(TypeError):
            make(*values, **named)


def test_keyword_only_means_so() -> None:
    assert Named(1, name="a") == Named(x=1, name="a")
    for kind in (Named, RealNamed):
        make: Any = kind
        with pytest.raises(TypeError):
            make(1, 2, "a")


def test_they_are_frozen() -> None:
    record: Any = A
    with pytest.raises(AttributeError, match=r"Named.x is not to be changed to 2"):
        record.x = 2
    with pytest.raises(AttributeError, match=r"Named.new is not to be changed"):
        record.new = 2
    with pytest.raises(AttributeError, match=r"Named.x is not to be deleted"):
        del record.x
    assert A.x == 1


def test_equality_is_of_one_class_only() -> None:
    assert dataclasses.replace(A) == A != dataclasses.replace(A, x=2)
    other: Any = RealPoint(1, 2)
    assert Point(1, 2) != other
    assert len({Point(1), Point(1, 2), Point(2)}) == 2


def test_repr_and_asdict_are_as_those_of_dataclasses() -> None:
    assert repr(A) == repr(REAL).replace("Real", "")
    assert frozen.asdict(A) == dataclasses.asdict(A) == dataclasses.asdict(REAL)
    nested: Any = {"k": [Point(1)]}
    assert frozen.asdict(Point(nested)) == {"x": {"k": [{"x": 1, "y": 2}]}, "y": 2}


def test_replace_and_fields_of_the_standard_library_take_them() -> None:
    assert frozen.replace(A, x=7) == dataclasses.replace(A, x=7) == Named(x=7, name="a", parts=(Point(3),))
    assert [each.name for each in dataclasses.fields(Named)] == [each.name for each in dataclasses.fields(RealNamed)]
    unknown: Any = {"z": 1}
    with pytest.raises(TypeError):
        frozen.replace(A, **unknown)


def test_nothing_heavy_is_loaded_for_them() -> None:
    code = (
        "import sys; from sidespawn.frozen import dataclass\n"
        "@dataclass(frozen=True)\nclass A:\n    x: int\n"
        "print(A(1), *({'dataclasses', 'inspect', 'typing'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "A(x=1)\n"
