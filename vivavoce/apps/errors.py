"""What the command line says when something goes wrong: one sentence, and an exit code."""

from __future__ import annotations

import ctypes
import errno
import re

OK = 0
FAILED = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
TERMINATED = 143  # 128 + SIGTERM

# Packages that only some commands need, and the extra of vivavoce that brings them.
EXTRAS = {
    "fastapi": "server", "uvicorn": "server", "aiortc": "server", "prometheus_client": "server", "multipart": "server",
    "dlib": "metrics",
}

# Shared libraries that the wheels expect from the system (OpenCV's, as mediapipe brings it), and Debian's packages for them.
SYSTEM_LIBRARIES = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0"}

_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")


def missing_libraries() -> list[str]:
    """Those of `SYSTEM_LIBRARIES` that the loader does not find."""
    missing = []
    for name in SYSTEM_LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    return missing


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit code for an error that a user can mend; None for one that only we can: it keeps its traceback."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C; an output appears only when it is complete", INTERRUPTED
    library = _MISSING_LIBRARY.search(str(error)) if isinstance(error, ImportError | OSError) else None
    if library:
        return _install_sentence(library.group(1)), FAILED
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"the Python package {error.name} is missing: install with: pip install 'vivavoce[{EXTRAS[error.name]}]'", FAILED
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "vivavoce":
        return f"the Python package {error.name} is missing: install vivavoce again with pip, it brings what it needs", FAILED
    if isinstance(error, MemoryError):
        return "the machine ran out of memory: give a smaller picture or close other programs", FAILED
    if isinstance(error, OSError):
        return _system_sentence(error), FAILED
    if isinstance(error, ValueError):
        return " ".join(str(error).split()), FAILED
    return None


def _install_sentence(library: str) -> str:
    wanted = list(dict.fromkeys([library, *missing_libraries()]))
    packages = " ".join(SYSTEM_LIBRARIES[name] for name in wanted if name in SYSTEM_LIBRARIES)
    if not packages:
        return f"the system library {library} is missing: install the package of your distribution that holds it"
    return f"the system lacks {' and '.join(wanted)}: install with: apt-get install {packages}"


def _system_sentence(error: OSError) -> str:
    if error.strerror is None:  # the library's own sentence
        option = " (--overwrite)" if isinstance(error, FileExistsError) else ""
        return " ".join(str(error).split()) + option
    if error.errno == errno.ENOSPC:
        return "the disk is full: free some space or write elsewhere; the output was not written"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}"
