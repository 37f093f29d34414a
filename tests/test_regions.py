"""Region masks: areas in closed form, fallbacks, and what each weighting promises."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch

from vivavoce.latent.regions import (
    LIPS_MARGIN,
    Regions,
    RegionWeights,
    around,
    find_regions,
    lip_traced,
    per_latent,
    speaker_masks,
)
from vivavoce.latent.topology import LANDMARKS, OUTER_LIPS, OVAL
from vivavoce.latent.tracker import find_faces

SIZE = (512, 512)
GRID = (32, 32)


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return find_faces(skimage.data.astronaut())[0]


def ellipse(centre: tuple[float, float], radius: float) -> np.ndarray:
    """Landmarks whose outline is a circle and whose lips are a circle of a quarter of its radius, both exactly known."""
    points = np.zeros((LANDMARKS, 3), np.float32)
    points[:, :2] = centre
    for ring, r in ((list(OVAL), radius), ([*OUTER_LIPS[0], *OUTER_LIPS[1][-2:0:-1]], radius / 4)):
        angle = 2 * np.pi * np.arange(len(ring)) / len(ring)
        points[ring, :2] = np.array(centre) + r * np.stack([-np.cos(angle), -np.sin(angle)], 1)
    return points


def area(ring: int, radius: float) -> float:
    """Of a regular polygon of so many corners."""
    return 0.5 * ring * radius**2 * np.sin(2 * np.pi / ring)


@pytest.mark.parametrize(("size", "grid"), [((512, 512), (32, 32)), ((480, 832), (104, 60)), ((1280, 704), (44, 80))])
def test_areas_are_those_of_the_outlines(size: tuple[int, int], grid: tuple[int, int]) -> None:
    radius = 0.3 * min(size)
    regions = find_regions(ellipse((0.45 * size[0], 0.5 * size[1]), radius)[None], size, grid, lips_margin=0.0)
    cell = size[0] * size[1] / (grid[0] * grid[1])
    assert float((regions.lips + regions.face).sum()) * cell == pytest.approx(area(len(OVAL), radius), rel=0.01)
    assert float(regions.lips.sum()) * cell == pytest.approx(area(20, radius / 4), rel=0.04)


def test_a_mask_lies_where_the_face_is(face: np.ndarray) -> None:
    """The centre of mass of the lips' mask is the lips' middle, in the picture's own coordinates."""
    lips = find_regions(face[None], SIZE, GRID).lips[0].numpy()
    middle = (np.arange(32) + 0.5) * SIZE[0] / 32
    found = np.array([(lips.sum(0) * middle).sum(), (lips.sum(1) * middle).sum()]) / lips.sum()
    ring = face[[*OUTER_LIPS[0], *OUTER_LIPS[1]], :2]
    assert np.abs(found - (ring.min(0) + ring.max(0)) / 2).max() < 3  # px; a cell is 16 px


def test_margins_only_add(face: np.ndarray) -> None:
    tight, wide = (find_regions(face[None], SIZE, GRID, lips_margin=m).lips for m in (0.0, LIPS_MARGIN))
    assert bool((wide >= tight).all()) and float(wide.sum()) > 1.1 * float(tight.sum())


def test_a_face_beyond_the_border_is_cut_there() -> None:
    half = find_regions(ellipse((0.0, 256.0), 100.0)[None], SIZE, GRID, lips_margin=0.0)
    assert float((half.lips + half.face).sum()) * 256 == pytest.approx(area(len(OVAL), 100) / 2, rel=0.02)
    away = find_regions(ellipse((-300.0, 256.0), 100.0)[None], SIZE, GRID)
    assert float((away.lips + away.face).sum()) == 0
    assert torch.equal(RegionWeights()(away), torch.ones(1, 32, 32))


def test_weights_have_mean_one_and_the_regions_ratios() -> None:
    regions = find_regions(ellipse((256.0, 256.0), 200.0)[None], SIZE, GRID)
    weights = RegionWeights()(regions)
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-6)
    lips, cheek, corner = weights[0, 16, 16], weights[0, 16, 8], weights[0, 0, 0]
    assert float(lips / corner) == pytest.approx(100) and float(cheek / corner) == pytest.approx(30)


def test_equal_weights_are_no_weights(face: np.ndarray) -> None:
    weights = RegionWeights(lips=7, face=7, rest=7)(find_regions(face[None], SIZE, GRID))
    torch.testing.assert_close(weights, torch.ones_like(weights))


def test_adaptive_weights_keep_a_small_face_s_share() -> None:
    """What a face counts against the rest of the picture, times its share of the picture, is the same for every size, up to the
    bound; without it, it shrinks with the face."""

    def gain(radius: float, weights: RegionWeights) -> tuple[float, float]:
        regions = find_regions(ellipse((256.0, 256.0), radius)[None], SIZE, (128, 128))
        weight, cheek = weights(regions)[0], int((256 - 0.6 * radius) // 4)
        share = float((regions.lips + regions.face).mean())
        return float(weight[64, cheek] / weight[0, 0]) / 30, share

    for radius in (220, 150, 100):
        assert gain(radius, RegionWeights())[0] == pytest.approx(1.0)
        factor, share = gain(radius, RegionWeights(adaptive=True))
        assert factor * share == pytest.approx(1.0, rel=1e-4)
    assert gain(30, RegionWeights(adaptive=True))[0] == pytest.approx(10.0)


def test_untracked_pictures_weigh_one(face: np.ndarray) -> None:
    lost = np.full_like(face, np.nan)
    pictures = find_regions(np.stack([lost, face, lost, lost, face, lost, lost, lost, lost]), SIZE, GRID)
    latents = pictures.per_latent(4)
    assert latents.known.tolist() == [False, True, False]
    weights = RegionWeights()(latents)
    assert torch.equal(weights[[0, 2]], torch.ones(2, 32, 32))
    torch.testing.assert_close(latents.lips[1], pictures.lips[1])  # the mean over its tracked pictures only, here equal ones
    assert not pictures.lips.isnan().any()


def test_latents_join_their_own_pictures() -> None:
    """A face that moves: the mean of weights is the weight of means, the maximum covers every picture's lips."""
    points = np.stack([ellipse((150.0 + 20 * i, 256.0), 120.0) for i in range(9)])
    pictures = find_regions(points, SIZE, GRID)
    mean, most = pictures.per_latent(4), pictures.per_latent(4, "max")
    torch.testing.assert_close(mean.lips[0], pictures.lips[0])
    torch.testing.assert_close(mean.lips[2], pictures.lips[5:].mean(0))
    assert bool((most.lips[1] >= pictures.lips[1:5]).all()) and bool((most.lips >= mean.lips).all())
    assert bool((most.lips + most.face <= 1 + 1e-6).all()) and bool((most.face >= 0).all())
    still = find_regions(np.repeat(points[:1], 9, 0), SIZE, GRID)
    torch.testing.assert_close(still.per_latent(4).lips, still.per_latent(4, "max").lips)
    with pytest.raises(ValueError, match="8 pictures make no whole latents: give 1 and a multiple of 4"):
        per_latent(pictures.lips[:8], pictures.known[:8], 4, "mean")


def test_the_lip_mask_is_used_with_probability_one_minus_eta() -> None:
    lips = torch.rand(1, 2, 4, 4).expand(1000, -1, -1, -1).clone()
    lips[:, 1] = 0  # not tracked
    draw = torch.linspace(0, 1, 1000)
    masked = lip_traced(lips, draw, eta=0.2)
    used = (masked[:, 0] == lips[:, 0]).all(-1).all(-1)
    assert float(used.float().mean()) == pytest.approx(0.8, abs=0.002)
    assert bool((masked[:, 0][~used] == 1).all()) and bool((masked[:, 1] == 1).all())


def test_about_lips_is_a_quarter_of_their_width_and_a_soft_edge() -> None:
    lips = torch.zeros(24, 32)
    lips[10:14, 12:20] = 0.3
    place = around(lips)
    assert place is not None
    columns, rows = place.amax(0), place.amax(1)
    assert (columns == 1).nonzero().flatten().tolist() == list(range(11, 21)), "a quarter of 8 each side, less the edge"
    assert (columns > 0).nonzero().flatten().tolist() == list(range(9, 23))
    assert (rows == 1).nonzero().flatten().tolist() == list(range(9, 15))
    assert 0 < place[9, 10] < 1
    assert around(torch.zeros(4, 4)) is None


def test_speakers_share_no_more_than_the_picture() -> None:
    left, right = ellipse((130.0, 256.0), 100.0), ellipse((380.0, 256.0), 100.0)
    apart = speaker_masks(np.stack([left, right])[:, None], SIZE, GRID)
    assert float((apart[0] * apart[1]).sum()) == 0
    assert float(apart[0].sum()) * 256 == pytest.approx(area(len(OVAL), 100), rel=0.02)
    close = speaker_masks(np.stack([left, ellipse((180.0, 256.0), 100.0)])[:, None], SIZE, GRID, outline="box", margin=0.1)
    assert float(close.sum(0).max()) == pytest.approx(1.0)
    assert float((close[0] * close[1]).max()) == pytest.approx(0.25)  # what both cover is halved
    lost = speaker_masks(np.stack([left, np.full_like(left, np.nan)])[:, None], SIZE, GRID)
    assert float(lost[1].sum()) == 0 and torch.equal(lost[0], apart[0])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="the weight of lips is -1: give 0 or more"):
        RegionWeights(lips=-1)
    with pytest.raises(ValueError, match="give mean or max"):
        Regions(lips=torch.zeros(1, 2, 2), face=torch.zeros(1, 2, 2), known=torch.ones(1, dtype=torch.bool)).per_latent(4, "sum")
