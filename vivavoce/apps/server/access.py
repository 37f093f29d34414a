"""Who may use the server."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyQuery, HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from vivavoce.apps.server.limits import Refusal

_LOOPBACK_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", re.IGNORECASE)

# What OpenAPI says of the token; `Access.check` is what looks at it.
_BEARER: SecurityBase = HTTPBearer(
    scheme_name="bearer", auto_error=False, description="The SECRET of `vivavoce serve --token SECRET`; else none is wanted."
)
_QUERY: SecurityBase = APIKeyQuery(
    name="token", scheme_name="query", auto_error=False, description="The same, for a browser's WebSocket and pictures."
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use the server. ``token``: what requests must carry, None if nothing; ``origins``: of pages elsewhere that may use
    it from a browser, such as https://example.org; a page of the server's own always may. ValueError for an origin that no
    browser would ever name."""

    token: str | None = None
    origins: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"the origin {origin!r} is none: give scheme and host, without a path, such as https://example.org")

    def check(self, connection: HTTPConnection) -> None:
        """Refusal where it may not."""
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
        own = (f"http://{host}", f"https://{host}")
        if origin is not None and origin not in (*self.origins, *own):
            raise Refusal(403, "bad_origin", "a page of another origin may not use this server: start it with --origin to let it")
        if self.token is None:
            # A page elsewhere may let its own name point to this machine, and would then be of the same origin.
            if _is_loopback(connection) and host and not _LOOPBACK_HOST.fullmatch(host) and not set(own) & set(self.origins):
                said = f"this server is of this machine only, not {host[:80]!r}: start it with --token, or --origin and that name"
                raise Refusal(403, "bad_host", said)
            return
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else connection.query_params.get("token", "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise Refusal(401, "unauthorized", "this server wants a token: send 'Authorization: Bearer TOKEN'")

    def guard(self) -> list[Any]:
        """Dependencies of routes that not everybody may use."""

        async def allowed(
            request: Request, _bearer: Annotated[object, Security(_BEARER)], _query: Annotated[object, Security(_QUERY)]
        ) -> None:
            self.check(request)

        return [Depends(allowed)]


def _is_loopback(connection: HTTPConnection) -> bool:
    reached = (connection.scope.get("server") or ("",))[0]
    return reached == "::1" or reached.startswith("127.")
