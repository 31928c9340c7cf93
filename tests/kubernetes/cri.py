"""A client of CRI v1, as a kubelet is one: makes of Debian's api.proto what it needs, and the calls of a pod's life.

    cri.py PROTOS SOCKET: reads calls from standard input, one JSON array [method, request] a line, and answers each
    with a line: {"response": ...} or {"error": ...}.

Runs in a virtual environment with grpcio, apart from the tests: it imports nothing of theirs.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf import json_format  # type: ignore[import-untyped]

SECONDS = 120.0


class Failed(Exception):
    """The runtime's refusal, in its words."""


class Runtime:
    def __init__(self, protos: Path, socket: str) -> None:
        self.messages, self.stubs = modules(protos)
        channel = grpc.insecure_channel(f"unix://{socket}")
        self.services = (self.stubs.RuntimeServiceStub(channel), self.stubs.ImageServiceStub(channel))

    def call(self, method: str, **request: Any) -> dict[str, Any]:
        """One call; fields are named as api.proto names them."""
        asked = json_format.ParseDict(request, getattr(self.messages, f"{method}Request")())
        service = next(each for each in self.services if hasattr(each, method))
        try:
            # A containerd that has just been started again is waited for, which a kubelet does by trying again.
            answer = getattr(service, method)(asked, timeout=SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            raise Failed(f"{method}: {error.details()}") from None
        told: dict[str, Any] = json_format.MessageToDict(answer, preserving_proto_field_name=True)
        return told


def modules(protos: Path) -> tuple[Any, Any]:
    """Made of the description each time, so that they fit the libraries that are there."""
    with tempfile.TemporaryDirectory() as made:
        lines = (protos / "api.proto").read_text(encoding="utf-8").splitlines()
        # Its options for a generator of Go code need a file that is not there.
        Path(made, "api.proto").write_text("\n".join(each for each in lines if "gogo" not in each), encoding="utf-8")
        command = (sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={made}")
        outputs = (f"--python_out={made}", f"--grpc_python_out={made}")
        subprocess.run((*command, *outputs, "api.proto"), check=True, timeout=SECONDS)
        sys.path.insert(0, made)
        try:
            return importlib.import_module("api_pb2"), importlib.import_module("api_pb2_grpc")
        finally:
            sys.path.remove(made)


def main() -> None:
    runtime = Runtime(Path(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        method, request = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"response": runtime.call(method, **request)}
        except Failed as failure:
            answer = {"error": str(failure)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
