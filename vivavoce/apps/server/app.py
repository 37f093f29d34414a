"""The web application: what works together in a server, and how it says no."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vivavoce.animate import Animator, Settings
from vivavoce.apps.server.access import Access
from vivavoce.apps.server.avatars import DEMO, Avatars
from vivavoce.apps.server.body import BodyLimit
from vivavoce.apps.server.limits import Limits, Refusal
from vivavoce.apps.server.live import LiveSocket
from vivavoce.apps.server.pages import page_routes
from vivavoce.apps.server.places import Places, Turns
from vivavoce.apps.server.routes import VERSION, avatar_routes, live_routes, monitor_routes, video_routes
from vivavoce.apps.server.videos import Videos
from vivavoce.apps.server.webrtc import Peers
from vivavoce.live.scheduler import Scheduler
from vivavoce.live.stream import DEFAULT_RATE_HZ, LiveStream

log = logging.getLogger(__name__)

DESCRIPTION = (
    "A portrait and a voice go in, a talking portrait comes out. Live sessions, WS /v1/live: docs/protocol.md. If the server was "
    "started with a token, everything under /v1 and /metrics wants it; /, /docs, /openapi.json and /healthz are open."
)
NO_ROUTE = {404: "not_found", 405: "bad_method"}  # codes by status; the rest is a bad request
_SPARE_THREADS = 8  # besides one for each session


def create_app(
    animator: Animator, folder: Path, *, limits: Limits | None = None, access: Access | None = None, workers: int | None = None
) -> FastAPI:
    """The application over loaded models. ``folder``: for avatars and results, of this server alone (`folder.held`); ``workers``:
    threads that make frames."""
    limits, access = limits or Limits(), access or Access()
    scheduler = Scheduler(workers)
    live = animator.live()
    avatars = Avatars(folder / "avatars", animator, limits)
    videos = Videos(folder / "videos", animator, scheduler, limits)
    places, turns = Places(limits.sessions), Turns(limits.waiting)
    peers = Peers(live, scheduler, places, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Texts are spoken and sessions are closed in threads, and none shall wait for another's.
        threads = ThreadPoolExecutor(limits.sessions + _SPARE_THREADS, thread_name_prefix="server")
        asyncio.get_running_loop().set_default_executor(threads)
        await asyncio.to_thread(warm, live, avatars)
        yield
        await peers.close()
        await asyncio.to_thread(turns.close)
        await asyncio.to_thread(scheduler.close)

    def client(socket: WebSocket) -> LiveSocket:
        return LiveSocket(socket, live, avatars, scheduler, turns, limits)

    # Our own page documents the interface: FastAPI's come from other hosts.
    app = FastAPI(title="vivavoce", version=VERSION, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, limits=limits)
    if access.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=access.origins, allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type"),
        )
    refuse_in_words(app)
    app.include_router(avatar_routes(access, avatars, turns))
    app.include_router(video_routes(access, avatars, videos, turns, limits))
    app.include_router(live_routes(access, avatars, peers, places, client))
    app.include_router(monitor_routes(access, scheduler, places, videos))
    app.include_router(page_routes())
    return app


def refuse_in_words(app: FastAPI) -> None:
    """Whatever goes wrong with a request, its client gets a code and a sentence."""

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
        return JSONResponse(refusal.body(), refusal.status, headers)

    @app.exception_handler(HTTPException)
    async def refuse_route(_: Request, error: HTTPException) -> JSONResponse:
        code = NO_ROUTE.get(error.status_code, "bad_request")
        said = Refusal(error.status_code, code, f"{error.detail.rstrip('.').lower()}: /docs has what there is")
        return JSONResponse(said.body(), said.status, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def let_go(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=400)  # which nobody will read

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        said = Refusal(500, "internal", "the request failed by a mistake of the server: its log has it")
        return JSONResponse(said.body(), 500)


def warm(live: Animator, avatars: Avatars) -> None:
    """Do once what is slow the first time: kernels are compiled, networks are laid out, the demonstration is prepared."""
    stream = LiveStream(live, avatars.reference(DEMO), Settings(), rate=DEFAULT_RATE_HZ)
    for _ in range(3):
        stream.step()
    stream.interrupt()
    stream.step()
