"""Puts data, style and script into one HTML file that opens from disk and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PARTS = Path(__file__).parent / "page"
SCRIPTS = ("model", "dom", "layout", "scene", "canvas", "details", "tables", "memory", "compare", "search", "main")


def render_page(data: Mapping[str, Any]) -> str:
    """The page. The data is compressed and in base64, so that no name in a model can be markup or script; the page's
    policy allows only its own script and style."""
    packed = zlib.compress(json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode(), 9)
    script = '"use strict";\n' + "\n".join(_part(f"{name}.js") for name in SCRIPTS)
    values = {
        "TITLE": html.escape(f"{data['name']} - nomul view"),
        "POLICY": f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_digest(script)}'",
        "STYLE": _part("style.css"),
        "DATA": base64.b64encode(packed).decode(),
        "SCRIPT": script,
    }
    pieces = _part("page.html").split("@@")  # text and names of values in turn
    return "".join(values[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """As a content security policy names an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
