"""`vivavoce serve` and `vivavoce web`: the application on a socket of this machine."""

from __future__ import annotations

import logging
import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import torch
import uvicorn

from vivavoce.animate import Animator
from vivavoce.apps.server.access import Access
from vivavoce.apps.server.app import create_app
from vivavoce.apps.server.folder import held
from vivavoce.apps.server.limits import MEBIBYTE, Limits
from vivavoce.live.scheduler import processors

if TYPE_CHECKING:
    from fastapi import FastAPI

    from vivavoce.apps.cli import Serving

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(serving: Serving, *, browser: bool) -> None:
    """Until Ctrl-C. ValueError or OSError where it cannot be begun, before anything large is loaded."""
    token = serving.token or os.environ.get("VIVAVOCE_TOKEN") or None
    access = Access(token=token, origins=serving.origin)
    limits = replace(Limits(), sessions=processors() if serving.sessions is None else serving.sessions)
    with held(serving.folder or Path.home() / ".cache" / "vivavoce") as folder, listen(serving.host, serving.port) as listening:
        url = address(serving.host, listening.getsockname()[1])
        if token is None and serving.host not in LOOPBACK:
            print("warning: others can reach this server, and it wants no token: give --token SECRET", flush=True)
        print("loading the models", flush=True)
        app = create_app(load(), folder, limits=limits, access=access, workers=serving.workers)

        def ready() -> None:
            print(f"ready: {url} is the page, and {url}/docs the interface; Ctrl-C ends it", flush=True)
            if browser:
                shown = f"{url}/?token={token}" if token else url
                # Some browsers run in the terminal, and would hold up the server.
                threading.Thread(target=webbrowser.open, args=(shown,), daemon=True).start()

        server(app, limits=limits, ready=ready).run(sockets=[listening])


def load() -> Animator:
    """The shipped models on one thread for each frame: several frames are made side by side."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return Animator.load()


class _Server(uvicorn.Server):
    """Uvicorn that says when it answers requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def server(app: FastAPI, *, limits: Limits | None = None, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """The application in uvicorn, whose own limits are a little wider than ours. ``ready``: called once it answers requests."""
    logging.getLogger("aioice").setLevel(logging.WARNING)
    longest = int(((limits or Limits()).first_message_mib + 1) * MEBIBYTE)
    config = uvicorn.Config(
        app, log_level="warning", ws="websockets-sansio", ws_max_size=longest, ws_max_queue=64, ws_per_message_deflate=False,
        timeout_graceful_shutdown=3, server_header=False,
    )
    return _Server(config, ready)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; ValueError in a sentence where that can't be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        said = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise ValueError(f"cannot listen at {host}:{port} ({said}): give another --port or --host") from error
    listening.listen(128)
    return listening


def address(host: str, port: int) -> str:
    """What a browser on this machine opens."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
