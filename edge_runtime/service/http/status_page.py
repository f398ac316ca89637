"""The built-in pages: one HTML file each, nothing from the network, a policy that allows exactly its own script."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re

_ELEMENT = r"<{0}>(.*?)</{0}>"


def _read(name: str) -> str:
    return importlib.resources.files("edge_runtime.service.http").joinpath(name).read_text(encoding="utf-8")


def content_security_policy(page: str) -> str:
    """Return a policy under which this page runs and nothing else does: inline code is allowed by its hash.

    Args:
        page: HTML with at most one ``<script>`` and one ``<style>``.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hashes(page: str, name: str) -> str:
    found = re.findall(_ELEMENT.format(name), page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


def _headers(page: str) -> dict[str, str]:
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": content_security_policy(page),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


PAGE, CHAT_PAGE = _read("status.html"), _read("chat.html")
HEADERS, CHAT_HEADERS = _headers(PAGE), _headers(CHAT_PAGE)
