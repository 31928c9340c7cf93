"""A test outside and a process in the agent container talk in lines of JSON: [verb, arguments] and the answer to it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def answer(verbs: Mapping[str, Callable[..., Any]]) -> None:
    """Serve standard input until it ends. Whatever else prints, prints to standard error."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        print(json.dumps({"result": os.getpid()}), file=answers, flush=True)
        for line in sys.stdin:
            verb, arguments = json.loads(line)
            try:
                said = {"result": verbs[verb](**arguments)}
            except BaseException:  # noqa: BLE001 - whatever it is, SystemExit too, is for the test to see
                said = {"error": traceback.format_exc()}
            print(json.dumps(said), file=answers, flush=True)
