"""`vivavoce train renderer`: the refiner learns from recordings to mend what a warped portrait cannot show.

Nothing is downloaded for its losses: weighted L1 at several scales, gradients, the spectrum of the mouth, consistency over time
under the flow of the mesh, and a small discriminator of mouths that is trained beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.refine import CHANNELS, SIDE, Mixture, Refiner, corrected, normalised, restricted
from vivavoce.train.data import Progress, read_manifest, track_clips
from vivavoce.train.loop import Run, Schedule, check_claim, claim, digest, mixed_precision, stamp_of
from vivavoce.train.pairs import DISPLACEMENT_GRAIN, FLOW_GRAIN, PairConfig, Units, load_units, make_pairs

FILES = ("renderer.pt", "adversary.pt", "renderer.safetensors")  # what a run leaves in its folder
TOLD = "renderer-run.json"

Window = tuple[slice, slice]  # rows and columns
WHOLE: Window = slice(0, SIDE), slice(0, SIDE)
MOUTH: Window = slice(66, 138), slice(36, 108)  # of the crop: where mouths lie
_SMALL = 96  # px: side of the windows that most steps learn from


@dataclass(frozen=True, kw_only=True)
class RendererRecipe:
    """How the refiner is trained; for how the shipped one was, see its card.

    ``data``: folder with MANIFEST.csv; ``out``: tracks, pairs, checkpoints and log go there; a second call goes on where the
    first one stopped. ``batch``: units, of two frames each.
    """

    data: Path
    out: Path
    steps: int = 20000
    batch: int = 8
    learning_rate: float = 5e-4
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    gradient_weight: float = 1.0
    spectrum_weight: float = 0.1
    time_weight: float = 0.5
    harm_weight: float = 20.0
    adversary_weight: float = 0.06
    feature_weight: float = 1.0
    adversary_from: int = 2000
    small: float = 0.85  # share of the steps, the first ones, that learn from windows of the crop
    mouths: float = 0.7  # share of those windows that show the mouth
    units: int = 96  # of each person; see `PairConfig`
    units_most: int = 800
    jobs: int = 1  # processes that make pairs
    check_every: int = 1000
    checkpoint_every: int = 500
    seed: int = 0


class Adversary(nn.Module):
    """Tells recorded mouths from refined ones, patch by patch: (picture, portrait, openings) to features and, last, logits."""

    def __init__(self, width: int = 32):
        super().__init__()
        sizes = [(7, width), (width, 2 * width), (2 * width, 4 * width)]
        self.layers = nn.ModuleList([nn.utils.spectral_norm(nn.Conv2d(i, o, 4, 2, 1)) for i, o in sizes])
        self.out = nn.utils.spectral_norm(nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, seen: Float[Tensor, "b 7 h w"]) -> list[Tensor]:
        features = []
        for layer in self.layers:
            seen = F.leaky_relu(layer(seen), 0.2)
            features.append(seen)
        return [*features, self.out(seen)]


@dataclass(frozen=True)
class Batch:
    """2n frames, the first frames of all units before the second ones; colours -1..1. flow: (n, s, s, 2) px of the crop; mouth:
    where in it the mouth is, if it is there."""

    seen: Float[Tensor, "b 12 s s"]
    truth: Float[Tensor, "b 3 s s"]
    gate: Float[Tensor, "b 1 s s"]
    flow: Float[Tensor, "n s s 2"]
    mouth: Window | None = MOUTH

    @property
    def openings(self) -> Float[Tensor, "b 1 s s"]:
        return self.seen[:, 9:10]

    def refined(self, net: Callable[[Tensor], Mixture]) -> Float[Tensor, "b 3 s s"]:
        return corrected(self.seen[:, :3], self.seen[:, 3:6], self.gate, restricted(net(self.seen), self.openings))


def batch_of(units: Units, generator: torch.Generator | None = None, window: Window = WHOLE) -> Batch:
    """Units as the network meets them, or a window of them; with a generator in other light and shape, and some mirrored."""

    def both(values: Tensor) -> Tensor:
        flat = torch.cat([values[:, 0], values[:, 1]]).float()
        return flat.permute(0, 3, 1, 2) if flat.ndim == 4 else flat[:, None]

    rows, columns = window
    units = units.window(rows, columns)
    own = units.own.float().permute(0, 3, 1, 2).repeat(2, 1, 1, 1)
    colours = torch.cat([both(units.plain), both(units.drawn), own, both(units.truth)], 1)
    shares = torch.cat([both(units.openings), both(units.gate)], 1) / 255
    displacement, flow = both(units.displacement) * DISPLACEMENT_GRAIN, units.flow.float() * FLOW_GRAIN
    mouth = tuple(slice(m.start - w.start, m.stop - w.start) for m, w in zip(MOUTH, window, strict=True))
    seen_mouth = all(m.start >= 0 and m.stop <= w.stop - w.start for m, w in zip(mouth, window, strict=True))
    if generator is not None:
        colours, shares, displacement, flow = _reshaped(_relit(colours, generator), shares, displacement, flow, generator)
        if torch.rand((), generator=generator) < 0.5:
            colours, shares, displacement, flow = colours.flip(-1), shares.flip(-1), displacement.flip(-1), flow.flip(-2)
            displacement = displacement * torch.tensor([-1.0, 1.0])[:, None, None]
            flow = flow * torch.tensor([-1.0, 1.0])
            width = columns.stop - columns.start
            mouth = mouth[0], slice(width - mouth[1].stop, width - mouth[1].start)
    seen = normalised(torch.cat([colours[:, :9], shares[:, :1], displacement], 1))
    assert seen.shape[1] == CHANNELS
    truth = colours[:, 9:] / 127.5 - 1
    layout = torch.channels_last
    return Batch(seen.contiguous(memory_format=layout), truth, shares[:, 1:], flow, (mouth[0], mouth[1]) if seen_mouth else None)


def _reshaped(
    colours: Tensor, shares: Tensor, displacement: Tensor, flow: Float[Tensor, "n s s 2"], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "n s s 2"]]:
    """The same faces with other proportions: all through an affine map near the identity, both frames of a unit alike."""
    n = len(flow)

    def draw(spread: float) -> Float[Tensor, " n"]:
        return spread * (2 * torch.rand(n, generator=generator) - 1)

    angle, shear, along, across = draw(0.1), draw(0.08), torch.exp(draw(0.12) - 0.04), torch.exp(draw(0.12) - 0.04)
    turn = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1).reshape(n, 2, 2)
    zero = torch.zeros(n)
    stretch = torch.stack([along, shear, zero, across], 1).reshape(n, 2, 2)
    matrix = turn @ stretch
    place = torch.stack([draw(0.06), draw(0.06)], 1)[..., None]
    both = torch.cat([matrix, place], 2).repeat(2, 1, 1)
    count = colours.shape[1]
    stacked = torch.cat([colours, shares, displacement], 1)
    grid = F.affine_grid(both, list(stacked.shape), align_corners=False)
    stacked = F.grid_sample(stacked, grid, padding_mode="reflection", align_corners=False)
    moved = F.grid_sample(flow.permute(0, 3, 1, 2), grid[:n], padding_mode="reflection", align_corners=False)
    # A pixel that came from d further off comes from the map's inverse of d.
    back = torch.linalg.inv(matrix)
    displacement = torch.einsum("bij,bjhw->bihw", back.repeat(2, 1, 1), stacked[:, -2:])
    return stacked[:, :count], stacked[:, count:-2], displacement, torch.einsum("bij,bjhw->bhwi", back, moved)


def windows(step: int, recipe: RendererRecipe, generator: torch.Generator) -> Window:
    """What a step looks at: smaller parts first, mostly the mouth; in the end all."""
    if step >= recipe.small * recipe.steps:
        return WHOLE
    spare = SIDE - _SMALL
    if torch.rand((), generator=generator) < recipe.mouths:
        row, column = spare, int(torch.randint(12, spare - 11, (), generator=generator))
    else:
        row, column = torch.randint(spare + 1, (2,), generator=generator).tolist()
    return slice(row, row + _SMALL), slice(column, column + _SMALL)


def _relit(colours: Float[Tensor, "b c s s"], generator: torch.Generator) -> Float[Tensor, "b c s s"]:
    """The same faces in other light, other film and other skin; both frames of a unit alike."""
    n = len(colours) // 2

    def draw(low: float, high: float, channels: int = 1) -> Float[Tensor, "b 1 c 1"]:
        drawn = low + (high - low) * torch.rand(n, 1, channels, 1, generator=generator)
        return drawn.repeat(2, 1, 1, 1)

    pictures = colours.reshape(2 * n, colours.shape[1] // 3, 3, -1) / 255
    grey = pictures.mean(2, keepdim=True)
    vivid = draw(0.5, 1.4) * (draw(0, 1) > 0.08)
    pictures = (grey + vivid * (pictures - grey)).clamp(0, 1)
    pictures = pictures ** torch.exp(draw(-0.4, 0.4))
    gain = torch.exp(draw(-0.25, 0.15)) * torch.exp(draw(-0.15, 0.15, 3))
    return (255 * (gain * pictures).clamp(0, 1)).reshape(colours.shape)


def pixel_loss(made: Tensor, batch: Batch) -> Tensor:
    """L1 at three scales; openings count most, then the mouth, then the rest."""
    weight = _weight(batch)
    truth = batch.truth
    loss = made.new_zeros(())
    for _ in range(3):
        loss = loss + (weight * (made - truth).abs()).mean()
        made, truth, weight = (F.avg_pool2d(v, 2) for v in (made, truth, weight))
    return loss


def detail_loss(made: Tensor, batch: Batch, recipe: RendererRecipe) -> Tensor:
    """Gradients of the whole, and amplitudes of the mouth's spectrum, which do not mind a small shift."""
    weight, error = _weight(batch), made - batch.truth
    across, along = error.diff(dim=-1).abs(), error.diff(dim=-2).abs()
    gradient = (weight[..., 1:] * across).mean() + (weight[..., 1:, :] * along).mean()
    if batch.mouth is None:
        return recipe.gradient_weight * gradient
    spectra = [torch.fft.rfft2(v[..., *batch.mouth].mean(1), norm="ortho").abs() for v in (made, batch.truth)]
    return recipe.gradient_weight * gradient + recipe.spectrum_weight * (spectra[0] - spectra[1]).abs().mean()


def harm_loss(made: Tensor, batch: Batch) -> Tensor:
    """By how much each mouth is further from the recorded one than the bare warp is: where the portrait shows what is wanted, its
    own teeth above all, the warp is to be left alone."""
    assert batch.mouth is not None
    wanted = batch.truth[..., *batch.mouth]
    errors = [(v[..., *batch.mouth] - wanted).square().flatten(1).mean(1) for v in (made, batch.seen[:, :3])]
    return F.relu(errors[0] - errors[1]).mean()


def _weight(batch: Batch) -> Float[Tensor, "b 1 s s"]:
    near = F.avg_pool2d(batch.openings, 9, 1, 4)
    weight = 1 + 2 * near
    if batch.mouth is not None:
        weight[..., *batch.mouth] += 1
    return weight


def time_loss(made: Tensor, batch: Batch) -> Tensor:
    """How much the second frame differs from the first as the mesh moves it, where the recorded frames do not."""
    n, side = batch.flow.shape[:2]
    ticks = torch.arange(side, dtype=torch.float32)
    there = torch.stack(torch.broadcast_tensors(ticks[None, :], ticks[:, None]), -1) + batch.flow
    grid = (2 * there + 1) / side - 1

    def moved(values: Tensor) -> Tensor:
        return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)

    steady = torch.exp(-(batch.truth[n:] - moved(batch.truth[:n])).abs().mean(1, keepdim=True) / 0.06)
    return (steady * batch.gate[n:] * (made[n:] - moved(made[:n])).abs()).mean()


def mouths(picture: Tensor, batch: Batch) -> Float[Tensor, "b 7 h w"]:
    """What the adversary sees."""
    assert batch.mouth is not None
    return torch.cat([picture, batch.seen[:, 6:9], batch.openings], 1)[..., *batch.mouth]


def train_renderer(
    recipe: RendererRecipe, units: Mapping[str, Units], progress: Progress, say: Callable[[str], None]
) -> Path:
    """Trains on the units of the split train, or goes on; those of val are only looked at. Returns the weights' file. ValueError,
    and nothing is touched, where the folder is another run's."""
    # A few pixels of each unit tell it from others; all of them are gigabytes.
    few = [values[..., ::31, ::31, :] for values in (units["train"].own, units["train"].truth)]
    claim(recipe.out, {**identity_of(recipe), "units": digest(few)}, FILES, TOLD)
    torch.manual_seed(recipe.seed)
    net, adversary = Refiner(), Adversary()
    for each in (net, adversary):
        each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, weight_decay=recipe.weight_decay,
        ema=recipe.ema,
    )
    run, other = Run(net, schedule, recipe.out / "renderer.pt"), Run(adversary, schedule, recipe.out / "adversary.pt")
    if run.restore():
        if not other.restore():
            raise ValueError(f"{recipe.out} has renderer.pt but no adversary.pt: remove it, or give another folder")
        say(f"going on at step {run.step}")
    began = time.monotonic()
    while not run.done:
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + run.step)
        chosen = torch.randint(len(units["train"]), (recipe.batch,), generator=generator)
        batch = batch_of(units["train"].pick(chosen), generator, windows(run.step, recipe, generator))
        losses = _step(run, other, batch, recipe)
        if run.step % recipe.check_every == 0 or run.done:
            seen = check(run.averaged(), units["val"])
            figures = {"step": run.step, "seconds": round(time.monotonic() - began), **losses, **seen}
            with (recipe.out / "renderer.jsonl").open("a") as log:
                log.write(json.dumps(figures) + "\n")
            say("  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        if run.step % recipe.checkpoint_every == 0 or run.done:
            other.save()
            run.save()
        progress("training", run.step, recipe.steps)
    weights = recipe.out / "renderer.safetensors"
    run.averaged().save(weights, {"steps": str(run.step), "seed": str(recipe.seed)})
    return weights


def identity_of(recipe: RendererRecipe) -> dict[str, Any]:
    """What tells a run from others, as far as it is known before its units are, for `loop.check_claim`."""
    return stamp_of("train renderer", recipe, free=("jobs",))


def prepare_units(recipe: RendererRecipe, model: FaceModel, progress: Progress) -> dict[str, Units]:
    """Units of the splits train and, a quarter as many of each person, val; made unless they are there. ValueError where the data
    will not do or, and nothing is touched, where the folder is another run's."""
    check_claim(recipe.out, identity_of(recipe), FILES, TOLD)  # preparing takes long
    units = {}
    for split, share in (("train", 1.0), ("val", 0.25)):
        clips = read_manifest(recipe.data, split)
        tracks = track_clips(clips, recipe.out / "tracks", progress)
        config = PairConfig(units=int(share * recipe.units), units_most=int(share * recipe.units_most))
        units[split] = load_units(make_pairs(clips, tracks, model, recipe.out / "pairs", config, progress, jobs=recipe.jobs))
    return units


def _step(run: Run[Refiner], other: Run[Adversary], batch: Batch, recipe: RendererRecipe) -> dict[str, float]:
    with mixed_precision():
        made = batch.refined(run.net)
    loss = pixel_loss(made, batch) + detail_loss(made, batch, recipe)
    found = {"pixels": float(loss.detach())}
    steady = time_loss(made, batch)
    found["time"] = float(steady.detach())
    loss = loss + recipe.time_weight * steady
    if batch.mouth is not None:
        harm = harm_loss(made, batch)
        found["harm"] = float(harm.detach())
        loss = loss + recipe.harm_weight * harm
    fooling = run.step >= recipe.adversary_from and recipe.adversary_weight > 0 and batch.mouth is not None
    if fooling:
        with mixed_precision():
            fake = other.net(mouths(made, batch))
            with torch.no_grad():
                real = other.net(mouths(batch.truth, batch))
        loss = loss - recipe.adversary_weight * fake[-1].float().mean()
        matched = [(a.float() - b.float()).abs().mean() for a, b in zip(fake[:-1], real[:-1], strict=True)]
        loss = loss + recipe.feature_weight * torch.stack(matched).sum()
    run.update(loss)
    if fooling:
        with mixed_precision():
            fake, real = (other.net(mouths(v, batch))[-1].float() for v in (made.detach(), batch.truth))
        found["adversary"] = other.update(F.relu(1 + fake).mean() + F.relu(1 - real).mean())
    return found


@torch.no_grad()
def check(net: Refiner, units: Units, at_most: int = 256) -> dict[str, float]:
    """Peak signal-to-noise ratios (dB) of the crop and of its mouth: plain, drawn and refined, and how sharp mouths are over the
    recorded ones; means over units of people whom training does not see."""
    rows = []
    for part in torch.linspace(0, len(units) - 1, min(at_most, len(units))).long().split(16):
        batch = batch_of(units.pick(part))
        with mixed_precision():
            made = batch.refined(net)
        pictures = {"plain": batch.seen[:, :3], "drawn": batch.seen[:, 3:6], "refined": made.clamp(-1, 1)}
        row = {}
        for name, picture in pictures.items():
            row[name] = _db(picture, batch.truth)
            row[f"{name}_mouth"] = _db(picture[..., *MOUTH], batch.truth[..., *MOUTH])
            row[f"{name}_sharp"] = _sharpness(picture[..., *MOUTH]) / _sharpness(batch.truth[..., *MOUTH])
        rows.append(row)
    return {name: float(torch.cat([row[name] for row in rows]).mean()) for name in rows[0]}


def _db(made: Tensor, truth: Tensor) -> Float[Tensor, " b"]:
    return 10 * torch.log10(4 / (made - truth).square().flatten(1).mean(1).clamp_min(1e-6))


def _sharpness(picture: Tensor) -> Float[Tensor, " b"]:
    """Root mean square of the Laplacian of the grey picture."""
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None]
    return F.conv2d(picture.mean(1, keepdim=True), kernel).square().flatten(1).mean(1).sqrt()
