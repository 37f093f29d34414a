"""Whatever way a picture was saved, the same person comes out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from vivavoce.media import Portrait
from vivavoce.media.portrait import MAX_MEGAPIXELS

# What the eight EXIF orientations ask a viewer to do, as operations on the upright picture that undo it.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = (np.sin(x / 9.0), np.cos(y / 7.0), np.sin((x + 2 * y) / 11.0))
    return np.stack([128 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("orientation", STORED)
def test_the_camera_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    upright = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif)
    assert np.array_equal(Portrait.open(path).image, upright)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(picture()).save(path, lossless=True)
    opened = Portrait.open(path, face=1)
    assert np.array_equal(opened.image, picture())
    assert (opened.name, opened.face) == (path.name, 1)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_jpeg_keeps_the_colours(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(picture()).convert(mode).save(path, quality=95, subsampling=0)
    assert np.abs(Portrait.open(path).image.astype(int) - picture()).mean() < 3


def test_greyscale_is_equal_in_all_channels_at_8_and_16_bits_and_as_floats(tmp_path: Path) -> None:
    grey = picture()[..., 0]
    saved = {
        "8.png": Image.fromarray(grey),
        "16.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "16.tiff": Image.fromarray(grey.astype(np.uint16) * 257),
        "unit.tiff": Image.fromarray(grey.astype(np.float32) / 255),
        "float.tiff": Image.fromarray(grey.astype(np.float32)),
    }
    for name, image in saved.items():
        image.save(tmp_path / name)
        assert np.array_equal(Portrait.open(tmp_path / name).image, np.stack([grey] * 3, axis=-1)), name


def test_palette_and_one_bit_pictures_show_their_colours(tmp_path: Path) -> None:
    few = (picture() // 128) * 255
    Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE, colors=8).save(tmp_path / "palette.png")
    assert np.array_equal(Portrait.open(tmp_path / "palette.png").image, few)
    bits = picture()[..., 0] > 128
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert np.array_equal(Portrait.open(tmp_path / "bits.png").image, np.stack([bits * np.uint8(255)] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    colour = np.asarray(Image.fromarray(picture()).convert(mode[:-1]))
    alpha = np.zeros(colour.shape[:2], np.uint8)
    alpha[:, 20:40] = 255
    alpha[:, 40:] = 128
    Image.fromarray(np.dstack([colour, alpha]), mode=mode).save(tmp_path / "clear.png")
    opened = Portrait.open(tmp_path / "clear.png").image.astype(int)
    shown = np.asarray(Image.fromarray(colour).convert("RGB")).astype(int)
    assert (opened[:, :20] == 255).all()
    assert np.array_equal(opened[:, 20:40], shown[:, 20:40])
    assert np.abs(opened[:, 40:] - (shown[:, 40:] + 255) / 2).max() <= 1.5


def test_an_embedded_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    plain = Image.fromarray(picture())
    lab = ImageCms.createProfile("sRGB")
    plain.save(tmp_path / "srgb.png", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert np.abs(Portrait.open(tmp_path / "srgb.png").image.astype(int) - picture()).max() <= 1
    plain.save(tmp_path / "broken.png", icc_profile=b"not a profile")
    assert np.array_equal(Portrait.open(tmp_path / "broken.png").image, picture())


def test_every_cut_of_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix in ("png", "jpg", "webp", "bmp", "tiff"):
        whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
        Image.fromarray(noise).save(whole)
        data = whole.read_bytes()
        for share in (0.02, 0.3, 0.7):
            cut.write_bytes(data[: max(1, int(len(data) * share))])
            with pytest.raises(ValueError) as caught:
                Portrait.open(cut)
            assert str(cut) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.touch()
    text.write_text("a picture is worth a thousand words")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        Portrait.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Portrait.open(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="is an empty file"):
        Portrait.open(empty)
    with pytest.raises(ValueError, match="is not a picture"):
        Portrait.open(text)
    Image.fromarray(picture()[:8]).save(tmp_path / "tiny.png")
    with pytest.raises(ValueError, match="64 x 8"):
        Portrait.open(tmp_path / "tiny.png")
    with pytest.raises(ValueError, match="not float64"):
        Portrait(image=picture() / 255)


@pytest.mark.parametrize("side", [7200, 12000, 15000])
def test_a_picture_too_large_is_refused_with_its_size(tmp_path: Path, side: int) -> None:
    # One bit per pixel, so that the file is small; the largest also crosses Pillow's own limit.
    Image.new("1", (side, side)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=rf"{side * side / 1e6:.0f} megapixels, and at most {MAX_MEGAPIXELS}"):
        Portrait.open(tmp_path / "large.png")
