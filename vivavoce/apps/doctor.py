"""``vivavoce doctor``: what the machine has, what it lacks, and what that means."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata, resources
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from vivavoce.apps.errors import SYSTEM_LIBRARIES, explain, missing_libraries

PYTHONS = ((3, 11), (3, 12))
DISTRIBUTION = "vivavoce"
MIN_MEMORY_GIB = 2.0

# Where the name to import is not the distribution's.
MODULES = {"scikit-image": "skimage", "pillow": "PIL"}

# What each extra of pyproject.toml enables.
EXTRAS = {
    "train": "aligning recordings for `vivavoce train corpus`",
    "pretrained": "wav2vec 2.0, HuBERT and Whisper as speech encoders",
    "server": "`vivavoce serve` and `vivavoce web`: live sessions",
    "metrics": "identity in `vivavoce evaluate`",
    "video": "`vivavoce animate --engine wan` and `vivavoce train video`: pretrained video models",
    "test": "running the tests: pytest",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row: what was looked at, what was found, and whether the main job can run with it (None: it does not need it)."""

    what: str
    found: str
    good: bool | None


def examine() -> bool:
    """Prints the table; True if ``vivavoce animate`` can run here."""
    table = Table("", "What", Column("Found", overflow="fold"), title="vivavoce doctor", title_justify="left")
    able = True
    for finding in findings():
        mark = {True: "[green]ok[/]", False: "[red]missing[/]", None: "[dim]-[/]"}[finding.good]
        table.add_row(mark, finding.what, escape(finding.found))
        able = able and finding.good is not False
    console = Console()
    console.print(table)
    console.print("This machine can make portraits speak." if able else "What is marked missing has to be mended first.")
    return able


def findings() -> Iterator[Finding]:
    """Every check in turn; a check that fails by an exception is a finding, too."""
    yield _python()
    yield _system_libraries()
    for name, extras in _requirements():
        yield _package(name, extras)
    for what, check in (
        ("speech synthesis (espeak-ng)", _espeak), ("video and sound encoders", _encoders), ("trained weights", _weights),
    ):
        yield _guarded(what, check)
    yield _cores()
    yield _memory()
    yield _guarded("graphics processor", _gpu, needed=False)


def _guarded(what: str, check: Callable[[], Finding], *, needed: bool = True) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the user asked to be told
        said = explain(error)
        return Finding(what=what, found=said[0] if said else f"{type(error).__name__}: {error}", good=False if needed else None)


def _python() -> Finding:
    wanted = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] in PYTHONS
    return Finding(what="Python", found=version if good else f"{version}, but {wanted} is needed", good=good)


def _system_libraries() -> Finding:
    missing = missing_libraries()
    packages = " ".join(SYSTEM_LIBRARIES[name] for name in missing)
    found = f"{', '.join(missing)} missing: apt-get install {packages}" if missing else ", ".join(SYSTEM_LIBRARIES)
    return Finding(what="system libraries", found=found, good=not missing)


def _requirements() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(distribution, extras that bring it, none where it is always needed) for what this installation of vivavoce declares, each
    distribution once."""
    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed: its own name tells the reader enough
        yield DISTRIBUTION, ()
        return
    found: dict[str, tuple[str, ...]] = {}
    for line in declared:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        assert name, line
        if name.group() != DISTRIBUTION:  # an extra that brings another one
            found[name.group()] = (*found.get(name.group(), ()), *([extra.group(1)] if extra else []))
    yield from found.items()


def _package(name: str, extras: tuple[str, ...]) -> Finding:
    what = f"package {name}"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if extras:
            enabled = "; ".join(f"[{extra}] would enable {EXTRAS[extra]}" for extra in extras)
            return Finding(what=what, found=f"not installed; {enabled}", good=None)
        return Finding(what=what, found=f"not installed: pip install {name}", good=False)

    def check() -> Finding:
        import_module(MODULES.get(name, name.replace("-", "_")))
        brought = ", ".join(f"[{extra}]" for extra in extras)
        return Finding(what=what, found=f"{version}, of {brought}" if extras else version, good=True)

    # Without what only an extra brings, the main job can run.
    return _guarded(what, check, needed=not extras)


def _espeak() -> Finding:
    from vivavoce.media.speak import speak

    seconds = speak("a", voice="en").duration
    return Finding(what="speech synthesis (espeak-ng)", found=f"speaks ({seconds:.2f} s for a vowel)", good=seconds > 0)


def _encoders() -> Finding:
    import av

    wanted = {"H.264": "libx264", "AAC": "aac"}
    missing = [kind for kind, codec in wanted.items() if codec not in av.codecs_available]
    absent = f"{' and '.join(missing)} missing in PyAV: pip install av"
    found = absent if missing else f"{' and '.join(wanted)} in PyAV {av.__version__}"
    return Finding(what="video and sound encoders", found=found, good=not missing)


def _weights() -> Finding:
    from safetensors import safe_open

    folder = Path(str(resources.files(DISTRIBUTION) / "weights"))
    files = sorted(folder.glob("*.safetensors"))
    described = []
    for file in files:
        with safe_open(file, "np") as weights:
            numbers = sum(weights.get_tensor(name).size for name in weights.keys())
        described.append(f"{file.stem} ({numbers / 1e6:.2f} M numbers)")
    if not files:
        return Finding(what="trained weights", found="none in vivavoce/weights: install vivavoce again", good=False)
    from vivavoce.animate import Animator

    Animator.load()  # the proof that they fit together
    return Finding(what="trained weights", found=", ".join(described), good=True)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return Finding(what="processor cores", found=str(cores), good=True)


def _memory() -> Finding:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    good = gib >= MIN_MEMORY_GIB
    return Finding(what="memory", found=f"{gib:.1f} GiB" + ("" if good else f", {MIN_MEMORY_GIB:g} GiB are needed"), good=good)


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(what="graphics processor", found="none that torch can use; everything runs on the processor", good=None)
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Finding(what="graphics processor", found=f"{names}; the main job does not need it", good=None)
