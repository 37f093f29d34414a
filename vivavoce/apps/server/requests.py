"""Bodies of requests: multipart forms and JSON with the same fields, and what OpenAPI says of them."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from vivavoce.animate import DEFAULT_FPS, Controls, Settings
from vivavoce.apps.server.avatars import Wanted
from vivavoce.apps.server.limits import Refusal, from_base64, refused
from vivavoce.apps.server.videos import Speech

R = TypeVar("R", bound="Body")

_FILES = ("image_reference", "audio_reference")


class Body(BaseModel):
    """Fields of a request. Files are bytes: parts of a form, or base64 (or data URLs) in JSON."""

    model_config = ConfigDict(extra="forbid", strict=False)

    @classmethod
    def document(cls) -> dict[str, Any]:
        """What OpenAPI says of the body."""
        schema = cls.model_json_schema()
        form = {**schema, "properties": {
            name: {**about, "type": "string", "format": "binary"} if name in _FILES else about
            for name, about in schema["properties"].items()
        }}
        content = {"application/json": {"schema": schema}}
        if any(name in schema["properties"] for name in _FILES):
            content = {"multipart/form-data": {"schema": form}, **content}
        return {"requestBody": {"required": True, "content": content}}


class Moving(Body):
    """Fields of whatever moves."""

    fps: float = Field(DEFAULT_FPS, description="Frames per second, 10 to 60.")
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
    size: int | None = Field(None, description="Longest side of the frames, pixels.", examples=[512])
    crop: bool = Field(True, description="Cut out head and shoulders as a square.")
    face: int | None = Field(None, description="Which face moves, counted from 0, the largest first.")

    def picture(self) -> bytes:
        """The file; Refusal where there is none."""
        return _file(self.image_reference, "image_reference")

    def wanted(self) -> Wanted:
        return Wanted(size=self.size, crop=self.crop, face=self.face)


class AvatarRequest(Pictured):
    """A portrait to be registered."""

    name: str | None = Field(None, description="What to call it in lists.", max_length=200, examples=["Ada"])


class VideoRequest(Pictured, Moving):
    """A portrait and speech. Without image_reference and avatar_id the demonstration speaks."""

    avatar_id: str | None = Field(None, description="A registered portrait, instead of image_reference.", examples=["demo"])
    audio_reference: bytes | str | None = Field(None, description="The speech: any sound file, or a video with sound.")
    text: str | None = Field(None, description="Words to speak with eSpeak NG, instead of audio_reference.", examples=["Hello!"])
    voice: str = Field("en", description="eSpeak NG's voice for text.", max_length=40)

    def speech(self) -> Speech:
        """Refusal unless it is one of the two."""
        if (self.audio_reference is None) == (self.text is None):
            raise Refusal(400, "bad_request", "give either audio_reference (a sound file) or text, not both and not neither")
        sound = None if self.audio_reference is None else _file(self.audio_reference, "audio_reference")
        return Speech(sound=sound, text=self.text, voice=self.voice)


class OfferRequest(Moving):
    """A WebRTC offer."""

    sdp: str = Field(description="The session description of the client.", max_length=200_000)
    type: Literal["offer"] = "offer"
    avatar: str | None = Field(None, description="A registered portrait; without it, the demonstration.", examples=["demo"])


async def read(request: Request, kind: type[R]) -> R:
    """The body as fields; Refusal where it is neither a form nor JSON, or a field is unknown or will not do."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    values: Any
    if media == "multipart/form-data":
        values = await _form(request)
    elif media == "application/json":
        try:
            values = await request.json()
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "bad_json", "the request's body is no JSON: send an object with the fields of /docs") from error
    else:
        raise Refusal(415, "bad_media_type", "send multipart/form-data, or application/json with files in base64")
    if not isinstance(values, dict):
        raise Refusal(400, "bad_json", "the request's body is JSON, but no object: send the fields of /docs")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"][:1]) or "body"
        raise Refusal(422, "bad_field", f"the field {where}: {first['msg'].lower()}; /docs has all fields") from error


async def _form(request: Request) -> dict[str, Any]:
    try:
        async with request.form(max_files=4, max_fields=40, max_part_size=2**20) as form:
            return {
                name[:100]: await value.read() if isinstance(value, UploadFile) else value for name, value in form.multi_items()
            }
    except (HTTPException, MultiPartException, ValueError) as error:
        raise Refusal(400, "bad_form", "the request's body is no whole form: send multipart/form-data") from error


def _file(value: bytes | str | None, name: str) -> bytes:
    if isinstance(value, str):
        try:
            value = from_base64(value)
        except ValueError as error:
            raise Refusal(400, "bad_base64", f"the field {name} is no base64 and no file: send the file, or encode it") from error
    if not value:
        raise Refusal(400, "missing_file", f"the field {name} is missing or empty: send a file in it")
    return value
