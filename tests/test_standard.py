"""The standard networks: files in the layout of the real ones, outputs of the published programs, and what a figure must do.

No real weights are here. Layouts and outputs were recorded from torchvision, pytorch-fid, lpips, python_speech_features,
syncnet_python, cd-fvd (a copy of pytorch-i3d) and InsightFace's iresnet, all with the numbers that `numbers` makes up.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import medfilt
from skimage.transform import SimilarityTransform
from torch import Tensor, nn

from vivavoce.judge.standard import FileFrames, Sample, Sight, Standard, absent, pair_figures, sample, set_figures
from vivavoce.judge.standard.arcface import ArcFace, csim, identities
from vivavoce.judge.standard.crops import aligned_face, similarity, sync_crops
from vivavoce.judge.standard.i3d import I3D, clip_features, fvd, load_i3d
from vivavoce.judge.standard.inception import Inception, fid, picture_features
from vivavoce.judge.standard.lpips import FILES, Lpips, lpips
from vivavoce.judge.standard.mfcc import mfcc
from vivavoce.judge.standard.syncnet import SyncNet, embed_pictures, lse, scores
from vivavoce.judge.standard.weights import read_weights
from vivavoce.media.video import VideoWriter

RATE = 16000
PER_FRAME = RATE // 25
DEPTHS = (1, 2, 1, 1)  # of an ArcFace that is quickly made
COUNTER = "num_batches_tracked"

# How many tensors the real file has besides counters, and a digest of their names and shapes.
LAYOUTS: dict[str, tuple[int, str]] = {
    "sync": (88, "d120c17fa0ef811c"),
    "inception": (472, "d84f693f2abd7fea"),
    "i3d": (287, "a8c1201808a09152"),
    "iresnet50": (396, "d474e5d1748598cc"),
    "iresnet100": (771, "b066aa02880ac7d7"),
    "alex.pth": (5, "b9296a4f33689148"),
    "alexnet-owt-7be5be79.pth": (10, "b1e207d270dfe02f"),
    "vgg.pth": (5, "31f9207cd63ed72f"),
    "vgg16-397923af.pth": (26, "4c3222feef6e051f"),
}
# What `told` says of the published program's answer to `inputs`; of coefficients, those of one frame.
OUTPUTS: dict[str, list[float]] = {
    "sync_pictures": [1.948739, 51.96024, -17.83916, 4.429085],
    "sync_sound": [0.1876839, 1.614092, -1.492201, 2.198484],
    "inception": [0.07454567, 0.1104381, 0.0, 0.01187468],
    "i3d_other": [0.009811864, 0.221813, 0.03018336, -0.4504421],
    "i3d": [0.00978532, 0.2215709, 0.03018761, -0.4498717],
    "arcface": [-0.0126684, 0.9783455, -1.104554, 0.9349384],
    "alex": [0.2332999, 0.0, 0.2332999, 0.2332999],
    "vgg": [0.189063, 0.0, 0.189063, 0.189063],
    "mfcc": [
        22.91038, -38.03787, -14.2678, -19.04451, -11.01786, -9.055233, 0.4491052, -3.945409, -11.29251, -12.0868,
        -9.5544, -6.626465, -9.755885,
    ],
}  # fmt: skip


def numbers(name: str, *shape: int) -> np.ndarray:
    """Numbers from -1 to 1 that depend on the name alone (the finaliser of MurmurHash3), and repeat after 65521 of them."""
    x = np.arange(min(math.prod(shape), 65521), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 24)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> np.uint64(33))) * np.uint64(factor)
    x ^= x >> np.uint64(33)
    return np.resize((x >> np.uint64(11)).astype(np.float64) / 2**52 - 1, shape)


def made_up(layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of these names and shapes with which every layer keeps about the size of its input; counters left out."""
    found = {}
    for name, like in layout.items():
        shape = tuple(like.shape)
        if name.endswith(COUNTER):
            continue
        values = numbers(name, *shape)
        if name.endswith("running_var"):
            values = 1.2 + values
        elif len(shape) > 1:
            values = values * math.sqrt(6 / math.prod(shape[1:]))
        elif name.endswith("weight"):
            values = 0.6 + 0.4 * values
        else:
            values = 0.2 * values
        if name.startswith("lin"):  # of LPIPS: none is negative
            values = np.abs(values)
        found[name] = torch.from_numpy(values.astype(np.float32))
    return found


def digest(layout: Mapping[str, Tensor]) -> tuple[int, str]:
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in layout.items() if not name.endswith(COUNTER))
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def pictures(name: str, *shape: int) -> np.ndarray:
    return ((numbers(name, *shape) + 1) * 127.9).astype(np.uint8)


def inputs() -> dict[str, Tensor]:
    """What each published program was given to record OUTPUTS."""
    return {
        "sync_pictures": torch.from_numpy(pictures("crops", 5, 224, 224, 3)).permute(0, 3, 1, 2).float(),
        "sync_sound": torch.from_numpy(8 * numbers("coefficients", 1, 13, 20).astype(np.float32)),
        "inception": torch.from_numpy(numbers("picture", 1, 3, 299, 299).astype(np.float32)),
        "i3d": torch.from_numpy(numbers("clip", 1, 3, 16, 224, 224).astype(np.float32)),
        "i3d_other": torch.from_numpy(numbers("clip", 1, 3, 16, 224, 224).astype(np.float32)),
        "arcface": torch.from_numpy(numbers("face", 1, 3, 112, 112).astype(np.float32)),
        "lpips": torch.from_numpy(numbers("two", 2, 3, 64, 80).astype(np.float32)),
    }


def told(answer: Tensor) -> list[float]:
    """Mean, spread, first and last number."""
    values = answer.double().flatten()
    return [float(v) for v in (values.mean(), values.std(unbiased=False), values[0], values[-1])]


def empty(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(make().state_dict())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the names, shapes and kinds of archive of the real files, with what those carry beyond the network."""
    folder = tmp_path_factory.mktemp("weights")
    old = {"_use_new_zipfile_serialization": False}  # as files from before PyTorch 1.6
    torch.save(made_up(empty(SyncNet)), folder / "syncnet_v2.model", **old)
    counted = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    torch.save({**made_up(empty(Inception)), **counted}, folder / "pt_inception-2015-12-05-6726825d.pth", **old)
    torch.save(made_up(empty(I3D)), folder / "rgb_imagenet.pt", **old)
    (folder / "i3d_pretrained_400.pt").symlink_to(folder / "rgb_imagenet.pt")
    torch.save(made_up(empty(lambda: ArcFace(DEPTHS))), folder / "backbone.pth")
    for kind, beyond in (("alex", "classifier.1.weight"), ("vgg", "classifier.0.weight")):
        network = Lpips.empty(kind)
        (folder / kind).mkdir()
        own, theirs = (folder / kind / name for name in FILES[kind])
        torch.save(made_up(network.weighing.state_dict()), own, **old)
        torch.save({**made_up(network.backbone.state_dict()), beyond: torch.ones(3, 3)}, theirs, **old)
    return folder


@cache
def loaded(folder: Path, name: str) -> Any:
    kinds: dict[str, Callable[[Path], Any]] = {
        "syncnet_v2.model": SyncNet.load, "pt_inception-2015-12-05-6726825d.pth": Inception.load, "rgb_imagenet.pt": load_i3d,
        "i3d_pretrained_400.pt": load_i3d, "backbone.pth": ArcFace.load, "alex": Lpips.load, "vgg": Lpips.load,
    }  # fmt: skip
    return kinds[name](folder / name)


@cache
def astronaut() -> tuple[np.ndarray, np.ndarray]:
    """A picture of 256 px, and where its face is as landmarks: a grid in the face's box with the five points in place."""
    image = np.ascontiguousarray(cv2.resize(skimage.data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA))
    points = np.zeros((478, 3))
    points[:, 0], points[:, 1] = 112 + 25 * numbers("x", 478), 57 + 30 * numbers("y", 478)
    five = {(33, 133): (103, 49), (362, 263): (123, 49), (1, 1): (114, 60), (61, 61): (106, 70), (291, 291): (122, 70)}
    for corners, place in five.items():
        points[list(corners), :2] = place
    return image, points


# Files


def test_layouts_are_those_of_the_real_files() -> None:
    kinds = {
        "sync": empty(SyncNet), "inception": empty(Inception), "i3d": empty(I3D),
        "iresnet50": empty(lambda: ArcFace((3, 4, 14, 3))), "iresnet100": empty(lambda: ArcFace((3, 13, 30, 3))),
    }  # fmt: skip
    for kind, (own, theirs) in FILES.items():
        kinds[own], kinds[theirs] = Lpips.empty(kind).weighing.state_dict(), Lpips.empty(kind).backbone.state_dict()
    assert {name: digest(layout) for name, layout in kinds.items()} == LAYOUTS


def answers(folder: Path) -> Iterator[tuple[str, Tensor]]:
    given_to = inputs()
    sync = loaded(folder, "syncnet_v2.model")
    yield "sync_pictures", sync.see(given_to["sync_pictures"])
    yield "sync_sound", sync.hear(given_to["sync_sound"])
    yield "inception", loaded(folder, "pt_inception-2015-12-05-6726825d.pth")(given_to["inception"])
    yield "i3d", loaded(folder, "rgb_imagenet.pt")(given_to["i3d"])
    yield "i3d_other", loaded(folder, "i3d_pretrained_400.pt")(given_to["i3d_other"])
    yield "arcface", loaded(folder, "backbone.pth")(given_to["arcface"])
    for kind in ("alex", "vgg"):
        yield kind, loaded(folder, kind)(given_to["lpips"][:1], given_to["lpips"][1:])


def test_networks_answer_as_the_published_programs_do(files: Path) -> None:
    for name, found in answers(files):
        np.testing.assert_allclose(told(found), OUTPUTS[name], rtol=1e-3, atol=1e-5, err_msg=name)


def small(path: Path, contents: object) -> Path:
    torch.save(contents, path)
    return path


class Mischief:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_what_is_no_state_dict_is_said_in_one_sentence(tmp_path: Path) -> None:
    whole = small(tmp_path / "whole.pth", {"a": torch.ones(400)}).read_bytes()
    broken = {"page.pth": b"<!DOCTYPE html>quota", "cut.pth": whole[:-60], "none.pth": b"", "noise.pth": bytes(range(256))}
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} is damaged or no file of weights.*: expected X; download it again"):
            read_weights(tmp_path / name, "X")
    tensor = torch.ones(2)
    for contents, kind in (([1], "list"), ({"state_dict": {"a": tensor}}, "dict"), (tensor, "Tensor"), ({"a": 1.0}, "float")):
        with pytest.raises(ValueError, match=f"holds {kind} instead of named tensors: expected a state dict, X"):
            read_weights(small(tmp_path / "kind.pth", contents), "X")
    with pytest.raises(ValueError, match="a has numbers that are not finite; download X again"):
        read_weights(small(tmp_path / "nan.pth", {"a": torch.tensor([1.0, math.nan])}), "X")
    with pytest.raises(ValueError, match="is a folder: give the file X"):
        read_weights(tmp_path, "X")
    with pytest.raises(ValueError, match=r"there is no file .*gone.pth: give X"):
        read_weights(tmp_path / "gone.pth", "X")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    torch.save({"a": Mischief(marker)}, tmp_path / "mischief.pth")
    (tmp_path / "mischief.pkl").write_bytes(pickle.dumps({"a": Mischief(marker)}))
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    for name in ("mischief.pth", "whole.pth"):
        with pytest.raises(ValueError, match=f"{name} holds more than weights and is not opened"):
            read_weights(tmp_path / name, "X")
    with pytest.raises(ValueError, match="expected X"):
        read_weights(tmp_path / "mischief.pkl", "X")
    assert not marker.exists()


def test_weights_of_another_network_are_refused(files: Path, tmp_path: Path) -> None:
    loaders: tuple[tuple[Callable[[Path], Any], str], ...] = (
        (SyncNet.load, "syncnet_v2.model"), (Inception.load, "pt_inception"), (load_i3d, "rgb_imagenet.pt"),
        (ArcFace.load, "InsightFace"),
    )  # fmt: skip
    alex = files / "alex" / "alexnet-owt-7be5be79.pth"
    for load, expected in loaders:
        with pytest.raises(ValueError, match=rf"of another network: \d+ of \d+ tensors are missing \(.* first\).*; .*{expected}"):
            load(alex)
    weights = read_weights(files / "backbone.pth", "X")
    weights["fc.weight"] = weights["fc.weight"][:256]
    with pytest.raises(ValueError, match=r"another size: fc.weight is \(256, 25088\) where \(512, 25088\) is expected"):
        ArcFace.load(small(tmp_path / "half.pth", weights))
    with pytest.raises(ValueError, match="does not name LPIPS: give a folder"):
        Lpips.load(tmp_path)
    (tmp_path / "vgg.pth").write_bytes((files / "vgg" / "vgg.pth").read_bytes())
    with pytest.raises(ValueError, match=r"there is no file .*vgg16-397923af.pth: give vgg16-397923af.pth of torchvision"):
        Lpips.load(tmp_path)


class Program(nn.Module):
    """As i3d_torchscript.pt is called; its numbers are the clip's colours."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if rescale or resize or not return_features:
            return x
        return x.mean(dim=[2, 3, 4]).repeat(1, 134)[:, :400]


class Other(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_torchscript_is_called_as_the_published_program_is(tmp_path: Path) -> None:
    torch.jit.script(Program()).save(str(tmp_path / "i3d_torchscript.pt"))
    frames = np.concatenate([np.full((16, 40, 60, 3), (255, 0, 51), np.uint8), np.full((20, 40, 60, 3), 255, np.uint8)])
    found = clip_features(load_i3d(tmp_path / "i3d_torchscript.pt"), frames)
    np.testing.assert_allclose(found[:, :3], [[1, -1, -0.6], [1, 1, 1]], atol=1e-5)
    torch.jit.script(Other()).save(str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="another TorchScript program: it takes x where rescale, resize and return_features"):
        load_i3d(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is a TorchScript program: expected a state dict"):
        SyncNet.load(tmp_path / "other.pt")


# SyncNet


def test_coefficients_are_those_of_python_speech_features() -> None:
    sound = np.round(8000 * numbers("sound", 1000))
    found = mfcc(sound)
    assert found.shape == (5, 13)
    np.testing.assert_allclose(found[2], OUTPUTS["mfcc"], rtol=1e-5)
    # Louder sound moves the first coefficient alone, by the logarithm of its energy.
    np.testing.assert_allclose(mfcc(3 * sound) - found, np.log(9) * (np.arange(13) == 0) * np.ones((5, 1)), atol=1e-9)
    assert np.isfinite(mfcc(np.zeros(300))).all()


@given(late=st.integers(-15, 15), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_offset_is_where_embeddings_agree(late: int, seed: int) -> None:
    whole = np.random.default_rng(seed).normal(size=(120, 16))
    seen, heard = whole[20:100], whole[20 + late : 100 + late]  # the picture of a moment comes ``late`` frames after its sound
    confidence, distance, offset = scores(seen, heard)
    assert offset == late
    assert confidence > 1
    assert distance < 0.2 * np.linalg.norm(seen, axis=1).mean() + np.abs(late)  # but for the ends, where nothing is heard
    assert scores(np.zeros((80, 4)), np.zeros((80, 4)))[:2] == (0, 0)


def test_windows_do_not_depend_on_how_many_are_seen_at_once(files: Path) -> None:
    network = loaded(files, "syncnet_v2.model")
    crops = pictures("more crops", 26, 224, 224, 3)
    found = embed_pictures(network, iter(crops), 22)  # 20 and 2
    assert found.shape == (22, 1024)
    for k in (0, 19, 20, 21):
        alone = network.see(torch.from_numpy(crops[k : k + 5, :, :, ::-1].copy()).permute(0, 3, 1, 2).float())
        np.testing.assert_allclose(found[k], alone[0].numpy(), rtol=1e-3, atol=1e-2)


class Bright(SyncNet):
    """Sees how bright the five frames of a window are, and hears how loud their sound is."""

    def see(self, frames: Tensor) -> Tensor:
        return frames.mean((1, 2, 3)).unfold(0, 5, 1) / 10 - 10

    def hear(self, windows: Tensor) -> Tensor:
        return windows[:, 0].unfold(1, 4, 4).mean(2) - 10


@pytest.mark.parametrize("late", [-4, 0, 7])
def test_pictures_that_come_late_have_that_offset(late: int) -> None:
    noise = np.repeat(np.exp(2 * numbers("loudness", 120)) / 2**15, PER_FRAME) * numbers("noise", 120 * PER_FRAME)
    heard = np.array([mfcc(noise[k * PER_FRAME : (k + 1) * PER_FRAME] * 2**15)[:, 0].mean() for k in range(120)])
    frames = [np.full((80, 80, 3), np.clip(10 * value, 0, 255), np.uint8) for value in np.roll(heard, late)]
    points = np.tile(np.stack([40 + 20 * numbers("x", 478), 40 + 20 * numbers("y", 478), np.zeros(478)], 1), (120, 1, 1))
    points[30:40] = np.nan
    with torch.device("meta"):
        network = Bright()
    assert lse(network, frames, points, noise)[2] == late
    nothing = (np.full_like(points, np.nan), points[:35])
    for unseen in nothing:
        assert np.isnan(lse(network, frames, unseen, noise)).all()


def test_crops_are_cut_as_the_pipeline_cuts_them() -> None:
    frames = pictures("frames", 16, 90, 120, 3)
    box = np.stack([np.linspace(20, 90, 16), np.linspace(60, 20, 16)], 1)  # from the left to the edge on the right, and up
    points = np.full((16, 478, 3), np.nan)
    points[:, :468, :2] = box[:, None] + 18 * np.stack([numbers("x", 468), 1.3 * numbers("y", 468)], 1)
    low, high = points[:, :468, :2].min(1), points[:, :468, :2].max(1)
    half = medfilt((high - low).max(1) / 2, 13)
    x, y = (medfilt(v, 13) for v in ((low + high) / 2).T)
    points[:, 468:] = 0  # irises do not matter
    for k, crop in enumerate(sync_crops(frames, points)):
        pad = int(half[k] * 1.8)
        padded = np.pad(frames[k], ((pad, pad), (pad, pad), (0, 0)), constant_values=110)
        top, left = y[k] + pad - half[k], x[k] + pad - 1.4 * half[k]
        piece = padded[int(top) : int(y[k] + pad + 1.8 * half[k]), int(left) : int(x[k] + pad + 1.4 * half[k])]
        np.testing.assert_array_equal(crop, cv2.resize(piece, (224, 224)))


# Faces


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_similarities_are_the_least_squares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = rng.normal(50, 20, (2, 5, 2))
    theirs = SimilarityTransform.from_estimate(source, target)
    ours = similarity(source, target)
    apart = [np.square(source @ m[:, :2].T + m[:, 2] - target).sum() for m in (ours, np.asarray(theirs)[:2])]
    # scikit-image's is least squares too, but for sets that a reflection fits better.
    assert apart[0] <= apart[1] + 1e-6


def test_a_turned_and_scaled_face_is_the_same_face(files: Path) -> None:
    image, points = astronaut()
    turn = cv2.getRotationMatrix2D((112, 60), 20, 1.3)
    turned = cv2.warpAffine(image, turn, (256, 256), flags=cv2.INTER_CUBIC)
    moved = points.copy()
    moved[:, :2] = points[:, :2] @ turn[:, :2].T + turn[:, 2]
    first, second = aligned_face(image, points).astype(float), aligned_face(turned, moved).astype(float)
    assert np.abs(first - second)[20:90, 20:90].mean() < 0.1 * first[20:90, 20:90].std()
    network = loaded(files, "backbone.pth")
    same = csim(network, (image, points), [turned], moved[None])
    other = csim(network, (image, points), [np.ascontiguousarray(image[::-1])], points[None])
    assert csim(network, (image, points), [image] * 6, np.stack([points] * 6)) == pytest.approx(1, abs=1e-5)
    assert other < same < 1


def test_frames_without_a_face_are_left_out(files: Path) -> None:
    network, (image, points) = loaded(files, "backbone.pth"), astronaut()
    missing = np.full_like(points, np.nan)
    dark = np.zeros_like(image)
    assert csim(network, (image, points), [image, dark], np.stack([points, missing]), every=1) == pytest.approx(1, abs=1e-5)
    assert math.isnan(csim(network, (image, points), [image], missing[None]))
    assert math.isnan(csim(network, (image, missing), [image], points[None]))
    faces = pictures("faces", 9, 112, 112, 3)
    found = identities(network, faces)  # 8 and 1
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[8], identities(network, faces[8:])[0], atol=1e-4)


# Pictures and sets


def test_frechet_distances_of_sets() -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=(3000, 40)).astype(np.float32)
    for distance in (fid, fvd):
        few = many[:30]  # fewer than dimensions
        assert distance(few, few) == pytest.approx(0, abs=1e-4)
        assert distance(few, few + np.float32(0.5)) == pytest.approx(40 * 0.25, rel=1e-4)
        # Normal distributions around one mean whose spreads are 1 and 2: (2 - 1)^2 in each dimension.
        assert distance(many[:1500], 2 * many[1500:]) == pytest.approx(40, rel=0.1)
        assert distance(few, 2 * few) == pytest.approx(distance(2 * few, few), rel=1e-4)
        assert math.isnan(distance(few[:1], few))


def test_features_are_of_every_fifth_frame_and_of_every_sixteen(files: Path) -> None:
    inception = loaded(files, "pt_inception-2015-12-05-6726825d.pth")
    frames = pictures("video", 46, 48, 64, 3)
    found = picture_features(inception, iter(frames))  # 8 and 2
    assert found.shape == (10, 2048)
    np.testing.assert_allclose(found[9], picture_features(inception, frames[45:])[0], rtol=1e-3, atol=1e-4)
    assert picture_features(inception, []).shape == (0, 2048)
    clips = clip_features(lambda clips: clips.mean((3, 4)).flatten(1), iter(frames))  # the colours of 16 frames each
    assert clips.shape == (2, 48)
    colours = np.stack([cv2.resize(frame.astype(np.float32), (224, 224)).mean((0, 1)) for frame in frames[16:32]], 1)
    np.testing.assert_allclose(clips[1], colours.flatten() / 127.5 - 1, atol=1e-5)
    assert clip_features(load_i3d(files / "rgb_imagenet.pt"), frames[:15]).shape == (0, 400)


def test_lpips_is_a_distance_that_grows_with_damage(files: Path) -> None:
    network, image = loaded(files, "alex"), astronaut()[0]
    blurred = [cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (1, 2, 4)]
    assert lpips(network, [image], [image]) == 0
    found = [lpips(network, [image], [other]) for other in blurred]
    assert 0 < found[0] < found[1] < found[2]
    assert lpips(network, [blurred[2]], [image]) == pytest.approx(found[2], rel=1e-5)
    # Every fifth frame counts, and what one video has more of does not.
    assert lpips(network, [image] * 6, [image, *[blurred[2]] * 4, blurred[0], image]) == pytest.approx(found[0] / 2, rel=1e-5)
    assert math.isnan(lpips(network, [], [image]))
    with pytest.raises(ValueError, match="of one size, and these are 256x256 and 128x256: scale one of them"):
        lpips(network, [image], [image[:, :128]])


# All together


def test_what_is_absent_is_said() -> None:
    said = absent(Standard())
    assert [sentence.split(":")[0] for sentence in said] == ["LSE-C and LSE-D", "FID", "FVD", "CSIM", "LPIPS"]
    assert said[0] == "LSE-C and LSE-D: not computed, give --syncnet PATH to syncnet_v2.model of joonson/syncnet_python"
    assert all("not computed, give --" in sentence for sentence in said)


def test_identical_videos_have_the_best_figures(files: Path) -> None:
    standard = Standard(
        syncnet=loaded(files, "syncnet_v2.model"), inception=loaded(files, "pt_inception-2015-12-05-6726825d.pth"),
        i3d=loaded(files, "rgb_imagenet.pt"), arcface=loaded(files, "backbone.pth"), lpips=loaded(files, "alex"),
    )  # fmt: skip
    assert absent(standard) == []
    image, points = astronaut()
    frames = np.stack([np.roll(image, k, 1) for k in range(36)])
    track = np.stack([points + (k, 0, 0) for k in range(36)])
    sight = Sight(frames=frames, points=track, samples=0.1 * numbers("voice", 36 * PER_FRAME))
    found = pair_figures(standard, sight, real=sight, portrait=(image, points))
    assert set(found) == {"lse_c", "lse_d", "sync_offset", "csim", "lpips"}
    assert found["lpips"] == 0
    assert found["csim"] > 0.99
    assert found["lse_c"] >= 0
    assert found["lse_d"] > 0
    part = sample(standard, frames)
    together = set_figures([part, part], [part, part])
    assert together["fid"] == pytest.approx(0, abs=1e-4)
    assert together["fvd"] == pytest.approx(0, abs=1e-4)


def test_figures_need_networks_and_material(files: Path) -> None:
    image, points = astronaut()
    silent = Sight(frames=[image], points=points[None])
    assert pair_figures(Standard(), silent, real=silent, portrait=(image, points)) == {}
    only = Standard.load(arcface=files / "backbone.pth", syncnet=str(files / "syncnet_v2.model"))
    assert pair_figures(only, silent) == {}
    assert set(pair_figures(only, silent, portrait=(image, points))) == {"csim"}
    assert [sentence.split(":")[0] for sentence in absent(only)] == ["FID", "FVD", "LPIPS"]
    part = sample(Standard(), [image])
    assert part.pictures is None
    assert part.clips is None
    assert set_figures([part], [part]) == {}
    some = Sample(clips=numbers("clips", 3, 400).astype(np.float32))
    assert set(set_figures([some], [some])) == {"fvd"}
    assert set_figures([some, part], [some, some]) == {}
    assert set_figures([], []) == {}


def test_frames_of_a_file_can_be_gone_through_twice(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "grey.mp4", fps=50, size=(64, 64)) as writer:
        for level in range(0, 200, 10):
            writer.write(np.full((64, 64, 3), level, np.uint8))
    frames = FileFrames(path=tmp_path / "grey.mp4")
    first, second = ([int(image.mean()) for image in frames] for _ in range(2))
    assert first == second
    np.testing.assert_allclose(first, range(0, 200, 20), atol=3)
