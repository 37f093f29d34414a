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
OFFER = "\r\n".join((
    "v=0", "o=- 4611731400430051336 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0 1",
    *(
        line for number, (kind, codec) in enumerate((("audio 9 UDP/TLS/RTP/SAVPF 111", "111 opus/48000/2"),
                                                     ("video 9 UDP/TLS/RTP/SAVPF 96", "96 VP8/90000")))
        for line in (
            f"m={kind}", "c=IN IP4 0.0.0.0", "a=rtcp-mux", f"a=mid:{number}", "a=recvonly", f"a=rtpmap:{codec}",
            "a=ice-ufrag:4ZcD", "a=ice-pwd:2/1muCWoOi3uLifh0NuRHlQx", "a=setup:actpass",
            "a=fingerprint:sha-256 " + ":".join(["7B", "8B", "F0", "65", "5F", "78", "E2", "51"] * 4),
            "a=candidate:1 1 udp 2130706431 127.0.0.1 9 typ host", "a=end-of-candidates",
        )
    ), "",
))
"""A session description as a browser makes it, of audio and video to receive, whose port nobody listens at."""
HEALTH = {"status": "ok", "version": "0.1.0", "sessions": 1, "videos": 0}

FAILURES: dict[int, dict[str, str]] = {
    400: {
        "bad_request": "give either audio_reference (a sound file) or text, not both and not neither",
        "bad_form": "the request's body breaks off before the form's end: send all of it",
        "bad_json": "the request's body is no JSON: send an object with the fields of /docs",
        "bad_base64": "the field image_reference is no base64 and no file: send the file, or encode it",
        "missing_file": "the field image_reference is missing or empty: send a file in it",
        "bad_image": "the picture is not a picture that can be read: give a PNG, JPEG, WebP, BMP or TIFF file",
        "bad_size": "a size of 9000 was asked for: give 64 to 1024 pixels",
        "bad_audio": "the sound is silent: give a recording of speech",
        "bad_text": "there is nothing to say in '': give at least one word",
        "bad_offer": "the offer cannot be answered (it has to be willing to receive both video and audio): send the browser's "
                     "own session description",
        "bad_open": "there is no field 'colour' in 'open': docs/protocol.md has the fields",
        "bad_message": "there is no message of type 'dance': docs/protocol.md has them",
        "buffer_full": "61.0 seconds of speech would wait to be spoken, at most 60 may: push no faster than it is spoken, or "
                       "interrupt",
    },
    401: {"unauthorized": "this server wants a token: send 'Authorization: Bearer TOKEN'"},
    403: {
        "bad_origin": "a page of another origin may not use this server: start it with --origin to let it",
        "bad_host": "this server is of this machine only, not 'example.org': start it with --token, or --origin and that name",
        "not_yours": "the demonstration avatar cannot be deleted",
    },
    404: {
        "no_such_avatar": "there is no avatar with this id: register its picture with POST /v1/avatars",
        "no_such_video": "there is no video with this id: it may have been deleted or too old to keep",
        "not_found": "not found: /docs has what there is",
    },
    405: {"bad_method": "method not allowed: /docs has what there is"},
    408: {
        "timeout": "the request did not come within 120 seconds: send it faster, or a smaller one",
        "too_slow": "the session was fetched too slowly, and its pieces cannot be left out: open one with pictures",
    },
    409: {"not_ready": "the video is in_progress: its content is there once it is completed"},
    413: {
        "too_large": "the request is larger than 20 MiB: send a smaller file",
        "too_many_pixels": "the picture has 100 megapixels, and at most 50 are accepted: save a smaller copy of it",
        "too_long": "the speech lasts more than 600 seconds, which is the most here: send it in parts",
    },
    415: {"bad_media_type": "send multipart/form-data, or application/json with files in base64"},
    422: {
        "bad_field": "the field 'size' has to be a whole number: /docs has all fields",
        "bad_input": "the sound is damaged: 9 of its 20 packets cannot be decoded; copy or download it again",
    },
    429: {
        "queue_full": "16 videos wait or are being made, more are not allowed: try again later",
        "too_many_errors": "more than 100 messages made no sense: read docs/protocol.md",
        "buffer_full": "100 messages wait to be obeyed: send them more slowly",
    },
    500: {"internal": "the request failed by a mistake of the server: its log has it"},
    503: {"busy": "16 requests wait for their turn, more are not allowed: try again later"},
    507: {"too_many_avatars": "this server keeps at most 256 avatars: delete one first"},
}
"""All codes of refusals by their HTTP status, and a sentence that may come with each."""

LIVE_ONLY = ("bad_open", "bad_message", "buffer_full", "too_many_errors", "too_slow")
"""Codes that no request is answered with: they come within live sessions."""

ERROR = {
    "type": "object", "required": ["error"],
    "properties": {"error": {
        "type": "object", "required": ["code", "message"],
        "properties": {"code": {"type": "string", "description": "For programs."},
                       "message": {"type": "string", "description": "For people: what was wrong and what to do."}},
    }},
}
"""The schema of every refusal."""

GUARDED = ("unauthorized", "bad_origin", "bad_host", "internal")
BODY = ("bad_form", "bad_json", "bad_field", "bad_media_type", "too_large", "timeout")
PICTURE = ("bad_base64", "missing_file", "bad_image", "bad_size", "too_many_pixels", "busy")
SPEECH = ("bad_request", "bad_text", "bad_audio", "too_long", "queue_full")


def answers(status: int, example: Any, *codes: str, media: str = "application/json") -> dict[int | str, Any]:
    """Responses of a route for OpenAPI: its success, and the failures that it may be answered with."""
    shown: dict[int | str, Any] = {status: {"description": "Done.", "content": {media: {"example": example} if example else {}}}}
    for failure, sentences in FAILURES.items():
        examples = {
            code: {"value": {"error": {"code": code, "message": sentences[code]}}}
            for code in codes if code in sentences and code not in LIVE_ONLY
        }
        if examples:
            shown[failure] = {"description": ", ".join(examples), "content": {"application/json": {"examples": examples}}}
    shown["default"] = {"description": "Whatever else fails.", "content": {"application/json": {"schema": ERROR}}}
    return shown
