"""The phonetic network, the encoder around it, and its training."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from claims import assert_other_run, assert_unknown_run
from hypothesis import given, settings
from hypothesis import strategies as st

from vivavoce.speech import acoustic
from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, features
from vivavoce.speech.phones import BILABIAL, PHONES, SILENCE
from vivavoce.speech.phonetic import PhoneticNetwork
from vivavoce.speech.streams import SpeechStreams
from vivavoce.train.corpus import Segment, Utterance, Writer, read_corpus
from vivavoce.train.phonetic import PhoneticRecipe, Windows, accuracy, disguised, labelled, train_phonetic

SMALL = PhoneticNetwork.Config(phones=len(PHONES), bottleneck=6, width=16, blocks=3, kernel=5, ahead=3)


@pytest.fixture(scope="module")
def encoder() -> SpeechStreams:
    torch.manual_seed(0)
    return SpeechStreams(PhoneticNetwork(SMALL))


def noise(seconds: float) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(1))


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=6), count=st.integers(1, 20_000))
def test_cutting_the_sound_changes_no_bit(encoder: SpeechStreams, cuts: list[int], count: int) -> None:
    sound = noise(2)[:count]
    whole = features(encoder, sound).values
    assert whole.shape == (1, -(-count * RATE_HZ // SAMPLE_RATE_HZ), encoder.spec.width)
    places = sorted({0, count, *(min(c, count) for c in cuts)})
    state, parts = encoder.start(), []
    for first, end in itertools.pairwise(places):
        track, state = encoder.step(sound[first:end], state, last=end == count)
        assert round(track.start * RATE_HZ) == sum(p.shape[1] for p in parts)
        parts.append(track.values)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_steps_give_what_the_whole_gives(encoder: SpeechStreams) -> None:
    network, config = encoder.network, encoder.network.config
    spectra = torch.randn(40, acoustic.WIDTH)
    silence = torch.linspace(-1, 1, acoustic.WIDTH)
    padded = torch.cat([silence.expand(config.past + config.ahead, -1), spectra])
    with torch.inference_mode():
        whole = network(padded[None])[0]
    state, parts = network.start(silence), []
    for part in spectra.split([1, 7, 2, 30]):
        values, state = network.step(part, state)
        parts.append(values)
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=1e-5)


def test_features_depend_on_nothing_beyond_the_declared_lookahead(encoder: SpeechStreams) -> None:
    sound = noise(2)
    changed = sound.clone()
    changed[SAMPLE_RATE_HZ:] = 0
    differs = (features(encoder, sound).values != features(encoder, changed).values)[0].any(1)
    first = int(differs.nonzero()[0])
    reach = 1 - first / RATE_HZ
    assert encoder.spec.lookahead_seconds - 2 / RATE_HZ < reach <= encoder.spec.lookahead_seconds
    assert encoder.spec.lookahead_seconds <= 0.16


def test_larger_blocks_give_the_same_but_for_rounding(encoder: SpeechStreams) -> None:
    bulk = SpeechStreams(encoder.network, block=50)
    phonetic = slice(acoustic.WIDTH, acoustic.WIDTH + SMALL.bottleneck)
    a, b = (features(e, noise(2)).values[..., phonetic] for e in (encoder, bulk))
    torch.testing.assert_close(a, b, atol=2e-2, rtol=0)


def test_weights_come_back_from_their_file(encoder: SpeechStreams, tmp_path: Path) -> None:
    encoder.network.save(tmp_path / "p.safetensors", {})
    again = SpeechStreams.load(tmp_path / "p.safetensors")
    assert torch.equal(features(again, noise(0.5)).values, features(encoder, noise(0.5)).values)


def test_the_shipped_network_is_small_enough_and_hears_bilabials() -> None:
    from importlib import resources

    from vivavoce.media.audio import Resampler
    from vivavoce.media.speak import speak_phones
    from vivavoce.speech.phones import split_ipa

    network = PhoneticNetwork.load(Path(str(resources.files("vivavoce") / "weights" / "phonetic.safetensors")))
    assert sum(p.numel() for p in network.parameters()) < 4_000_000
    audio, timed = speak_phones("Bob may pay Pam a bumper of beer, my papa maybe bumped him.", voice="en")
    resampler = Resampler(audio.rate, SAMPLE_RATE_HZ)
    sound = torch.cat([resampler.push(audio).samples[0], resampler.finish().samples[0]])
    values = features(SpeechStreams(network), sound).values[0]
    posterior = network.logits(values[:, acoustic.WIDTH : acoustic.WIDTH + network.config.bottleneck]).softmax(-1)
    closed = posterior[:, sorted(BILABIAL)].sum(1)
    truth = torch.zeros(len(closed), dtype=torch.bool)
    for phone in timed:
        if BILABIAL & set(split_ipa(phone.symbol)):
            truth[int(phone.start * RATE_HZ) : int(np.ceil(phone.end * RATE_HZ))] = True
    assert float(closed[truth].mean()) > 3 * float(closed[~truth].mean())


def corpus(folder: Path) -> Path:
    """Two "voices" whose phones are tones: a is 400 Hz, s is 4 kHz."""
    writer = Writer(folder)
    for i in range(6):
        rng = np.random.default_rng(i)
        phones = [SILENCE, *rng.choice([PHONES.index("a"), PHONES.index("s")], 6), SILENCE]
        segments = tuple(Segment(start=0.2 * k, end=0.2 * (k + 1), phone=int(p)) for k, p in enumerate(phones))
        hertz = {SILENCE: 0.0, PHONES.index("a"): 400.0, PHONES.index("s"): 4000.0}
        seconds = torch.arange(SAMPLE_RATE_HZ // 5) / SAMPLE_RATE_HZ
        sound = torch.cat([0.3 * torch.sin(2 * torch.pi * hertz[int(p)] * seconds) for p in phones])
        utterance = Utterance(
            file=f"toy/{i}.flac", language="en", speaker=f"v{i % 2}", kind="recorded" if i % 2 else "synthetic", labels="events",
            split="heldout" if i > 3 else "train", source="toy", licence="synthetic",
        )
        writer.add(utterance, sound, segments)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PhoneticRecipe:
    folder = tmp_path_factory.mktemp("corpus")
    return PhoneticRecipe(
        corpus=corpus(folder), out=folder / "a", steps=80, batch=8, frames=60, warmup=5, copies=1, learning_rate=5e-3,
        checkpoint_every=20,
    )


def quiet(*_: object) -> None:
    return None


def test_training_tells_tones_apart_and_resumes_to_the_bit(recipe: PhoneticRecipe, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(what: str, step: int, _: int) -> None:
        if what == "training" and step == 70:
            raise Stopped

    weights = train_phonetic(recipe, SMALL, quiet, quiet)
    last = json.loads((recipe.out / "log.jsonl").read_text().splitlines()[-1])
    assert last["heldout"]["recorded en"]["phones"] > 0.7
    other = replace(recipe, out=tmp_path / "b")
    with pytest.raises(Stopped):
        train_phonetic(other, SMALL, stop, quiet)
    resumed = PhoneticNetwork.load(train_phonetic(other, SMALL, quiet, quiet))
    unbroken = PhoneticNetwork.load(weights)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), unbroken.parameters(), strict=True))
    assert_other_run(other.out, partial(train_phonetic, replace(other, seed=1), SMALL, quiet, quiet))
    assert_other_run(other.out, partial(train_phonetic, other, replace(SMALL, blocks=2), quiet, quiet))
    assert_unknown_run(other.out, partial(train_phonetic, other, SMALL, quiet, quiet))


def test_utterances_that_were_added_are_heard(tmp_path: Path) -> None:
    def kept() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in recipe.out.iterdir()}

    recipe = PhoneticRecipe(corpus=corpus(tmp_path / "corpus"), out=tmp_path / "out", copies=0)
    recipe.out.mkdir()
    few = labelled(recipe, "train", quiet)
    before = kept()
    again = labelled(recipe, "train", quiet)
    assert kept() == before and all(torch.equal(a.spectra, b.spectra) for a, b in zip(few, again, strict=True))
    added = replace(read_corpus(recipe.corpus, "train")[0], file="toy/new.flac", speaker="new")
    Writer(recipe.corpus).add(added, noise(1), [Segment(start=0.0, end=1.0, phone=SILENCE)])
    more = labelled(recipe, "train", quiet)
    assert [u.group for u in more] == [*(u.group for u in few), "en new"]
    other = labelled(replace(recipe, copies=1), "train", quiet)  # one more of each that is recorded
    assert len(other) == len(more) + sum(u.recorded for u in more)


def test_a_disguise_of_the_spectrum_keeps_its_shape_and_its_seed(recipe: PhoneticRecipe) -> None:
    spectra, phones = Windows(labelled(recipe, "train", quiet), SMALL, recipe).draw(np.random.default_rng(0))
    assert spectra.shape[1] == phones.shape[1] + SMALL.past + SMALL.ahead
    torch.manual_seed(0)
    once = disguised(spectra, np.random.default_rng(3))
    torch.manual_seed(0)
    assert torch.equal(once, disguised(spectra, np.random.default_rng(3)))
    assert torch.isfinite(once).all()
    assert not torch.equal(once, spectra)


def test_accuracy_counts_spoken_frames_only(recipe: PhoneticRecipe) -> None:
    torch.manual_seed(0)
    heldout = labelled(recipe, "heldout", quiet)
    scores = accuracy(PhoneticNetwork(SMALL).eval(), heldout)
    spoken = sum(int((u.phones > SILENCE).sum()) for u in heldout)
    assert sum(s["frames"] for s in scores.values()) == spoken
    assert all(0 <= s[kind] <= 1 for s in scores.values() for kind in ("phones", "visemes"))
