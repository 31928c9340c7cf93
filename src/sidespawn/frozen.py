"""Frozen dataclasses that cost a run almost nothing: the part of `dataclasses` that we need.

The standard library's module imports inspect, ast and dis, and compiles methods for each class.  For our forty classes,
that took 21 of the 58 ms of processor time that a run needed until its first request.  Here all classes share their
methods.  Type checkers and readers can treat `dataclass` as the real one.  The standard library's `replace`, `asdict`
and `fields` also accept these records; only then is its module loaded.
"""

from __future__ import annotations

__all__ = ["asdict", "dataclass", "rebuild", "replace"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, replace
    from typing import Any

    def rebuild(cls: type, values: list[Any]) -> Any: ...

else:

    def dataclass(*, frozen, kw_only=False):
        """Decorate a class: its annotated names, after those of its bases, become fields."""
        assert frozen  # noqa: S101 - nothing else is offered, and type checkers do not know

        def decorate(cls):
            own = tuple(vars(cls).get("__annotations__", ()))
            cls._names = dict.fromkeys((*getattr(cls, "_names", ()), *own)).keys()
            cls._by_position = getattr(cls, "_by_position", ()) + (() if kw_only else own)
            cls._defaults = {name: getattr(cls, name) for name in cls._names if hasattr(cls, name)}
            cls.__dataclass_fields__ = Fields()
            for name in ("__init__", "__setattr__", "__delattr__", "__eq__", "__hash__", "__repr__"):
                setattr(cls, name, vars(Methods)[name])
            return cls

        return decorate

    class Methods:
        def __init__(self, *values, **named):
            by_position = self._by_position
            given = self._defaults | dict(zip(by_position, values, strict=False)) | named
            twice = named.keys() & by_position[: len(values)]
            if given.keys() != self._names or len(values) > len(by_position) or twice:
                fields = ", ".join(self._names)
                raise TypeError(f"{type(self).__name__} has the fields {fields}; given were {values!r} {named!r}")
            self.__dict__.update((name, given[name]) for name in self._names)

        def __setattr__(self, name, value):
            raise AttributeError(f"{type(self).__name__}.{name} is not to be changed to {value!r}")

        def __delattr__(self, name):
            raise AttributeError(f"{type(self).__name__}.{name} is not to be deleted")

        def __eq__(self, other):
            return self.__dict__ == other.__dict__ if type(self) is type(other) else NotImplemented

        def __hash__(self):
            return hash(tuple(self.__dict__.values()))

        def __repr__(self):
            fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
            return f"{type(self).__qualname__}({fields})"

    def replace(record, **changes):
        return type(record)(**(record.__dict__ | changes))

    def rebuild(cls, values):
        """Return a record of that class from the values of its fields, in order."""
        record = object.__new__(cls)
        record.__dict__.update(zip(cls._names, values, strict=True))
        return record

    def asdict(value):
        """Return the fields of a record, and of the records in it."""
        if hasattr(value, "_names"):
            return {name: asdict(each) for name, each in value.__dict__.items()}
        if isinstance(value, dict):
            return {key: asdict(each) for key, each in value.items()}
        return type(value)(asdict(each) for each in value) if isinstance(value, list | tuple) else value

    class Fields:
        """Provides what the standard library expects of a dataclass, made on demand."""

        def __get__(self, record, cls):
            import dataclasses  # noqa: PLC0415 - that is the point

            return dataclasses.make_dataclass(cls.__name__, cls._names).__dataclass_fields__
