"""What is read of lips out of latents: it follows the mouth, and knows an opening when it sees one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vivavoce.flow.loss import flow_matching_loss
from vivavoce.train.lip_readout import LipReadout, mouths, over_mouth
from vivavoce.train.video_data import VideoExample

SIDE, CHANNELS, LATENTS = 16, 3, 60


def lips_at(row: float, column: float, frames: int = 1) -> Tensor:
    """A mouth three cells wide and two high."""
    lips = torch.zeros(1, frames, SIDE, SIDE)
    lips[:, :, int(row) - 1 : int(row) + 1, int(column) - 1 : int(column) + 2] = 1.0
    return lips


def clip(folder: Path, number: int, *, tracked: bool = True) -> VideoExample:
    """A mouth somewhere, which brightens one channel when it opens and darkens another when it widens, in much else."""
    generator = torch.Generator().manual_seed(number)
    row, column = (int(torch.randint(5, 11, (1,), generator=generator)) for _ in range(2))
    lips = lips_at(row, column, LATENTS)[0]
    mouth = torch.rand(1 + 4 * (LATENTS - 1), 2, generator=generator)
    own = torch.cat([mouth[:1].expand(4, 2), mouth[1:]]).unflatten(0, (-1, 4))
    noise, level = (torch.randn(*shape, generator=generator) for shape in ((LATENTS, CHANNELS, SIDE, SIDE), (CHANNELS, 1, 1)))
    latents = 0.3 * noise + level
    latents[:, 0] += own[..., 0].mean(1)[:, None, None] * 4 * lips
    latents[:, 1] -= own[..., 1].mean(1)[:, None, None] * 4 * lips
    if not tracked:
        mouth, lips = torch.full_like(mouth, torch.nan), torch.zeros_like(lips)
    file = folder / f"{number}.safetensors"
    save_file({"latents": latents, "lips": lips, "mouth": mouth}, file, {"clip": json.dumps({})})
    return VideoExample(file=file, name=str(number), person=str(number), first=0, latents=LATENTS, talks=True, framing=1.3)


def test_what_lips_do_is_read_from_others_latents(tmp_path: Path) -> None:
    readout = LipReadout.fitted([clip(tmp_path, i, tracked=i != 3) for i in range(6)])
    other = clip(tmp_path, 99)
    span = slice(1, LATENTS)
    read = readout(other.window("latents", span)[None], other.window("lips", span)[None])[0]
    truth = mouths(other, span)
    for curve in range(2):
        seen, done = (values.unflatten(1, (4, 2))[..., curve].mean(1) for values in (read, truth))
        assert torch.corrcoef(torch.stack([seen, done]))[0, 1] > 0.95
    assert (read - read.mean(0)).std(0, correction=0).mean() == pytest.approx(1, abs=0.25)


def test_it_goes_with_the_mouth_and_not_with_its_opening() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 1, CHANNELS, SIDE, SIDE, generator=generator)
    here = over_mouth(values, lips_at(7, 6))
    moved = over_mouth(values.roll((2, 3), (3, 4)), lips_at(9, 9))
    torch.testing.assert_close(here, moved)
    assert not torch.allclose(here, over_mouth(values, lips_at(9, 9)))
    taller = lips_at(7, 6)
    taller[:, :, 5:9] = taller[:, :, 6:7]
    torch.testing.assert_close(over_mouth(values, taller), here)
    near = (slice(2, 12), slice(1, 11))
    torch.testing.assert_close(over_mouth(values[..., *near], lips_at(7, 6)[..., *near]), here)
    assert not over_mouth(values, torch.zeros(1, 1, SIDE, SIDE)).any()


def test_too_few_lips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lips were tracked in 0 latents, at least 16 are needed"):
        LipReadout.fitted([clip(tmp_path, 0, tracked=False)])


def test_read_outs_join_the_loss_where_latents_count() -> None:
    """Mean of their squares beside that of the errors; frames that do not count have no gradient from either."""
    generator = torch.Generator().manual_seed(0)
    data, noise, off = (torch.randn(2, 3, 4, generator=generator) for _ in range(3))
    mask, time = torch.tensor([[True, True, False]] * 2), torch.rand(2, 3, generator=generator)
    off.requires_grad_(True)
    given = {"noise": noise, "time": time, "mask": mask}
    plain = flow_matching_loss(lambda x, t, c: data - noise + off, data, None, **given)
    both = flow_matching_loss(lambda x, t, c: data - noise + off, data, None, readout=lambda e: 3 * e[..., :2], **given)
    torch.testing.assert_close(both - plain, (9 * off[:, :2, :2].square()).mean(-1).mean(1))
    both.sum().backward()
    assert off.grad is not None and not off.grad[:, 2].any() and bool(off.grad[:, :2].all())
