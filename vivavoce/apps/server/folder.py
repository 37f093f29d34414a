"""The folder of a server: for registered portraits and results, and its own for as long as it runs."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vivavoce.media.files import plain_error

LOCK = "server.lock"


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """The folder, made if it is not there, kept from other servers until the context ends. ValueError where another one has it,
    OSError where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except (FileExistsError, NotADirectoryError) as error:
        said = f"the folder {folder} is a file, or lies in one: give --folder the name of a folder"
        raise plain_error(NotADirectoryError, said, error) from None
    except OSError as error:
        said = f"the folder {folder} cannot be written to ({error.strerror}): give another --folder"
        raise plain_error(type(error), said, error) from None
    with lock:  # the system lets go of it, however the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = f"another vivavoce server uses the folder {folder}: stop it, or give this one another --folder"
            raise ValueError(said) from None
        yield folder
