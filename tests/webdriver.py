"""A small client of the WebDriver protocol (W3C) for headless Chromium, with the standard library alone."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
START_SECONDS = 30.0


class Browser:
    """One page in a headless browser. Raises RuntimeError with the driver's message where a command fails."""

    def __init__(self, url: str, profile: str, width: int, height: int, *more: str) -> None:
        self._url = url
        options = {"args": [*ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *more]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file anew, and wait until the page says that it is ready."""
        self._command("/url", {"url": "about:blank"})
        self._command("/url", {"url": path.resolve().as_uri() + fragment})
        self.wait("document.documentElement.dataset.ready === 'true'")

    def run(self, script: str) -> Any:
        """The value that `return` of the script gives."""
        return self._command("/execute/sync", {"script": script, "args": []})

    def wait(self, expression: str, seconds: float = 20.0) -> None:
        """Until a JavaScript expression is true. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; console: {self.console()}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """A click of the mouse on the first element of a CSS selector, with all that a browser makes of it."""
        self._element(selector, "click", {})

    def keys(self, selector: str, text: str) -> None:
        """Keys pressed while an element has the focus."""
        self._element(selector, "value", {"text": text})

    def texts(self, selector: str) -> list[str]:
        """The text of all elements of a selector."""
        found: list[str] = self.run(
            f"return [...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)"
        )
        return found

    def console(self) -> list[str]:
        """Errors and warnings since the last call."""
        return [entry["message"] for entry in self._command("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses that pages other than the browser's own have asked for since the last call."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self._command("/se/log", {"type": "performance"})
        ]
        sent = [entry for entry in entries if entry["method"] == "Network.requestWillBeSent"]
        asked = [entry["params"] for entry in sent if not entry["params"]["documentURL"].startswith("chrome:")]
        return [params["request"]["url"] for params in asked]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("GET", f"{self._session}/screenshot")))

    def close(self) -> None:
        self._send("DELETE", self._session)

    def _element(self, selector: str, action: str, body: dict[str, Any]) -> None:
        found = self._command("/element", {"using": "css selector", "value": selector})
        self._command(f"/element/{next(iter(found.values()))}/{action}", body)

    def _command(self, path: str, body: dict[str, Any]) -> Any:
        return self._send("POST", self._session + path, body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"].partition("\n")[0]) from None


@contextmanager
def chromium(width: int = 1440, height: int = 900, *more: str) -> Iterator[Browser]:
    """A browser with an empty profile; skips the test where Chromium or its driver is absent."""
    driver = shutil.which("chromedriver")
    if driver is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _await_port(port, process)
            browser = Browser(f"http://127.0.0.1:{port}", profile, width, height, *more)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()
            process.wait(10)


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("chromedriver does not answer")
