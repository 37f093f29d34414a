"""Portraits that were registered once: their pictures prepared, on disk, under ids that are made of their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import skimage.data

from vivavoce.animate import SMALLEST_SIZE, Animator
from vivavoce.apps.server.limits import Limits, Refusal, refused
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.store import load_reference, save_reference
from vivavoce.media.portrait import Portrait, TooManyPixels

DEMO = "demo"
DEMO_SIZE = 512  # px
UNNAMED = "portrait"  # what an avatar without a name is called
MOST_LARGER = 4  # times than what is rendered: larger pictures are made smaller, for looking for faces in them takes long
_ID = re.compile(r"[0-9a-f]{24}")
_PARTIAL = re.compile(r"[0-9a-f]{24}(\.npz)?\.part")
_LONGEST_NAME = 80  # letters
_IN_MEMORY = 8  # prepared portraits; the demonstration always stays


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
    """How a portrait is to be prepared. ``size``: longest side, px, None for as large as suits it; ``crop``: head and shoulders
    only, as a square; ``face``: which one, counted from 0, the largest first."""

    size: int | None = None
    crop: bool = True
    face: int | None = None


class Avatars:
    """The registry. Several threads may call its methods; `register` and `prepare` take about a second, one at a time."""

    def __init__(self, folder: Path, animator: Animator, limits: Limits):
        self._folder, self._animator, self._limits = folder, animator, limits
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():  # by a machine that went down; what else lies here stays
            if _PARTIAL.fullmatch(left.name) and left.is_file():
                left.unlink()
        self._preparing = threading.RLock()
        self._lock = threading.Lock()  # of what is in memory; held for no longer than a look
        self._loaded: OrderedDict[str, Reference] = OrderedDict()

    def prepare(self, picture: bytes, wanted: Wanted) -> Reference:
        """A picture's content made ready; Refusal where it will not do."""
        most = self._limits.size
        if wanted.size is not None and not SMALLEST_SIZE <= wanted.size <= most:
            raise Refusal(400, "bad_size", f"a size of {wanted.size} was asked for: give {SMALLEST_SIZE} to {most} pixels")
        try:
            with self._preparing:
                portrait = _reduced(Portrait.from_bytes(picture, "the picture", wanted.face), MOST_LARGER * most)
                size = wanted.size or min(most, DEMO_SIZE if wanted.crop else max(SMALLEST_SIZE, *portrait.image.shape[:2]))
                return self._animator.prepare(portrait, size=size, crop=wanted.crop)
        except TooManyPixels as error:
            raise refused(error, "too_many_pixels", 413) from error
        except ValueError as error:
            raise refused(error, "bad_image") from error

    def register(self, picture: bytes, wanted: Wanted, name: str | None) -> tuple[Avatar, bool]:
        """Prepare a picture and keep it; the avatar, and whether it is new. The same picture asked for in the same way is the
        same avatar, which takes the name if one is given."""
        key = hashlib.sha256(picture + json.dumps(asdict(wanted)).encode()).hexdigest()[:24]
        with self._preparing:
            known = self._read(key)
            if known is not None:
                if name is not None and name[:_LONGEST_NAME] != known.name:
                    known = replace(known, name=name[:_LONGEST_NAME])
                    self._write(known)
                return known, False
            if len(self.all()) > self._limits.avatars:
                most = self._limits.avatars
                raise Refusal(507, "too_many_avatars", f"this server keeps at most {most} avatars: delete one first")
            reference = self.prepare(picture, wanted)
            width, height = reference.size
            called = (name or UNNAMED)[:_LONGEST_NAME]
            avatar = Avatar(id=key, name=called, width=width, height=height, created_at=int(time.time()))
            save_reference(reference, self._folder / f"{key}.npz")
            self._write(avatar)  # with this file the avatar is there
        self._remember(key, reference)
        return avatar, True

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
            with self._preparing:
                reference = self._animator.prepare(portrait, size=min(DEMO_SIZE, self._limits.size), crop=True)
        else:
            try:
                reference = load_reference(self._folder / f"{key}.npz")
            except (FileNotFoundError, ValueError) as error:
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
                del self._loaded[next(old for old in self._loaded if old != DEMO)]

    def _demo(self) -> Avatar:
        side = min(DEMO_SIZE, self._limits.size)
        return Avatar(id=DEMO, name="Demonstration", width=side, height=side, created_at=0)

    def _write(self, avatar: Avatar) -> None:
        """Keep what is told of it; the file is complete at every moment."""
        partial = self._folder / f"{avatar.id}.part"
        partial.write_text(json.dumps(asdict(avatar)))
        os.replace(partial, self._folder / f"{avatar.id}.json")

    def _read(self, key: str) -> Avatar | None:
        if not _ID.fullmatch(key):
            return None
        try:
            return Avatar(**json.loads((self._folder / f"{key}.json").read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # half written by a machine that went down
            return None


def _reduced(portrait: Portrait, longest: int) -> Portrait:
    """The portrait with sides of so many pixels at most."""
    height, width = portrait.image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return portrait
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return replace(portrait, image=cv2.resize(portrait.image, size, interpolation=cv2.INTER_AREA))
