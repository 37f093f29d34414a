"""What OpenAPI shows of answers: an example of each, and of the ways in which a request can fail."""

from __future__ import annotations

from typing import Any

AVATAR = {
    "id": "9f86d081884c7d659a2feaa0", "name": "Ada", "width": 512, "height": 512, "created_at": 1767225600, "object": "avatar",
}
VIDEO = {
    "id": "video_0123456789abcdef01234567", "object": "video", "model": "vivavoce", "status": "in_progress", "progress": 40,
    "created_at": 1767225600, "completed_at": None, "seconds": "12.40", "size": "512x512", "error": None,
}
FAILURES: dict[int, dict[str, str]] = {
    400: {
        "bad_request": "give either audio_reference (a sound file) or text, not both and not neither",
        "bad_form": "the request's body breaks off before the form's end: send all of it",
        "bad_json": "the request's body is no JSON: send an object with the fields of /docs",
        "bad_image": "the picture is not a picture that can be read: give a PNG, JPEG, WebP, BMP or TIFF file",
        "bad_size": "a size of 9000 was asked for: give 64 to 1024 pixels",
        "bad_audio": "the sound is silent: give a recording of speech",
        "bad_text": "there is nothing to say in '': give at least one word",
    },
    401: {"unauthorized": "this server wants a token: send 'Authorization: Bearer TOKEN'"},
    403: {"bad_origin": "a page of another origin may not use this server: start it with --origin to let it"},
    404: {
        "no_such_avatar": "there is no avatar with this id: register its picture with POST /v1/avatars",
        "no_such_video": "there is no video with this id: it may have been deleted or too old to keep",
    },
    408: {"timeout": "the request did not come within 120 seconds: send it faster, or a smaller one"},
    409: {"not_ready": "the video is in_progress: its content is there once it is completed"},
    413: {
        "too_large": "the request is larger than 20 MiB: send a smaller file",
        "too_many_pixels": "the picture has 100 megapixels, and at most 50 are accepted: save a smaller copy of it",
        "too_long": "the speech lasts more than 600 seconds, which is the most here: send it in parts",
    },
    415: {"bad_media_type": "send multipart/form-data, or application/json with files in base64"},
    422: {"bad_field": "the field 'size' will not do, input should be a valid integer: /docs has all fields"},
    429: {"queue_full": "16 videos wait or are being made, more are not allowed: try again later"},
    503: {"busy": "16 requests wait for their turn, more are not allowed: try again later"},
    507: {"too_many_avatars": "this server keeps at most 256 avatars: delete one first"},
}
_GUARDED = (401, 403)
_BODY = (400, 408, 413, 415, 422, 503)


def answers(
    status: int, example: Any, *failures: int, body: bool = False, media: str = "application/json"
) -> dict[int | str, Any]:
    """Responses of a guarded route for OpenAPI: its success, and its failures besides those of every route (with a ``body``)."""
    shown: dict[int | str, Any] = {status: {"description": "Done.", "content": {media: {"example": example} if example else {}}}}
    for failure in sorted({*_GUARDED, *failures, *(_BODY if body else ())}):
        examples = {
            code: {"value": {"error": {"code": code, "message": message}}} for code, message in FAILURES[failure].items()
        }
        shown[failure] = {"description": ", ".join(examples), "content": {"application/json": {"examples": examples}}}
    return shown
