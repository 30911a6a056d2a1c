"""`GET /playground`: the User LM in a browser. One HTML file without a build step or resources of other hosts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from serve.api.service import Service
from usersim.types import Style

PAGE = Path(__file__).parents[1] / "static" / "playground.html"
FACTS = "{{facts}}"
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    # The policy allows only the page's own script and style, by hash: no output of a model can run as code.
    page = PAGE.read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": _policy(page), "Cache-Control": "no-cache", **HEADERS}
    page = page.replace(FACTS, _in_html(_page_settings(service)))

    @routes.get("/playground", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    return routes


def _policy(page: str) -> str:
    rules = {
        "default-src": "'none'",
        "script-src": _hashes(re.findall(r"<script>(.*?)</script>", page, re.DOTALL)),
        "style-src": _hashes(re.findall(r"<style>(.*?)</style>", page, re.DOTALL)),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hashes(texts: list[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _page_settings(service: Service) -> dict[str, Any]:
    """Settings for the page: model names, default sampling and end policy, and all style attributes."""
    user = service.user
    return {
        "models": service.names,
        "sampling": user.sampling.model_dump(),
        "end": user.end.model_dump(),
        "style": [
            _attribute(name, schema) for name, schema in Style.model_json_schema()["properties"].items()
        ],
    }


def _attribute(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Name, description and range of a style attribute; `share`: its values lie between 0 and 1."""
    number = next(kind for kind in schema["anyOf"] if kind["type"] == "number")
    description = str(schema.get("description", "")).replace("`", "")
    return {"name": name, "description": description, "share": number.get("maximum") == 1}


def _in_html(facts: dict[str, Any]) -> str:
    """JSON that cannot close the <script> element around it."""
    return json.dumps(facts).replace("<", "\\u003c")
