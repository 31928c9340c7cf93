"""An Ansible callback that writes each result of a task into the file that RECORD names."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = "name: record\ntype: aggregate\nshort_description: Record results\ndescription: [For tests.]\n"


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible is not in this virtual environment
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "record"

    def record(self, result: Any, **_: Any) -> None:
        row = {"host": result._host.get_name(), "task": result._task.get_name(), "result": result._result}
        with open(os.environ["RECORD"], "a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=str) + "\n")

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_item_on_ok = v2_runner_item_on_failed = record
