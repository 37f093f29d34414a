"""What lips do, learned from speech alone, before a video network learns to draw them.

In a loss on latents speech is a small thing: most of the error is who is seen, how the light falls, where the head turns. Ears
that begin at random learn from it slowly. Lips were tracked, so the levels of speech can be told directly what matters in it,
without a picture and in a minute; then injections find it in what they are given.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vivavoce.nets.levels import SpeechLevels
from vivavoce.train.data import Progress
from vivavoce.train.loop import Schedule
from vivavoce.train.video_windows import Windows

MOUTH = 2  # numbers of it: opening, width
_TYPICAL = torch.tensor([0.04, 0.03])  # face heights: how far they move
_BATCH = 32
_RATE = 2e-3
_WARMUP = 50
_LAST = 0.1  # share of the steps that the figures are of


def teach_ears(levels: SpeechLevels, windows: Windows, steps: int, progress: Progress) -> Float[Tensor, " 2"]:
    """Train ``levels`` for so many steps: opening and width of each picture's lips, about their window's mean, are to be linear
    in the mean of that picture's levels, with which every selector begins. The correlations of both at the end, on what it
    learned from. On the levels' device.

    ValueError where nobody talks."""
    device = levels.absent.device
    readout = nn.Linear(levels.config.width, MOUTH).to(device)
    learned = [*levels.parameters(), *readout.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = Schedule(steps=steps, learning_rate=_RATE, warmup=min(_WARMUP, steps))
    sums = torch.zeros(3, MOUTH, device=device)
    for step in range(steps):
        progress("teaching the ears", step, steps)
        torch.manual_seed(windows.seed + step)  # of dropout
        speech, mouth = (part.to(device) for part in windows.spoken(step, range(_BATCH)))
        told = ~mouth.isnan()
        wanted = _about_mean(mouth, told) / _TYPICAL.to(device)
        made = _about_mean(readout(levels(speech, mouth.shape[1]).mean(0)), told)
        loss = (made - wanted).square().sum() / told.sum().clamp(min=1)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step >= steps - max(1, round(_LAST * steps)):
            a, b = made.detach(), wanted
            sums += torch.stack([(x * y).sum((0, 1)) for x, y in ((a, b), (a, a), (b, b))])
    progress("teaching the ears", steps, steps)
    return (sums[0] / (sums[1] * sums[2]).sqrt()).cpu()


def _about_mean(values: Float[Tensor, "b t c"], told: Bool[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
    """Differences from the means of windows over what is told, 0 elsewhere."""
    there = torch.where(told, values, 0.0)
    return torch.where(told, there - there.sum(1, keepdim=True) / told.sum(1, keepdim=True).clamp(min=1), 0.0)
