"""`vivavoce serve` and `vivavoce web`: the application on a socket of this machine."""

from __future__ import annotations

import logging
import os
import socket
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import torch
import uvicorn

from vivavoce.animate import Animator
from vivavoce.apps.server.app import Access, create_app
from vivavoce.apps.server.limits import MEBIBYTE, Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from vivavoce.apps.cli import Serving

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FIRST_MESSAGE_MIB = 28.0  # of a live session: a picture in base64


def serve(serving: Serving, *, browser: bool) -> None:
    """Until Ctrl-C. ValueError or OSError where it cannot be begun."""
    token = serving.token or os.environ.get("VIVAVOCE_TOKEN") or None
    limits = replace(Limits(), sessions=serving.sessions or os.cpu_count() or 1)
    listening = listen(serving.host, serving.port)
    with listening:
        url = address(serving.host, listening.getsockname()[1])
        print(f"loading the models; then {url} is the page, and {url}/docs the interface", flush=True)
        if token is None and serving.host not in LOOPBACK:
            print("warning: others can reach this server, and it wants no token: give --token SECRET", flush=True)
        folder = serving.folder or Path.home() / ".cache" / "vivavoce"
        app = create_app(
            load(), folder, limits=limits, access=Access(token=token, origins=serving.origin), workers=serving.workers
        )
        if browser:
            webbrowser.open(f"{url}/?token={token}" if token else url)
        server(app).run(sockets=[listening])


def load() -> Animator:
    """The shipped models on one thread for each frame: several frames are made side by side."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return Animator.load()


def server(app: FastAPI) -> uvicorn.Server:
    """The application in uvicorn, whose own limits are a little wider than ours."""
    logging.getLogger("aioice").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app, log_level="warning", ws="websockets-sansio", ws_max_size=int((_FIRST_MESSAGE_MIB + 1) * MEBIBYTE), ws_max_queue=64,
        ws_per_message_deflate=False, timeout_graceful_shutdown=3, server_header=False,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; OSError in a sentence where that can't be."""
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
