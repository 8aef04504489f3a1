"""The demo page: files beside this one, served under a policy that lets nothing else in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from skipmodel.serve.config import ServeConfig
from skipmodel.serve.served import Served

FOLDER = Path(__file__).with_name("page")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {"/demo": ("demo.html", "text/html"), "/demo/demo.js": ("demo.js", "text/javascript"),
         "/demo/demo.css": ("demo.css", "text/css")}  # fmt: skip
DEFAULT_LEVEL = 0.3


def add_demo(app: FastAPI, served: Served, config: ServeConfig) -> None:
    """Add the page and what it asks for."""
    for path, (name, kind) in FILES.items():
        app.get(path, include_in_schema=False, response_model=None)(_file(FOLDER / name, kind))
    texts = json.loads((FOLDER / "texts.json").read_text("utf-8"))

    async def about() -> Response:
        """Tell the page the facts of the model, its sentences and its words."""
        return JSONResponse(demo_facts(served, config) | {"texts": texts}, headers={"cache-control": "no-store"})

    async def icon() -> Response:
        """There is no icon."""
        return Response(status_code=204)

    app.get("/demo/about", include_in_schema=False, response_model=None)(about)
    app.get("/favicon.ico", include_in_schema=False, response_model=None)(icon)


def demo_facts(served: Served, config: ServeConfig) -> dict[str, Any]:
    """Return what the page shows of the model."""
    return {
        "model": config.name,
        "n_layers": served.engine.n_layers,
        "routed": served.engine.routed_units,
        "has_levels": bool(served.level_logits),
        "level": DEFAULT_LEVEL,
        "max_tokens": min(config.max_tokens, config.context // 2, 128),
        "device": served.engine.device.type,
    }


def _file(path: Path, kind: str) -> Any:
    body = path.read_bytes()

    async def send() -> Response:
        return Response(body, media_type=f"{kind}; charset=utf-8",
                        headers={"content-security-policy": POLICY, "cache-control": "no-store"})  # fmt: skip

    return send
