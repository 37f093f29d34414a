"""What every reader asks of a path before it looks inside, and every writer before it works."""

from __future__ import annotations

import secrets
from pathlib import Path

import av
from av.container import InputContainer

# Playlists open other files than the one that was given; who sent it must not choose which.
_PLAYLISTS = {"concat", "dash", "hls", "imf", "rtsp", "sdp", "vobsub", "webm_dash_manifest"}
_FORMATS = ",".join(sorted(av.formats_available - _PLAYLISTS))


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
        # The prefix and the list of protocols keep a name such as "http:x" away from the network.
        options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
        return av.open(f"file:{path}", mode="r", options=options, metadata_errors="replace")
    except OSError as error:
        raise plain_error(OSError, f"the {what} {path} cannot be read: {error.strerror}", error) from error
    except av.error.FFmpegError:
        raise ValueError(f"the {what} {path} is no sound or video, or it is damaged or cut short: give a whole file") from None


def check_writable(path: Path, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Raises one clear error if a file cannot be written there, before any work is done: ValueError for a name that ends in none
    of `suffixes`, FileExistsError without `overwrite`, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError
    or another OSError for the folder."""
    if path.suffix.lower() not in suffixes:
        names = " or ".join(f"{path.stem}{suffix}" for suffix in suffixes)
        raise ValueError(f"the output {path} does not end in {' or '.join(suffixes)}, which is what is written: name it {names}")
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(f"the output {path} is a folder: give the name of a file in it")
    if not folder.exists():
        raise FileNotFoundError(f"the folder {folder} of the output does not exist: make it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"the output's folder {folder} is a file: choose another name")
    if path.exists() and not overwrite:
        raise FileExistsError(f"the output {path} exists already: choose another name or allow overwriting")
    probe = folder / temporary_name(path.suffix)
    try:
        # Only an attempt tells: permission bits say nothing about a read-only or full disk, nor about the administrator.
        try:
            probe.open("xb").close()
        finally:  # Ctrl-C too
            probe.unlink(missing_ok=True)
    except OSError as error:
        message = f"the folder {folder} cannot be written to ({error.strerror}): choose another one"
        raise plain_error(type(error), message, error) from None


def temporary_name(suffix: str) -> str:
    """A hidden name that nobody has, for a file that is not complete."""
    return f".vivavoce-{secrets.token_hex(8)}.part{suffix}"


def plain_error(kind: type[OSError], message: str, cause: OSError) -> OSError:
    """An OSError that reads as one sentence and keeps its errno."""
    error = kind(message)
    error.errno = cause.errno
    return error
