"""Pictures from files: whatever a camera, a phone or a painter saved, as upright 8-bit RGB."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from vivavoce.media.files import require_file

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_MEGAPIXELS = 50
MIN_SIDE = 16
MAX_RATIO = 16  # of the sides

# Samples wider than 8 bits: Pillow clips these modes instead of scaling them, so they are scaled here.
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


class TooManyPixels(ValueError):
    """A picture is larger than is accepted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Portrait:
    """A picture with a person in it.

    image: uint8 (h, w, 3), RGB, upright.  name: what to call it in messages.  face: which face to animate, counted
    from 0 in order of falling size; None is the largest.  Raises ValueError for any other kind of array.
    """

    image: np.ndarray
    name: str = "picture"
    face: int | None = None

    def __post_init__(self) -> None:
        shape = self.image.shape
        if self.image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise ValueError(
                f"a portrait is a uint8 array of shape (height, width, 3), "
                f"not {self.image.dtype} of shape {shape}: convert it to RGB first"
            )
        if min(shape[:2]) < MIN_SIDE:
            raise ValueError(
                f"{self.name} is {shape[1]} x {shape[0]} pixels, and a portrait needs at least {MIN_SIDE} on each side: "
                f"use a larger picture"
            )
        if max(shape[:2]) > MAX_RATIO * min(shape[:2]):
            raise ValueError(
                f"{self.name} is {shape[1]} x {shape[0]} pixels, and one side of a portrait is at most {MAX_RATIO} times the "
                f"other: cut the person out"
            )
        if self.face is not None and self.face < 0:
            raise ValueError(f"face {self.face} does not exist: faces are counted from 0, the largest first")

    @staticmethod
    def open(path: str | Path, face: int | None = None) -> Portrait:
        """Reads a PNG, JPEG, WebP, BMP or TIFF file of at most 50 megapixels.

        The camera's rotation is applied, an embedded colour profile converted to sRGB, transparency laid over white, and
        greyscale, palette, CMYK and 16-bit pictures become 8-bit RGB.  Of several pictures in a file, the first counts.
        Raises an OSError when the file cannot be read at all and ValueError when it is not a whole picture of these kinds.
        """
        path = Path(path)
        require_file(path, "portrait")
        return Portrait(image=np.ascontiguousarray(np.asarray(_decode(path, str(path)))), name=path.name, face=face)

    @staticmethod
    def from_bytes(data: bytes, name: str = "the picture", face: int | None = None) -> Portrait:
        """What `open` reads, from a file's content; ``name`` is what messages call it."""
        return Portrait(image=np.ascontiguousarray(np.asarray(_decode(io.BytesIO(data), name))), name=name, face=face)


def _decode(source: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's size warnings: the limit below is ours, and it is lower
            opened = Image.open(source, formats=FORMATS)
        with opened:
            _require_size(name, opened.width * opened.height)
            opened.load()
            return _over_white(_to_srgb(_to_8_bit(ImageOps.exif_transpose(opened))))
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture that can be read: give a PNG, JPEG, WebP, BMP or TIFF file") from None
    except Image.DecompressionBombError as error:
        counted = re.search(r"\d+", str(error))
        _require_size(name, int(counted.group()) if counted else 10 * MAX_MEGAPIXELS * 10**6)
        raise
    except PermissionError:
        raise
    except (OSError, SyntaxError, ArithmeticError, LookupError, TypeError, EOFError) as error:
        # Pillow's decoders answer damage with all of these, and each means the same to the reader.
        raise ValueError(f"{name} is damaged or cut short ({_first_line(error)}): save or download the picture again") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _require_size(name: str, pixels: int) -> None:
    if pixels > MAX_MEGAPIXELS * 10**6:
        raise TooManyPixels(
            f"{name} has {pixels / 1e6:.0f} megapixels, and at most {MAX_MEGAPIXELS} are accepted: save a smaller copy of it"
        )


def _to_8_bit(picture: Image.Image) -> Image.Image:
    """Scales 16-bit, 32-bit and floating-point grey to 8 bits; other modes pass."""
    if picture.mode not in _WIDE_MODES:
        return picture
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"the picture holds pixels that are not numbers (mode {picture.mode}): save it as an 8-bit PNG")
    # Floating-point pictures come in 0..1 or in the range of the integers they were made from; the others hold 16 bits.
    limits = (1.0, 255.0, 65535.0) if picture.mode == "F" else (65535.0,)
    full = next((limit for limit in limits if values.max() <= limit), values.max())
    return Image.fromarray(np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8))


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Converts by the embedded profile, because phones save Display P3 and skin would come out pale without it."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK"):
        return picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            picture, source, ImageCms.createProfile("sRGB"), outputMode="RGBA" if picture.mode == "RGBA" else "RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return picture  # a profile that does not fit the pixels; every viewer shows such a file as plain sRGB
    assert converted is not None
    return converted


def _over_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layered = picture.convert("RGBA")
    white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layered).convert("RGB")
