"""`vivavoce train phonetic`: the phonetic network, on speech whose phones and times are known."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from vivavoce.media.figures import to_json
from vivavoce.speech import acoustic
from vivavoce.speech.acoustic import BANDS, HOPS, RANGE_DB, Acoustic
from vivavoce.speech.analysis import Analysis
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, features
from vivavoce.speech.phones import SILENCE, VISEME_OF
from vivavoce.speech.phonetic import PhoneticNetwork
from vivavoce.train.corpus import Progress, Utterance, phones_at, read_corpus
from vivavoce.train.disguise import disguise
from vivavoce.train.loop import Run, Schedule, check_claim, claim, digest, mixed_precision, stamp_of

BULK = 50  # features analysed at a time
SHARD = 400  # utterances in a cache file
FILES = ("checkpoint.pt", "phonetic.safetensors")  # what a run leaves in its folder
NEPERS = float(np.log(10)) / 10  # of power, in a decibel


@dataclass(frozen=True, kw_only=True)
class PhoneticRecipe:
    """How the phonetic network is trained. ``corpus``: folder of `vivavoce train corpus`; ``out``: features, checkpoint, log.

    ``recorded``: share of the windows that are human. ``copies``: disguised copies of each recorded utterance;
    ``disguised``: share of the synthetic ones that are.
    """

    corpus: Path
    out: Path
    steps: int = 4000
    batch: int = 32
    frames: int = 200
    learning_rate: float = 2e-3
    warmup: int = 100
    recorded: float = 0.45
    copies: int = 3
    disguised: float = 0.6
    smoothing: float = 0.1
    checkpoint_every: int = 250
    seed: int = 0


@dataclass(frozen=True)
class Labelled:
    """An utterance as the network hears it: acoustic features, and the phone of each frame."""

    group: str  # whose windows are drawn together: a person, or a synthetic voice of a language
    recorded: bool
    language: str
    spectra: Float[Tensor, "n c"]  # float16
    phones: Int[Tensor, " n"]  # int8


def train_phonetic(
    recipe: PhoneticRecipe, config: PhoneticNetwork.Config, progress: Progress, report: Callable[[str], None]
) -> Path:
    """Train, with checkpoints; returns the weights' path. Losses and held-out accuracies go to ``out/log.jsonl``.

    A run that is interrupted and started again gives the weights of one that was not. ValueError, and nothing is touched, where
    the folder is another run's.
    """
    stamp = stamp_of("train phonetic", recipe, free=("corpus",), network=asdict(config))
    check_claim(recipe.out, stamp, FILES)  # preparing takes long
    recipe.out.mkdir(parents=True, exist_ok=True)
    train, heldout = (labelled(recipe, split, progress) for split in ("train", "heldout"))
    claim(recipe.out, {**stamp, "speech": digest(v for u in train for v in (u.group, str(u.recorded), u.phones))}, FILES)
    torch.manual_seed(recipe.seed)
    network = PhoneticNetwork(config)
    schedule = Schedule(steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup)
    run = Run(network, schedule, recipe.out / "checkpoint.pt")
    if run.restore():
        report(f"going on at step {run.step}")
    sampler = Windows(train, network.config, recipe)
    losses: list[float] = []
    clock = time.monotonic()
    while not run.done:
        rng = np.random.default_rng((recipe.seed, run.step))  # by step, so that a resumed run draws what an unbroken one would
        torch.manual_seed(int(rng.integers(2**62)))
        spectra, phones = sampler.draw(rng)
        with mixed_precision():
            bottleneck = network.train()(disguised(spectra, rng))
        logits = network.logits(bottleneck.float())
        losses.append(run.update(functional.cross_entropy(
            logits.flatten(0, 1), phones.flatten(), label_smoothing=recipe.smoothing
        )))
        progress("training", run.step, recipe.steps)
        if run.step % recipe.checkpoint_every == 0 or run.done:
            run.save()
            scores = accuracy(run.averaged(), heldout)
            settings = {k: v for k, v in asdict(recipe).items() if k not in ("corpus", "out")}
            run.averaged().save(recipe.out / "phonetic.safetensors", {"recipe": json.dumps(settings)})
            entry = {"step": run.step, "loss": float(np.mean(losses)), "seconds": time.monotonic() - clock, "heldout": scores}
            with (recipe.out / "log.jsonl").open("a") as log:
                log.write(to_json(entry) + "\n")
            said = " ".join(f"{kind} {100 * s['phones']:.1f}/{100 * s['visemes']:.1f}" for kind, s in scores.items())
            report(f"step {run.step} loss {entry['loss']:.4g}, frames right, phones/visemes in per cent: {said}")
            losses.clear()
    return recipe.out / "phonetic.safetensors"


def labelled(recipe: PhoneticRecipe, split: str, progress: Progress) -> list[Labelled]:
    """Features and labels of a split; for training, disguised. Cached in ``out``, so that an interrupted run goes on; what was
    made of other utterances, or otherwise, is made again."""
    utterances = read_corpus(recipe.corpus, split)
    found: list[Labelled] = []
    for first in range(0, len(utterances), SHARD):
        progress(f"{split} speech", first, len(utterances))
        cache = recipe.out / f"speech-{split}-{first // SHARD:03d}.pt"
        of = {"files": [u.file for u in utterances[first : first + SHARD]], "all": len(utterances), "seed": recipe.seed}
        of |= {"copies": recipe.copies, "disguised": recipe.disguised}
        kept = torch.load(cache, weights_only=True) if cache.exists() else None
        if not isinstance(kept, dict) or kept["of"] != of:
            rows = []
            for i in range(first, min(first + SHARD, len(utterances))):
                rng = np.random.default_rng((recipe.seed, i))
                others = [utterances[j] for j in rng.integers(len(utterances), size=2)]
                rows += [asdict(r) for r in versions(utterances[i], others, recipe, rng)]
            partial = cache.with_suffix(".part")
            kept = {"of": of, "rows": rows}
            torch.save(kept, partial)
            partial.rename(cache)
        found += [Labelled(**row) for row in kept["rows"]]
    return found


def versions(
    utterance: Utterance, others: Sequence[Utterance], recipe: PhoneticRecipe, rng: np.random.Generator
) -> Iterator[Labelled]:
    """A recorded utterance of training as it is and disguised, a synthetic one one way or the other, a held-out one as it is."""
    sound, segments = utterance.sound(recipe.corpus), utterance.segments(recipe.corpus)
    recorded = utterance.kind == "recorded"
    if utterance.split != "train":
        disguises = [False]
    elif recorded:
        disguises = [False] + [True] * recipe.copies
    else:
        disguises = [bool(rng.random() < recipe.disguised)]
    babblers = [other.sound(recipe.corpus) for other in others] if any(disguises) else []
    for disguising in disguises:
        samples, stretch = disguise(sound, babblers, rng) if disguising else (sound, 1.0)
        spectra = features(Analysis(BULK), samples).values[0, :, : acoustic.WIDTH]
        yield Labelled(
            group=f"{utterance.language} {utterance.speaker}", recorded=recorded, language=utterance.language,
            spectra=spectra.half(), phones=phones_at(segments, RATE_HZ * stretch, len(spectra)).to(torch.int8),
        )


class Windows:
    """Random windows: human or synthetic speech first, then a voice, then one of its utterances in proportion to length."""

    def __init__(self, utterances: Sequence[Labelled], config: PhoneticNetwork.Config, recipe: PhoneticRecipe):
        self.utterances, self.config, self.recipe = utterances, config, recipe
        second = features(Analysis(), torch.zeros(SAMPLE_RATE_HZ)).values[0, :, : acoustic.WIDTH]
        self.silence = second[len(second) // 2]
        self.voices: dict[bool, list[list[int]]] = {}
        for recorded in (True, False):
            groups: dict[str, list[int]] = defaultdict(list)
            for i, utterance in enumerate(utterances):
                if utterance.recorded == recorded:
                    groups[utterance.group].append(i)
            self.voices[recorded] = list(groups.values())
        self.length = np.array([len(u.phones) for u in utterances], float)

    def draw(self, rng: np.random.Generator) -> tuple[Float[Tensor, "b n c"], Int[Tensor, "b t"]]:
        """Spectra with the network's whole context, silence beyond the ends, and the phones of the frames in the middle."""
        config, frames = self.config, self.recipe.frames
        span = config.past + frames + config.ahead
        spectra = self.silence.repeat(self.recipe.batch, span, 1)
        phones = torch.full((self.recipe.batch, frames), SILENCE)
        for row in range(self.recipe.batch):
            voices = self.voices[rng.random() < self.recipe.recorded] or self.voices[True] or self.voices[False]
            weight = np.array([self.length[voice].sum() for voice in voices]) ** 0.4
            voice = np.array(voices[rng.choice(len(voices), p=weight / weight.sum())])
            utterance = self.utterances[rng.choice(voice, p=self.length[voice] / self.length[voice].sum())]
            start = int(rng.integers(-frames // 4, max(1, len(utterance.phones) - 3 * frames // 4)))
            low, high = max(start - config.past, 0), min(start + frames + config.ahead, len(utterance.phones))
            spectra[row, low - start + config.past : high - start + config.past] = utterance.spectra[low:high].float()
            low, high = max(start, 0), min(start + frames, len(utterance.phones))
            phones[row, low - start : high - start] = utterance.phones[low:high].long()
        return spectra, phones


def disguised(spectra: Float[Tensor, "b n c"], rng: np.random.Generator) -> Float[Tensor, "b n c"]:
    """Other throats, rooms and microphones, drawn for each window: the mel axis is stretched, the spectrum tilted and bent, a
    steady noise added, and a few stretches of time and of bands taken away."""
    count, frames, _ = spectra.shape
    mean, deviation = torch.tensor(Acoustic.mean_db), torch.tensor(Acoustic.deviation_db)
    level = spectra.view(count, frames, HOPS, BANDS) * deviation + mean  # dB over the speaker's level
    band = np.arange(BANDS)
    place = torch.from_numpy((band * rng.uniform(0.88, 1.12, (count, 1))).clip(0, BANDS - 1.001)).float()
    low = place.long()
    part = (place - low)[:, None, None]
    index = low[:, None, None].expand(-1, frames, HOPS, -1)
    level = level.gather(3, index) * (1 - part) + level.gather(3, index + 1) * part
    tilts = (band / BANDS - 0.5) * 4
    bend = rng.normal(0, 3, (count, 1)) * tilts + rng.normal(0, 3, (count, 1))
    for _ in range(3):
        centre, wide = rng.uniform(0, BANDS, (count, 1)), rng.uniform(3, 10, (count, 1))
        bend += rng.normal(0, 3, (count, 1)) * np.exp(-(((band - centre) / wide) ** 2))
    noise = rng.uniform(-70, -8, (count, 1)) + rng.normal(0, 6, (count, 1)) * tilts
    level = level + torch.from_numpy(bend).float()[:, None, None]
    steady = torch.from_numpy(noise).float()[:, None, None] + 5.0 * torch.randn(level.shape)
    level = torch.logaddexp(level * NEPERS, steady * NEPERS) / NEPERS
    out = ((level.clamp(-RANGE_DB, RANGE_DB / 2) - mean) / deviation).flatten(2)
    for row in range(count):
        for _ in range(int(rng.integers(3))):
            first = int(rng.integers(frames))
            out[row, first : first + int(rng.integers(2, 8))] = 0.0
        lowest, bands = int(rng.integers(BANDS)), int(rng.integers(0, 6))
        out[row].view(frames, HOPS, BANDS)[..., lowest : lowest + bands] = 0.0
    return out


@torch.inference_mode()
def accuracy(network: PhoneticNetwork, heldout: Iterable[Labelled]) -> dict[str, dict[str, float]]:
    """Shares of frames whose likeliest phone, and whose likeliest viseme, is the labelled one, by kind and language.

    A viseme's probability is the sum of its phones'. Silence is left out of the shares of ``phones`` and ``visemes``.
    """
    second = features(Analysis(), torch.zeros(SAMPLE_RATE_HZ)).values[0, :, : acoustic.WIDTH]
    silence = second[len(second) // 2]
    visemes = torch.tensor(VISEME_OF)
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for utterance in heldout:
        config = network.config
        spectra = torch.cat([silence.expand(config.past, -1), utterance.spectra.float(), silence.expand(config.ahead, -1)])
        bottleneck = network(spectra[None])[0]
        spoken = utterance.phones.long() > SILENCE
        truth = utterance.phones.long()[spoken]
        heard = bottleneck[spoken]
        right = [(network.logits(heard).argmax(-1) == truth).sum(), (network.visemes(heard).argmax(-1) == visemes[truth]).sum()]
        kind = "recorded" if utterance.recorded else "synthetic"
        counts[f"{kind} {utterance.language}"] += [*map(float, right), float(spoken.sum())]
    return {k: {"phones": float(a / n), "visemes": float(b / n), "frames": float(n)} for k, (a, b, n) in sorted(counts.items())}
