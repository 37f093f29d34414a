"""Portraits that were registered once: their pictures prepared, on disk, under ids that are made of their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import skimage.data

from vivavoce.animate import Animator
from vivavoce.apps.server.limits import Limits, Refusal, refused
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.store import load_reference, save_reference
from vivavoce.media.portrait import Portrait

DEMO = "demo"
DEMO_SIZE = 512
_ID = re.compile(r"[0-9a-f]{24}")
_IN_MEMORY = 8


@dataclass(frozen=True, kw_only=True)
class Avatar:
    """What a client is told of a registered portrait. ``width``, ``height``: of the frames, px; ``created_at``: Unix time."""

    id: str
    name: str
    width: int
    height: int
    created_at: int
    object: str = "avatar"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a portrait is to be prepared."""

    size: int | None = None
    crop: bool = True
    face: int | None = None


class Avatars:
    """The registry. Methods that prepare take about a second and belong into a thread; several threads may call them."""

    def __init__(self, folder: Path, animator: Animator, limits: Limits):
        self._folder, self._animator, self._limits = folder, animator, limits
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()  # preparing is heavy: one at a time
        self._loaded: OrderedDict[str, Reference] = OrderedDict()

    def prepare(self, picture: bytes, wanted: Wanted, name: str = "the picture") -> Reference:
        """A picture's content made ready; Refusal where it will not do."""
        if wanted.size is not None and wanted.size > self._limits.size:
            most = self._limits.size
            raise Refusal(400, "bad_size", f"a size of {wanted.size} was asked for: this server renders {most} at most")
        try:
            portrait = Portrait.from_bytes(picture, name, wanted.face)
            size = wanted.size or min(self._limits.size, DEMO_SIZE if wanted.crop else max(portrait.image.shape[:2]))
            with self._lock:
                return self._animator.prepare(portrait, size=size, crop=wanted.crop)
        except ValueError as error:
            raise refused(error, "bad_image") from error

    def register(self, picture: bytes, wanted: Wanted, name: str) -> Avatar:
        """Prepare a picture and keep it; the same picture asked for in the same way is the same avatar."""
        key = hashlib.sha256(picture + json.dumps(asdict(wanted)).encode()).hexdigest()[:24]
        known = self._read(key)
        if known is not None:
            return known
        if len(self.all()) > self._limits.avatars:
            raise Refusal(507, "too_many_avatars", f"this server keeps at most {self._limits.avatars} avatars: delete one first")
        reference = self.prepare(picture, wanted)
        width, height = reference.size
        avatar = Avatar(id=key, name=name[:80], width=width, height=height, created_at=int(time.time()))
        save_reference(reference, self._folder / f"{key}.npz")
        partial = self._folder / f"{key}.part"
        partial.write_text(json.dumps(asdict(avatar)))
        os.replace(partial, self._folder / f"{key}.json")  # with this file the avatar is there
        self._remember(key, reference)
        return avatar

    def all(self) -> list[Avatar]:
        """All of them, the demonstration first, then by age."""
        found = (self._read(file.stem) for file in self._folder.glob("*.json"))
        return [self._demo(), *sorted((a for a in found if a is not None), key=lambda avatar: avatar.created_at)]

    def get(self, key: str) -> Avatar:
        """Refusal where there is none with this id."""
        avatar = self._demo() if key == DEMO else self._read(key)
        if avatar is None:
            raise Refusal(404, "no_such_avatar", "there is no avatar with this id: register its picture with POST /v1/avatars")
        return avatar

    def reference(self, key: str) -> Reference:
        """The prepared portrait."""
        self.get(key)
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
                return self._loaded[key]
        if key == DEMO:
            portrait = Portrait(image=skimage.data.astronaut(), name="the demonstration")
            with self._lock:
                reference = self._animator.prepare(portrait, size=min(DEMO_SIZE, self._limits.size), crop=True)
        else:
            try:
                reference = load_reference(self._folder / f"{key}.npz")
            except (OSError, ValueError) as error:
                self.remove(key)
                raise Refusal(
                    404, "no_such_avatar", "this avatar was prepared by another version or is damaged: register its picture again"
                ) from error
        self._remember(key, reference)
        return reference

    def picture(self, key: str) -> bytes:
        """Its picture at rest, JPEG."""
        return cv2.imencode(".jpg", cv2.cvtColor(self.reference(key).canvas, cv2.COLOR_RGB2BGR))[1].tobytes()

    def remove(self, key: str) -> None:
        """Refusal where there is none with this id, or it is the demonstration."""
        self.get(key)
        if key == DEMO:
            raise Refusal(403, "not_yours", "the demonstration avatar cannot be deleted")
        with self._lock:
            self._loaded.pop(key, None)
        for suffix in (".json", ".npz"):
            (self._folder / f"{key}{suffix}").unlink(missing_ok=True)

    def _remember(self, key: str, reference: Reference) -> None:
        with self._lock:
            self._loaded[key] = reference
            while len(self._loaded) > _IN_MEMORY:
                self._loaded.popitem(last=False)

    def _demo(self) -> Avatar:
        side = min(DEMO_SIZE, self._limits.size)
        return Avatar(id=DEMO, name="Demonstration", width=side, height=side, created_at=0)

    def _read(self, key: str) -> Avatar | None:
        if not _ID.fullmatch(key):
            return None
        try:
            return Avatar(**json.loads((self._folder / f"{key}.json").read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # half written by a machine that went down
            return None
