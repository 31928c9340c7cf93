"""What knows Kubernetes' schemas and CEL, for tests: one JSON array of a call a line, one JSON value of an answer.

    ["documents", PATH]                 the documents of a YAML file
    ["versions"]                        of Kubernetes whose schemas are there, oldest first
    ["validate", DOCUMENT, VERSION]     "" or what is wrong with it; unknown fields are wrong
    ["evaluate", EXPRESSION, VARIABLES] {"value": ...} or {"error": ...}

Runs in a virtual environment with these libraries, apart from the tests: it imports nothing of theirs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cel  # type: ignore[import-not-found]
import kubernetes_validate  # type: ignore[import-not-found]
import yaml


def documents(path: str) -> list[Any]:
    return list(yaml.safe_load_all(Path(path).read_text(encoding="utf-8")))


def versions() -> list[str]:
    schemas = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    numbers = {each.name.removeprefix("v").split("-")[0] for each in schemas.iterdir()}
    return sorted(numbers, key=lambda each: [int(part) for part in each.split(".")])


def validate(document: dict[str, Any], version: str) -> str:
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return ""


def evaluate(expression: str, variables: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": cel.evaluate(expression, variables)}
    except (ValueError, RuntimeError, TypeError) as error:
        return {"error": str(error)}


CALLS: dict[str, Callable[..., Any]] = {each.__name__: each for each in (documents, versions, validate, evaluate)}


def main() -> None:
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(CALLS[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
