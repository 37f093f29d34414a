"""The routes of REST, WebSocket and WebRTC. Each function makes those of one kind, over the objects that do the work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, Response

from vivavoce.apps.server import requests
from vivavoce.apps.server.access import Access
from vivavoce.apps.server.avatars import DEMO, Avatars
from vivavoce.apps.server.documents import AVATAR, BODY, GUARDED, HEALTH, PICTURE, SPEECH, VIDEO, answers
from vivavoce.apps.server.limits import Limits, Refusal
from vivavoce.apps.server.live import LiveSocket
from vivavoce.apps.server.monitor import exposition
from vivavoce.apps.server.places import Places, Turns
from vivavoce.apps.server.videos import Video, Videos
from vivavoce.apps.server.webrtc import Offer, Peers
from vivavoce.live.scheduler import Scheduler

VERSION = metadata.version("vivavoce")


def avatar_routes(access: Access, avatars: Avatars, turns: Turns) -> APIRouter:
    """Registered portraits."""
    router = APIRouter(prefix="/v1/avatars", dependencies=access.guard())
    unknown = (*GUARDED, "no_such_avatar")

    @router.post(
        "", status_code=201, openapi_extra=requests.AvatarRequest.document(),
        responses={
            **answers(201, AVATAR, *GUARDED, *BODY, *PICTURE, "too_many_avatars"),
            200: {**answers(200, AVATAR)[200], "description": "The same picture was registered before; it has the name now."},
        },
    )
    async def register_avatar(request: Request) -> JSONResponse:
        """Register a picture once; sessions and videos then take its id. A picture that is known, asked for in the same way,
        keeps its id, takes the name that comes with it, and is answered by 200."""
        wanted = await requests.read(request, requests.AvatarRequest)
        avatar, new = await turns.take(lambda: avatars.register(wanted.picture(), wanted.wanted(), wanted.name))
        return JSONResponse(asdict(avatar), 201 if new else 200)

    @router.get("", responses=answers(200, {"object": "list", "data": [AVATAR]}, *GUARDED))
    async def list_avatars() -> dict[str, Any]:
        """All registered portraits, the demonstration first."""
        return {"object": "list", "data": [asdict(avatar) for avatar in await asyncio.to_thread(avatars.all)]}

    @router.get("/{key}", responses=answers(200, AVATAR, *unknown))
    async def get_avatar(key: str) -> dict[str, Any]:
        """One registered portrait."""
        return asdict(await asyncio.to_thread(avatars.get, key))

    @router.get("/{key}/picture", response_class=Response, responses=answers(200, None, *unknown, media="image/jpeg"))
    async def get_picture(key: str) -> Response:
        """The portrait at rest, as JPEG."""
        return Response(await asyncio.to_thread(avatars.picture, key), media_type="image/jpeg")

    @router.delete(
        "/{key}", responses=answers(200, {"id": AVATAR["id"], "object": "avatar", "deleted": True}, *unknown, "not_yours")
    )
    async def delete_avatar(key: str) -> dict[str, Any]:
        """Forget a registered portrait."""
        await asyncio.to_thread(avatars.remove, key)
        return {"id": key, "object": "avatar", "deleted": True}

    return router


def video_routes(access: Access, avatars: Avatars, videos: Videos, turns: Turns, limits: Limits) -> APIRouter:
    """Videos of files and texts."""
    router = APIRouter(prefix="/v1/videos", dependencies=access.guard())
    unknown, made = (*GUARDED, "no_such_video"), (*GUARDED, *BODY, *PICTURE, *SPEECH, "no_such_avatar")

    @router.post("", status_code=202, openapi_extra=requests.VideoRequest.document(), responses=answers(202, VIDEO, *made))
    async def create_video(request: Request) -> JSONResponse:
        """Begin to make a video; ask for its status with its id. Its result is kept for as long as the server runs, at most."""
        return JSONResponse((await _created(request, avatars, videos, turns, None)).body(), 202)

    @router.post(
        "/sync", response_class=Response, openapi_extra=requests.VideoRequest.document(),
        responses=answers(200, None, *made, "bad_input", "not_ready", "no_such_video", media="video/mp4"),
    )
    async def create_video_now(request: Request) -> Response:
        """Make a short video and wait for it: the answer is the MP4."""
        video = await _created(request, avatars, videos, turns, limits.sync_seconds)
        try:
            while not video.ended.is_set() and not await request.is_disconnected():
                await asyncio.sleep(0.05)
            return Response(await asyncio.to_thread(lambda: videos.result(video.id).read_bytes()), media_type="video/mp4")
        finally:
            videos.discard(video)

    @router.get("", responses=answers(200, {"object": "list", "data": [VIDEO]}, *GUARDED))
    async def list_videos() -> dict[str, Any]:
        """All videos that are kept, the newest first."""
        return {"object": "list", "data": [video.body() for video in videos.all()]}

    @router.get("/{key}", responses=answers(200, VIDEO, *unknown))
    async def get_video(key: str) -> dict[str, Any]:
        """Status and progress of a video."""
        return videos.get(key).body()

    @router.get(
        "/{key}/content", response_class=FileResponse,
        responses=answers(200, None, *unknown, "not_ready", "bad_input", media="video/mp4"),
    )
    async def get_content(key: str) -> FileResponse:
        """The MP4 of a completed video."""
        return FileResponse(videos.result(key), media_type="video/mp4", filename=f"{key}.mp4")

    @router.delete("/{key}", responses=answers(200, {**VIDEO, "status": "cancelled", "deleted": True}, *unknown))
    async def delete_video(key: str) -> dict[str, Any]:
        """Cancel a video that is being made, or delete one that was."""
        return {**videos.remove(key).body(), "deleted": True}

    return router


async def _created(request: Request, avatars: Avatars, videos: Videos, turns: Turns, longest: float | None) -> Video:
    """The job that a request asks for. ``longest``: seconds of its speech. Refusal where it will not do."""
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


def live_routes(
    access: Access, avatars: Avatars, peers: Peers, places: Places, client: Callable[[WebSocket], LiveSocket]
) -> APIRouter:
    """Live sessions. ``client``: what serves a WebSocket."""
    router = APIRouter()

    @router.post(
        "/v1/webrtc/offer", dependencies=access.guard(), openapi_extra=requests.OfferRequest.document(),
        responses=answers(
            200, {"sdp": "v=0\r\n...", "type": "answer"}, *GUARDED, *BODY, "bad_request", "bad_offer", "no_such_avatar", "busy"
        ),
    )
    async def offer(request: Request) -> dict[str, str]:
        """Open a live session by WebRTC: an SDP offer in, the answer out."""
        wanted = await requests.read(request, requests.OfferRequest)
        settings = wanted.settings()
        reference = await asyncio.to_thread(avatars.reference, wanted.avatar or DEMO)
        return await peers.answer(Offer(sdp=wanted.sdp, type=wanted.type), reference, settings)

    @router.websocket("/v1/live")
    async def live_session(socket: WebSocket) -> None:
        await socket.accept()
        served = client(socket)
        try:
            access.check(socket)
        except Refusal as refusal:
            await served.refuse(refusal)
            return
        await served.serve(places)

    return router


def monitor_routes(access: Access, scheduler: Scheduler, places: Places, videos: Videos) -> APIRouter:
    """Health, which everybody may ask for, and figures."""
    router = APIRouter()

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", responses=answers(200, HEALTH))
    async def health() -> dict[str, Any]:
        """Whether the server is up, and how busy it is. Needs no token."""
        return {"status": "ok", "version": VERSION, "sessions": places.taken, "videos": videos.unfinished()}

    @router.get(
        "/metrics", dependencies=access.guard(), response_class=Response,
        responses=answers(200, None, *GUARDED, media="text/plain"),
    )
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return exposition(scheduler, places, videos)

    return router
