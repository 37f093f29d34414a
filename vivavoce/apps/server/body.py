"""Bodies of requests that are too large, or come too slowly, are refused before they are whole."""

from __future__ import annotations

import asyncio

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivavoce.apps.server.limits import MEBIBYTE, Limits, Refusal


class BodyLimit:
    """Middleware that counts what comes, and looks at the clock."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most, seconds = int(self._limits.upload_mib * MEBIBYTE), self._limits.upload_seconds
        large = Refusal(413, "too_large", f"the request is larger than {self._limits.upload_mib:g} MiB: send a smaller file")
        slow = Refusal(408, "timeout", f"the request did not come within {seconds:g} seconds: send it faster, or a smaller one")
        deadline = asyncio.get_running_loop().time() + seconds
        taken, whole = 0, False

        async def counted() -> Message:
            nonlocal taken, whole
            if whole:  # what is waited for now is that the client goes
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise slow from None
            taken, whole = taken + len(message.get("body", b"")), not message.get("more_body", False)
            if taken > most:
                raise large
            return message

        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > most:
            await JSONResponse(large.body(), large.status)(scope, receive, send)
            return
        await self._app(scope, counted, send)
