"""A headless Chromium, driven by the DevTools protocol over a pair of pipes: JSON messages, each ended by NUL.

https://chromedevtools.github.io/devtools-protocol/ lists the commands. No driver and no package is needed for this.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import time
from pathlib import Path
from typing import Any, Self

# Chromium reads commands from descriptor 3 and writes answers to 4.
COMMANDS, ANSWERS = 3, 4
PATIENCE = 60


class Browser:
    """One page at a time. Scripts run with the page's own rights."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Keep 3 and 4 free for the child.
        high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 20) for each in (theirs_in, theirs_out)]
        options = (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
        )  # fmt: skip
        self._pid = os.posix_spawnp(
            "chromium",
            ["chromium", *options, f"--user-data-dir={profile}"],
            {"PATH": os.defpath, "HOME": str(profile)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, high[0], COMMANDS),
                (os.POSIX_SPAWN_DUP2, high[1], ANSWERS),
            ],
        )
        for each in (theirs_in, theirs_out, *high):
            os.close(each)
        self._number = 0
        self._rest = b""
        self._loaded: set[str] = set()  # loaders whose load event has fired
        self._session = ""
        self._context = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)  # at which it ends
        os.close(self._in)
        os.waitpid(self._pid, 0)

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def look(self, url: str, *, width: int, dark: bool) -> None:
        """Load a page for a first-time reader, with a screen of that width and in that colour scheme.

        Each call takes a new context. In a shared one, the last page lives on in the back/forward cache, and the theme
        there still writes its colour scheme into the storage that the new page reads.
        """
        self._open_context()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        loader = self.call("Page.navigate", url=url)["loaderId"]
        while loader not in self._loaded:
            self._read()

    def _open_context(self) -> None:
        self._session = ""  # the rest is for the browser
        if self._context:
            self.call("Target.disposeBrowserContext", browserContextId=self._context)
        self._loaded.clear()
        self._context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def evaluate(self, expression: str) -> Any:
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"].get("exception", done["exceptionDetails"])))
        return done["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.1)
        return value

    def screenshot(self, path: Path, height: int) -> None:
        """Return the page from its top, up to `height` pixels of it."""
        width, whole = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, whole), "scale": 1}
        taken = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], PATIENCE)[0]:
                raise TimeoutError("chromium does not answer")
            if not (more := os.read(self._in, 1 << 20)):
                raise RuntimeError("chromium has ended")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if found.get("method") == "Page.lifecycleEvent" and found["params"]["name"] == "load":
            self._loaded.add(found["params"]["loaderId"])
        return found
