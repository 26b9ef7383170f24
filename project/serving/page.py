"""The page of a server for people: one file, without resources of others."""

import base64
import hashlib
import re
from pathlib import Path

from lightrail.project.figures.style import STYLE

_FOLDER = Path(__file__).parent


def page() -> tuple[bytes, dict[str, str]]:
    """Return the page, and the headers that let a browser run its own script and style alone."""
    text, typing = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "typing.js"))
    text = text.replace("/* STYLE */", STYLE).replace("/* TYPING */", typing)
    policy = {
        "default-src": "'none'",
        "script-src": _digest(text, "script"),
        "style-src": _digest(text, "style"),
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
    return text.encode(), headers


def _digest(text: str, tag: str) -> str:
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
