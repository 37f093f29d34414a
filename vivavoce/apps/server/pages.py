"""What a browser is shown: the page, and the interface to read and try. Nothing of it comes from elsewhere."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from vivavoce.apps.server.limits import Refusal

PAGE = Path(str(resources.files("vivavoce.apps.server") / "page"))
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; style-src 'self'; "
    "script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
_READ = ["GET", "HEAD"]


def page_routes() -> APIRouter:
    """Routes that everybody may use: what they show asks for a token where one is wanted."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=_READ, response_class=FileResponse)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=HEADERS)

    @router.api_route("/docs", methods=_READ, response_class=FileResponse)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers=HEADERS)

    @router.api_route("/page/{name}", methods=_READ, response_class=FileResponse)
    async def page_file(name: str) -> FileResponse:
        if name not in {file.name for file in PAGE.iterdir()}:
            raise Refusal(404, "not_found", "the page has no such file")
        return FileResponse(PAGE / name, headers=HEADERS)

    return router
