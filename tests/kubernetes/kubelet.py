"""What a kubelet does with the static pods of its node, as far as side containers notice: CRI calls of what lies there.

    kubelet.py PROTOS SOCKET DIRECTORY

It looks at the directory often, where a kubelet is told of changes. It never starts a container a second time, and
asks no API server. Runs in a virtual environment with grpcio, apart from the tests.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import cri  # type: ignore[import-not-found]  # noqa: E402
import pods  # type: ignore[import-not-found]  # noqa: E402

LOOK = 0.02  # seconds


class Worker(threading.Thread):
    """Of one pod, from its file's coming to its end."""

    def __init__(self, runtime: Any, manifest: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.runtime, self.manifest = runtime, manifest
        self.is_wanted = True

    def run(self) -> None:
        with suppress(cri.Failed):
            self.start_pod()
        while self.is_wanted:
            time.sleep(LOOK)
        while not self.is_removed():
            time.sleep(LOOK)

    def is_removed(self) -> bool:
        """Remove what containerd has of the pod, also after a call that failed; return whether that was all."""
        ours = {"io.kubernetes.pod.uid": self.manifest["metadata"]["uid"]}
        try:
            for each in self.runtime.call("ListPodSandbox", filter={"label_selector": ours}).get("items", ()):
                with suppress(cri.Failed):
                    self.runtime.call("StopPodSandbox", pod_sandbox_id=each["id"])
                self.runtime.call("RemovePodSandbox", pod_sandbox_id=each["id"])
        except cri.Failed:
            return False
        return True

    def start_pod(self) -> None:
        config, spec = pods.sandbox(self.manifest), self.manifest["spec"]
        pods.prepare(self.manifest)
        made = self.runtime.call("RunPodSandbox", config=config, runtime_handler=spec["runtimeClassName"])
        sandbox = made["pod_sandbox_id"]
        for number, container in enumerate(spec["containers"]):
            # imagePullPolicy: Never
            while "image" not in self.runtime.call("ImageStatus", image={"image": container["image"]}):
                if not self.is_wanted:
                    return
                time.sleep(1)
            asked = {"pod_sandbox_id": sandbox, "sandbox_config": config}
            made = self.runtime.call("CreateContainer", config=pods.container(self.manifest, number), **asked)
            self.runtime.call("StartContainer", container_id=made["container_id"])


def main() -> None:
    runtime, directory = cri.Runtime(Path(sys.argv[1]), sys.argv[2]), Path(sys.argv[3])
    workers: dict[str, Worker] = {}
    print("ready", flush=True)
    while True:
        there = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
        for name in there - workers.keys():
            with suppress(FileNotFoundError, ValueError):  # it is gone already, or only half written
                workers[name] = Worker(runtime, pods.as_read(json.loads((directory / name).read_text())))
                workers[name].start()
        for name in workers.keys() - there:
            workers.pop(name).is_wanted = False
        time.sleep(LOOK)


if __name__ == "__main__":
    main()
