"""How a test outside talks to a process in the agent container: lines of JSON, [verb, arguments], and answers."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

# Duplicated at the start, since multiprocessing closes a child's standard input.
QUESTIONS, ANSWERS = os.dup(0), os.dup(1)


def answer(verbs: Mapping[str, Callable[..., Any]]) -> None:
    """Serve standard input until it ends. All other output goes to standard error."""
    with os.fdopen(QUESTIONS) as questions, os.fdopen(ANSWERS, "w") as answers:
        os.dup2(2, 1)
        print(json.dumps({"result": os.getpid()}), file=answers, flush=True)
        for line in questions:
            verb, arguments = json.loads(line)
            try:
                said = {"result": verbs[verb](**arguments)}
            except BaseException:  # noqa: BLE001 - whatever it is, SystemExit too, is for the test to see
                said = {"error": traceback.format_exc()}
            print(json.dumps(said), file=answers, flush=True)
