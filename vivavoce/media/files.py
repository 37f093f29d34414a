"""What every reader asks of a path before it looks inside."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer


def require_file(path: Path, what: str) -> None:
    """Raises FileNotFoundError, IsADirectoryError, PermissionError or ValueError, one sentence each, unless `path` is a
    readable, non-empty file; `what` names its role in the message."""
    if path.is_dir():
        raise IsADirectoryError(f"the {what} {path} is a folder: give a file")
    if not path.exists():
        raise FileNotFoundError(f"the {what} {path} does not exist: check the name")
    if not path.is_file():
        raise ValueError(f"the {what} {path} is not an ordinary file: save it to one first")
    try:
        with path.open("rb") as opened:
            first = opened.read(1)
    except PermissionError:
        raise PermissionError(f"the {what} {path} may not be read: change its permissions") from None
    if not first:
        raise ValueError(f"the {what} {path} is an empty file: give one with something in it")


def open_media(path: Path, what: str) -> InputContainer:
    """Opens a sound or video file for reading; raises as `require_file` does, and ValueError when it is neither."""
    require_file(path, what)
    try:
        # The prefix and the list keep a name such as "http:x" and a playlist inside the file away from the network.
        return av.open(f"file:{path}", mode="r", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except OSError as error:
        raise type(error)(f"the {what} {path} cannot be read: {error.strerror}") from error
    except av.error.FFmpegError:
        raise ValueError(f"the {what} {path} is no sound or video, or it is damaged or cut short: give a whole file") from None
