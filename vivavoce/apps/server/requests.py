"""Bodies of requests: multipart forms and JSON with the same fields, and what OpenAPI says of them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, ClassVar, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from vivavoce.animate import DEFAULT_FPS, HIGHEST_FPS, LOWEST_FPS, Controls, Settings
from vivavoce.apps.server.avatars import DEMO, Wanted
from vivavoce.apps.server.documents import OFFER
from vivavoce.apps.server.fields import complaint
from vivavoce.apps.server.limits import Refusal, from_base64, from_json, refused
from vivavoce.apps.server.videos import Speech

R = TypeVar("R", bound="Body")

_FILES = ("image_reference", "audio_reference")
_MOST_FILES, _MOST_FIELDS = 4, 40


class Body(BaseModel):
    """Fields of a request. Files are bytes: parts of a form, or base64 (or data URLs) in JSON."""

    model_config = ConfigDict(extra="forbid", strict=False)

    examples: ClassVar[dict[str, dict[str, Any]]]
    """Bodies that may be sent, by what they are for; "<file>" stands for a file's content, or its base64."""

    @classmethod
    def document(cls) -> dict[str, Any]:
        """What OpenAPI says of the body."""
        schema = cls.model_json_schema()
        shown = {name: {"summary": name, "value": value} for name, value in cls.examples.items()}
        encoded = _with_files(schema, "base64, or a data URL")
        content: dict[str, Any] = {"application/json": {"schema": encoded, "examples": shown}}
        if any(name in schema["properties"] for name in _FILES):
            form = _with_files(schema, "a file, or base64", format="binary")
            content = {"multipart/form-data": {"schema": form, "examples": shown}, **content}
        return {"requestBody": {"required": True, "content": content}}

    def given(self) -> set[str]:
        """Names of the fields that the client sent with a value."""
        return set(self.model_dump(exclude_unset=True, exclude_none=True))


def _with_files(schema: dict[str, Any], how: str, **kind: str) -> dict[str, Any]:
    """The schema of a body whose files come like this."""
    properties = dict(schema["properties"])
    for name in _FILES:
        if name in properties:
            about = {key: value for key, value in properties[name].items() if key not in ("anyOf", "default")}
            properties[name] = {**about, "type": "string", "description": f"{about['description']} As {how}.", **kind}
    return {**schema, "properties": properties}


class Moving(Body):
    """Fields of whatever moves."""

    fps: float = Field(DEFAULT_FPS, description=f"Frames per second, {LOWEST_FPS:.0f} to {HIGHEST_FPS:.0f}.")
    seed: int = Field(0, description="Number of the take; equal requests with equal seeds give equal frames.")
    expression: float = Field(1.0, description="Strength of cheeks, brows and eyelids, 0 to 3.")
    head: float = Field(1.0, description="Strength of the head's movement, 0 to 3.")
    blink: float = Field(1.0, description="How often the eyes blink, 0 to 3.")
    gaze: float = Field(1.0, description="Strength of the eyes' movement, 0 to 3.")

    def settings(self) -> Settings:
        """Refusal where a number is out of its range."""
        try:
            controls = Controls(expression=self.expression, head=self.head, blink=self.blink, gaze=self.gaze)
            return Settings(fps=self.fps, seed=self.seed, controls=controls)
        except ValueError as error:
            raise refused(error, "bad_request") from error


class Pictured(Body):
    """Fields of whatever prepares a picture."""

    image_reference: bytes | str | None = Field(None, description="The picture: PNG, JPEG, WebP, BMP or TIFF.")
    size: int | None = Field(None, description="Of image_reference: longest side of the frames, pixels.", examples=[512])
    crop: bool = Field(True, description="Of image_reference: cut out head and shoulders as a square.")
    face: int | None = Field(None, description="Of image_reference: which face moves, counted from 0, the largest first.")

    def picture(self) -> bytes:
        """The file; Refusal where there is none."""
        return _file(self.image_reference, "image_reference")

    def wanted(self) -> Wanted:
        """How the picture is to be prepared."""
        return Wanted(size=self.size, crop=self.crop, face=self.face)


class AvatarRequest(Pictured):
    """A portrait to be registered."""

    examples = {
        "a portrait": {"image_reference": "<file>", "name": "Ada"},
        "a small picture as it is": {"image_reference": "<file>", "size": 256, "crop": False},
    }

    name: str | None = Field(
        None, description="What to call it in lists; a known picture takes this name.", max_length=200, examples=["Ada"]
    )


class VideoRequest(Pictured, Moving):
    """A portrait and speech. Without image_reference and avatar_id the demonstration speaks."""

    examples = {
        "a picture and a recording": {"image_reference": "<file>", "audio_reference": "<file>"},
        "a registered portrait and words": {"avatar_id": DEMO, "text": "Hello! How are you?", "voice": "en"},
        "lively, at thirty frames": {"image_reference": "<file>", "text": "Good morning!", "fps": 30, "expression": 1.5},
    }

    avatar_id: str | None = Field(None, description="A registered portrait, instead of image_reference.", examples=["demo"])
    audio_reference: bytes | str | None = Field(None, description="The speech: any sound file, or a video with sound.")
    text: str | None = Field(None, description="Words to speak with eSpeak NG, instead of audio_reference.", examples=["Hello!"])
    voice: str = Field("en", description="eSpeak NG's voice for text.", max_length=40)

    def pictured(self) -> bool:
        """Whether it brings a picture of its own; Refusal where it has a registered portrait too, or says how to prepare none."""
        if self.avatar_id is not None and self.image_reference is not None:
            raise Refusal(400, "bad_request", "both avatar_id and image_reference were given: give one of them")
        if self.image_reference is None and (idle := sorted(self.given() & {"size", "crop", "face"})):
            said = f"{idle[0]} is for an image_reference, a registered portrait is prepared already: leave it out"
            raise Refusal(400, "bad_request", said)
        return self.image_reference is not None

    def speech(self) -> Speech:
        """Refusal unless it is one of the two, or where a voice has no text."""
        if self.text is None and "voice" in self.given():
            raise Refusal(400, "bad_request", "voice is for a text, and none was given: leave it out")
        if (self.audio_reference is None) == (self.text is None):
            raise Refusal(400, "bad_request", "give either audio_reference (a sound file) or text, not both and not neither")
        sound = None if self.audio_reference is None else _file(self.audio_reference, "audio_reference")
        return Speech(sound=sound, text=self.text, voice=self.voice)


class OfferRequest(Moving):
    """A WebRTC offer."""

    examples = {"one that may be answered, from a client that nobody reaches": {"sdp": OFFER, "avatar": DEMO}}

    sdp: str = Field(description="The session description of the client, with all its candidates.", max_length=200_000)
    type: Literal["offer"] = "offer"
    avatar: str | None = Field(None, description="A registered portrait; without it, the demonstration.", examples=["demo"])


async def read(request: Request, kind: type[R]) -> R:
    """The body as fields; Refusal where it is neither a form nor JSON, or a field is unknown or will not do."""
    media, about = parse_options_header(request.headers.get("content-type", ""))
    if media == b"multipart/form-data":
        # Other alphabets' decoders may take hours.
        if about.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
            raise Refusal(415, "bad_media_type", "forms are read as UTF-8 only: leave the charset out")
        return _checked(await _form(request), kind)
    if media == b"application/json":
        body = await request.body()
        return await asyncio.to_thread(lambda: _checked(_from_json(body), kind))
    raise Refusal(415, "bad_media_type", "send multipart/form-data, or application/json with files in base64")


def _checked(values: dict[str, Any], kind: type[R]) -> R:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Refusal(422, "bad_field", f"{complaint(error)}: /docs has all fields") from error


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        return from_json(body)
    except ValueError as error:
        raise Refusal(400, "bad_json", f"the request's body is {error}: send an object with the fields of /docs") from error


class _Form(MultiPartParser):
    """A form of which we know whether it came to its end."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _form(request: Request) -> dict[str, Any]:
    # A part may be as large as the body, which is limited already.
    parser = _Form(request.headers, request.stream(), max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=sys.maxsize)
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:
        raise Refusal(400, "bad_form", "the request's body is no form that can be read: send multipart/form-data") from error
    values: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            if name in values:
                raise Refusal(400, "bad_form", f"the field {name[:40]!r} came more than once: send it once")
            values[name] = await value.read() if isinstance(value, UploadFile) else value
    finally:
        await form.close()
    if not parser.ended:
        raise Refusal(400, "bad_form", "the request's body breaks off before the form's end: send all of it")
    return values


def _file(value: bytes | str | None, name: str) -> bytes:
    if isinstance(value, str):
        try:
            value = from_base64(value)
        except ValueError as error:
            raise Refusal(400, "bad_base64", f"the field {name} is no base64 and no file: send the file, or encode it") from error
    if not value:
        raise Refusal(400, "missing_file", f"the field {name} is missing or empty: send a file in it")
    return value
