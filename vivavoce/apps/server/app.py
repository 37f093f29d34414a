"""The web application: every route of the server."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivavoce.animate import Animator, Settings
from vivavoce.apps.server import requests
from vivavoce.apps.server.avatars import DEMO, Avatars
from vivavoce.apps.server.documents import AVATAR, VIDEO, answers
from vivavoce.apps.server.limits import MEBIBYTE, Limits, Refusal
from vivavoce.apps.server.live import LiveSocket
from vivavoce.apps.server.monitor import exposition
from vivavoce.apps.server.places import Places, Turns
from vivavoce.apps.server.videos import Video, Videos
from vivavoce.apps.server.webrtc import Offer, Peers
from vivavoce.live.scheduler import Scheduler
from vivavoce.live.stream import LiveStream

log = logging.getLogger(__name__)

PAGE = Path(str(resources.files("vivavoce.apps.server") / "page"))
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; style-src 'self'; "
    "script-src 'self'; frame-ancestors 'none'"
)
_SPARE_THREADS = 8  # besides one for each session
_LOOPBACK_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use the server. ``token``: what requests must carry, None if nothing; ``origins``: of pages elsewhere that may use
    it from a browser, such as https://example.org; a page of the server's own always may."""

    token: str | None = None
    origins: tuple[str, ...] = field(default=())

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


def _is_loopback(connection: HTTPConnection) -> bool:
    reached = (connection.scope.get("server") or ("",))[0]
    return reached == "::1" or reached.startswith("127.")


class BodyLimit:
    """Middleware: bodies of requests that are too large, or come too slowly, are refused before they are whole."""

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


def create_app(
    animator: Animator, folder: Path, *, limits: Limits | None = None, access: Access | None = None, workers: int | None = None
) -> FastAPI:
    """The application over loaded models. ``folder``: for avatars and results; ``workers``: threads that make frames."""
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

    app = FastAPI(
        title="vivavoce", version=metadata.version("vivavoce"), lifespan=lifespan,
        description="A portrait and a voice go in, a talking portrait comes out. Live sessions: docs/protocol.md.",
    )
    app.add_middleware(BodyLimit, limits=limits)
    if access.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=access.origins, allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type"),
        )

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
        return JSONResponse(refusal.body(), refusal.status, headers)

    @app.exception_handler(HTTPException)
    async def refuse_route(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "bad_method"}.get(error.status_code, "bad_request")
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

    async def allowed(request: Request) -> None:
        access.check(request)

    guarded = [Depends(allowed)]

    @app.post(
        "/v1/avatars", status_code=201, dependencies=guarded, openapi_extra=requests.AvatarRequest.document(),
        responses=answers(201, AVATAR, 507, body=True),
    )
    async def register_avatar(request: Request) -> JSONResponse:
        """Register a picture once; sessions and videos then take its id."""
        wanted = await requests.read(request, requests.AvatarRequest)
        made = await turns.take(lambda: avatars.register(wanted.picture(), wanted.wanted(), wanted.name or "portrait"))
        return JSONResponse(asdict(made), 201)

    @app.get("/v1/avatars", dependencies=guarded, responses=answers(200, {"object": "list", "data": [AVATAR]}))
    async def list_avatars() -> dict[str, Any]:
        """All registered portraits, the demonstration first."""
        return {"object": "list", "data": [asdict(avatar) for avatar in await asyncio.to_thread(avatars.all)]}

    @app.get("/v1/avatars/{key}", dependencies=guarded, responses=answers(200, AVATAR, 404))
    async def get_avatar(key: str) -> dict[str, Any]:
        """One registered portrait."""
        return asdict(await asyncio.to_thread(avatars.get, key))

    @app.get(
        "/v1/avatars/{key}/picture", dependencies=guarded, response_class=Response,
        responses=answers(200, None, 404, media="image/jpeg"),
    )
    async def get_picture(key: str) -> Response:
        """The portrait at rest, as JPEG."""
        return Response(await asyncio.to_thread(avatars.picture, key), media_type="image/jpeg")

    @app.delete(
        "/v1/avatars/{key}", dependencies=guarded,
        responses=answers(200, {"id": AVATAR["id"], "object": "avatar", "deleted": True}, 404),
    )
    async def delete_avatar(key: str) -> dict[str, Any]:
        """Forget a registered portrait."""
        await asyncio.to_thread(avatars.remove, key)
        return {"id": key, "object": "avatar", "deleted": True}

    async def create(request: Request, longest: float | None) -> Video:
        wanted = await requests.read(request, requests.VideoRequest)
        settings, with_picture = wanted.settings(), wanted.pictured()
        key = wanted.avatar_id or DEMO
        videos.check_room()

        def created() -> Video:
            speech = wanted.speech()
            if not with_picture:
                avatars.get(key)
                return videos.create(lambda: avatars.reference(key), speech, settings, longest=longest)
            # Examined now, so that a picture that will not do is refused at once.
            reference = avatars.prepare(wanted.picture(), wanted.wanted())
            return videos.create(lambda: reference, speech, settings, longest=longest)

        return await turns.take(created)

    @app.post(
        "/v1/videos", status_code=202, dependencies=guarded, openapi_extra=requests.VideoRequest.document(),
        responses=answers(202, VIDEO, 404, 429, body=True),
    )
    async def create_video(request: Request) -> JSONResponse:
        """Begin to make a video; ask for its status with its id."""
        return JSONResponse((await create(request, None)).body(), 202)

    @app.post(
        "/v1/videos/sync", dependencies=guarded, response_class=Response, openapi_extra=requests.VideoRequest.document(),
        responses=answers(200, None, 404, 429, body=True, media="video/mp4"),
    )
    async def create_video_now(request: Request) -> Response:
        """Make a short video and wait for it: the answer is the MP4."""
        video = await create(request, limits.sync_seconds)
        try:
            while not video.ended.is_set() and not await request.is_disconnected():
                await asyncio.sleep(0.05)
            return Response(await asyncio.to_thread(lambda: videos.result(video.id).read_bytes()), media_type="video/mp4")
        finally:
            videos.discard(video)

    @app.get("/v1/videos", dependencies=guarded, responses=answers(200, {"object": "list", "data": [VIDEO]}))
    async def list_videos() -> dict[str, Any]:
        """All videos that are kept, the newest first."""
        return {"object": "list", "data": [video.body() for video in videos.all()]}

    @app.get("/v1/videos/{key}", dependencies=guarded, responses=answers(200, VIDEO, 404))
    async def get_video(key: str) -> dict[str, Any]:
        """Status and progress of a video."""
        return videos.get(key).body()

    @app.get(
        "/v1/videos/{key}/content", dependencies=guarded, response_class=FileResponse,
        responses=answers(200, None, 404, 409, media="video/mp4"),
    )
    async def get_content(key: str) -> FileResponse:
        """The MP4 of a completed video."""
        return FileResponse(videos.result(key), media_type="video/mp4", filename=f"{key}.mp4")

    @app.delete(
        "/v1/videos/{key}", dependencies=guarded, responses=answers(200, {**VIDEO, "status": "cancelled", "deleted": True}, 404)
    )
    async def delete_video(key: str) -> dict[str, Any]:
        """Cancel a video that is being made, or delete one that was."""
        return {**videos.remove(key).body(), "deleted": True}

    @app.post(
        "/v1/webrtc/offer", dependencies=guarded, openapi_extra=requests.OfferRequest.document(),
        responses=answers(200, {"sdp": "v=0\r\n...", "type": "answer"}, 404, body=True),
    )
    async def offer(request: Request) -> dict[str, str]:
        """Open a live session by WebRTC: an SDP offer in, the answer out."""
        wanted = await requests.read(request, requests.OfferRequest)
        settings = wanted.settings()
        reference = await asyncio.to_thread(avatars.reference, wanted.avatar or DEMO)
        return await peers.answer(Offer(sdp=wanted.sdp, type=wanted.type), reference, settings)

    @app.websocket("/v1/live")
    async def live_session(socket: WebSocket) -> None:
        await socket.accept()
        client = LiveSocket(socket, live, avatars, scheduler, turns, limits)
        try:
            access.check(socket)
        except Refusal as refusal:
            await client.refuse(refusal)
            return
        await client.serve(places)

    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        """Whether the server is up, and how busy it is."""
        return {"status": "ok", "version": app.version, "sessions": places.taken, "videos": videos.unfinished()}

    @app.get("/metrics", dependencies=guarded, response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return exposition(scheduler, places, videos)

    @app.get("/", response_class=FileResponse, include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})

    @app.get("/page/{name}", response_class=FileResponse, include_in_schema=False)
    async def page_file(name: str) -> FileResponse:
        if name not in {file.name for file in PAGE.iterdir()}:
            raise Refusal(404, "not_found", "the page has no such file")
        return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    return app


def warm(live: Animator, avatars: Avatars) -> None:
    """Do once what is slow the first time: kernels are compiled, networks are laid out, the demonstration is prepared."""
    stream = LiveStream(live, avatars.reference(DEMO), Settings(), rate=24000)
    for _ in range(3):
        stream.step()
    stream.interrupt()
    stream.step()
