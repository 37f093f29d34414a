"""Pretrained speech encoders: tiny random checkpoints in the real format, heard as they arrive, at the right times."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from vivavoce.speech.encoder import RATE_HZ, SAMPLE_RATE_HZ, SpeechEncoder, features
from vivavoce.speech.encoders import Joined, hearing, identity, open_encoder, reopen
from vivavoce.speech.pretrained import PretrainedEncoder, Windows
from vivavoce.speech.streams import SpeechStreams

HOP = SAMPLE_RATE_HZ // RATE_HZ
FAMILIES = ("wav2vec2", "hubert", "whisper")
WINDOWS = Windows(back_seconds=0.3, block_seconds=0.1, ahead_seconds=0.06)
DEPTH = 3
CONVOLUTIONS: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "intermediate_size": 24, "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 8,
}  # fmt: skip
WHISPER: dict[str, Any] = {
    "d_model": 16, "encoder_layers": DEPTH, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "max_source_positions": 100,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "max_target_positions": 8, "vocab_size": 12,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
LOCAL: dict[str, Any] = {"num_conv_pos_embeddings": 1, "feat_extract_norm": "layer", "conv_bias": True}
"""Convolutions in which nothing but their kernels joins one time with another."""


def checkpoint(folder: Path, family: str, *, normalise: bool = True, scale: float = 3.0, **changes: Any) -> Path:
    """As such checkpoints are published: with the head of their task, in folders that transformers saved.

    scale: of the initial weights, which are so small that attention hardly matters.
    """
    torch.manual_seed(1)
    if family == "whisper":
        model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER | changes))
        transformers.WhisperFeatureExtractor(chunk_length=2).save_pretrained(folder)
    else:
        kind, config = {
            "wav2vec2": (transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2Config),
            "hubert": (transformers.HubertForCTC, transformers.HubertConfig),
        }[family]
        model = kind(config(**CONVOLUTIONS | changes))
        transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: checkpoint(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, PretrainedEncoder]:
    return {family: PretrainedEncoder.load(folder, (1, DEPTH), WINDOWS) for family, folder in folders.items()}


def noise(duration: float, seed: int = 0) -> Tensor:
    return torch.randn(round(duration * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(seed)) * 0.1


def talk(duration: float) -> Tensor:
    """Voiced syllables four times a second."""
    time = torch.arange(round(duration * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    voice = sum((torch.sin(2 * math.pi * 130 * k * time) / k for k in range(1, 25)), torch.zeros_like(time))
    return 0.2 * voice * torch.sin(math.pi * 4 * time) ** 2 + noise(duration) * 0.003


def cut(encoder: SpeechEncoder[Any], sound: Tensor, sizes: list[int]) -> Tensor:
    """The features of the sound in steps of these sizes and a last one."""
    state, parts, begin, count = encoder.start(), [], 0, 0
    for size in [*sizes, sound.shape[0]]:
        track, state = encoder.step(sound[begin : begin + size], state, last=begin + size >= sound.shape[0])
        assert track.start == count / RATE_HZ
        parts.append(track.values)
        count += track.values.shape[1]
        begin += size
        if begin >= sound.shape[0]:
            break
    return torch.cat(parts, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cut_gives_the_same_bits(family: str, encoders: dict[str, PretrainedEncoder]) -> None:
    encoder, sound = encoders[family], talk(0.7)[:-77]
    whole = features(encoder, sound).values
    assert whole.shape == (1, math.ceil(sound.shape[0] / HOP), encoder.spec.width)
    assert list(encoder.spec.streams) == [f"{family}.1", f"{family}.{DEPTH}"]

    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.one_of(st.integers(0, 900), st.integers(0, sound.shape[0])), max_size=12))
    def check(sizes: list[int]) -> None:
        assert torch.equal(cut(encoder, sound, sizes), whole)

    check()


@pytest.mark.parametrize("length", [0, 1, 319, 320, 321, 4800, 4801])
def test_features_cover_the_sound(length: int, encoders: dict[str, PretrainedEncoder]) -> None:
    for encoder in encoders.values():
        assert features(encoder, torch.zeros(length)).values.shape[1] == math.ceil(length / HOP)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_declared_clock_is_kept(family: str, encoders: dict[str, PretrainedEncoder]) -> None:
    """Features come when the clock says; the last one of a block hears up to its lookahead's end, and nothing behind."""
    encoder, sound = encoders[family], noise(0.9)
    spec, state, count = encoder.spec, encoder.start(), 0
    for heard in range(160, sound.shape[0] + 1, 160):
        track, state = encoder.step(sound[heard - 160 : heard], state)
        count += track.values.shape[1]
        assert count >= (heard / SAMPLE_RATE_HZ - spec.lookahead_seconds - spec.block_seconds) * RATE_HZ
    frame = 3 * round(spec.block_seconds * RATE_HZ) - 1
    edge = frame * HOP + round(spec.lookahead_seconds * SAMPLE_RATE_HZ)
    before = features(encoder, sound).values[0]
    changed = sound.clone()
    changed[edge:] = 0.0
    assert torch.equal(features(encoder, changed).values[0, : frame + 1], before[: frame + 1])
    changed[edge - 40 :] = 0.0
    assert not torch.equal(features(encoder, changed).values[0, frame], before[frame])


@pytest.mark.parametrize(("family", "reach_before", "reach_after"), [
    ("wav2vec2", 200, 199), ("hubert", 200, 199), ("whisper", 519, 519),
])  # fmt: skip
def test_features_see_what_lies_around_their_time(family: str, reach_before: int, reach_after: int, tmp_path: Path) -> None:
    """Before the transformer, feature i sees [i - before, i + after] around its time, and one click changes just those.

    Receptive fields: 400 samples of the convolutions with the time in their middle; for Whisper a mel frame's 400 (of which the
    window's first weighs nothing), on either side of two convolutions that reach two mel frames of 160 each.
    """
    local = {} if family == "whisper" else LOCAL
    encoder = PretrainedEncoder.load(checkpoint(tmp_path, family, normalise=False, **local), (0,), WINDOWS)
    sound = noise(0.8)
    plain = features(encoder, sound).values[0]
    for place in (3000, 4801, 6399, 6400, 6401, 8120, 9777):
        clicked = sound.clone()
        clicked[place] += 0.9
        changed = (features(encoder, clicked).values[0] - plain).abs().amax(-1) > 1e-6
        seen = [i for i in range(len(plain)) if -reach_before + 20 <= place - i * HOP <= reach_after - 20]
        unsure = [i for i in range(len(plain)) if -reach_before <= place - i * HOP <= reach_after and i not in seen]
        found = [int(i) for i in changed.nonzero()]
        assert set(seen) <= set(found) <= {*seen, *unsure}  # at the field's very ends weights may be too small for a float


@pytest.mark.parametrize("family", FAMILIES)
def test_features_change_where_the_sound_does(family: str, tmp_path: Path) -> None:
    """Also behind the transformer, and wherever in a block it is: from there on another noise."""
    local = {} if family == "whisper" else LOCAL
    encoder = PretrainedEncoder.load(checkpoint(tmp_path, family, normalise=False, scale=1.0, **local), (DEPTH,), WINDOWS)
    sound = noise(0.9)
    plain = features(encoder, sound).values[0]
    for index in (17, 20, 24):
        other = sound.clone()
        other[index * HOP :] = noise(0.9, seed=1)[index * HOP :]
        change = (features(encoder, other).values[0] - plain).norm(dim=-1)
        assert change[: index - 1].max() < 0.5 * change[index + 2 :].min()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [(0, 1), (2,), (1, DEPTH)])
def test_a_window_is_what_transformers_makes_of_it(
    family: str, layers: tuple[int, ...], folders: dict[str, Path], tmp_path: Path
) -> None:
    """The first block against the whole model and its own preparation on the same window, as a recording of its own."""
    folder = folders[family]
    if family != "whisper":
        folder = checkpoint(tmp_path, family, normalise=False, do_stable_layer_norm=family == "wav2vec2")
    encoder, sound = PretrainedEncoder.load(folder, layers, WINDOWS), talk(0.6)
    back, block, ahead = WINDOWS.frames
    silence = torch.zeros(back * HOP + (0 if family == "whisper" else 200))
    window = torch.cat([silence, sound])[: silence.shape[0] + (block + ahead - 1) * HOP + (HOP if family == "whisper" else 200)]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)
    given_to = prepare(window.numpy(), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
    with torch.no_grad():
        if family == "whisper":
            states = model.encoder(given_to.input_features, output_hidden_states=True).hidden_states
        else:
            states = model(given_to.input_values, output_hidden_states=True).hidden_states
    expected = [torch.nn.functional.layer_norm(states[k][0, back : back + block], (16,)) for k in layers]
    found = features(encoder, sound).values[0, :block]
    torch.testing.assert_close(found, torch.cat(expected, -1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("gain_db", [-20.0, 10.0])
def test_normalised_checkpoints_do_not_hear_how_loud_it_is(
    gain_db: float, encoders: dict[str, PretrainedEncoder], tmp_path: Path
) -> None:
    """And those that are not normalised do. A pause keeps the gain: it is the speaker's, not the window's."""
    sound, gain = talk(1.2), 10 ** (gain_db / 20)
    raw = PretrainedEncoder.load(
        checkpoint(tmp_path, "hubert", normalise=False, **LOCAL), (1, DEPTH), WINDOWS
    )

    def change(encoder: PretrainedEncoder) -> float:
        plain, loud = (features(encoder, s).values[0, RATE_HZ // 2 :] for s in (sound, sound * gain))
        return float((loud - plain).square().mean().sqrt())

    assert change(encoders["hubert"]) < 0.1
    assert change(raw) > 2 * change(encoders["hubert"])
    encoder = encoders["hubert"]
    _, spoken = encoder.step(sound, encoder.start())
    _, paused = encoder.step(torch.zeros(SAMPLE_RATE_HZ), spoken)
    assert abs(paused.level.level_dbfs - spoken.level.level_dbfs) < 3.0


def test_listeners_share_an_encoder(encoders: dict[str, PretrainedEncoder]) -> None:
    encoder, sounds = encoders["wav2vec2"], [talk(0.5), noise(0.5)]
    states, parts = [encoder.start(), encoder.start()], [[], []]
    for begin in range(0, sounds[0].shape[0], 3000):
        for who in (0, 1):
            track, states[who] = encoder.step(sounds[who][begin : begin + 3000], states[who], last=begin + 3000 >= 8000)
            parts[who].append(track.values)
    for sound, part in zip(sounds, parts, strict=True):
        assert torch.equal(torch.cat(part, 1), features(encoder, sound).values)


def rewrite(name: str, **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in (values | changes).items() if value is not None}))

    return spoil


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def truncate(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def forget_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in tensors if "encoder.layers.1" in key)
    save_file({name: value for name, value in tensors.items() if name != key}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(("family", "spoil", "match"), [
    ("hubert", remove("config.json"), "has no config.json"),
    ("hubert", remove("preprocessor_config.json"), "has no preprocessor_config.json"),
    ("hubert", remove("model.safetensors"), "has no safetensors, and pickled weights"),
    ("hubert", lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
    ("hubert", lambda folder: (folder / "config.json").write_text("[]"), "no settings"),
    ("hubert", rewrite("config.json", model_type="bert"), "'bert'"),
    ("hubert", rewrite("config.json", num_hidden_layers=None), "number of layers"),
    ("hubert", rewrite("config.json", hidden_size=32), "can't be used"),
    ("wav2vec2", rewrite("config.json", conv_stride=[5, 2, 2, 2, 2, 2, 1]), "every 160 samples"),
    ("wav2vec2", rewrite("preprocessor_config.json", sampling_rate=8000), "8000 Hz"),
    ("wav2vec2", truncate, "can't be used"),
    ("wav2vec2", forget_a_tensor, "lack 1 tensors"),
    ("whisper", forget_a_tensor, "lack 1 tensors"),
    ("whisper", rewrite("preprocessor_config.json", chunk_length=30, n_samples=480000), "not of one checkpoint"),
    ("whisper", rewrite("preprocessor_config.json", feature_size=128), "not of one checkpoint"),
])  # fmt: skip
def test_files_that_will_not_do_are_refused(
    family: str, spoil: Callable[[Path], None], match: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "copy"))
    spoil(folder)
    with pytest.raises(ValueError, match=match):
        PretrainedEncoder.load(folder, (1,), WINDOWS)


@pytest.mark.parametrize("layers", [(), (4,), (-1,), (2, 1), (1, 1)])
def test_layers_that_do_not_exist_are_refused(layers: tuple[int, ...], folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="rising numbers from 0 to 3"):
        PretrainedEncoder.load(folders["hubert"], layers)


def test_windows_that_will_not_do_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="at most 2"):
        PretrainedEncoder.load(folders["whisper"], (1,))  # this one hears two seconds, the default window is longer
    for wrong in (0.0, 0.03, math.nan, -0.02):
        with pytest.raises(ValueError, match=r"multiple of 0\.02"):
            Windows(back_seconds=1.0, block_seconds=wrong, ahead_seconds=0.2)


def test_names_are_folders_or_the_hubs(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **_: Any) -> str:
        raise OSError(f"no route to {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match="no route to someone/hubert"):
        PretrainedEncoder.load("someone/hubert", (1,))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(folders["hubert"]))
    assert PretrainedEncoder.load("someone/hubert", (1,)).source == "someone/hubert"
    for missing in ("/no/such/folder", "hubert", Path("someone/hubert"), folders["hubert"] / "config.json"):
        with pytest.raises(ValueError, match="no folder"):
            PretrainedEncoder.load(missing, (1,))


def test_transformers_is_an_extra(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    sentence = r"pretrained speech encoders need transformers: pip install 'vivavoce\[pretrained\]'"
    for folder in folders.values():
        with pytest.raises(ValueError, match=sentence):
            PretrainedEncoder.load(folder, (1,))


def test_diffusers_is_not_needed(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with the extra of the video engine, whose checkpoints are opened by the same functions."""
    for name in ["diffusers", *(name for name in sys.modules if name.startswith("diffusers."))]:
        monkeypatch.setitem(sys.modules, name, None)
    assert dict(PretrainedEncoder.load(folders["hubert"], (1,)).spec.streams) == {"hubert.1": 16}


def test_opening_one_prints_nothing(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    for folder in folders.values():  # with heads and a decoder that are left out, of which transformers would report
        PretrainedEncoder.load(folder, (1,), WINDOWS)
    assert capfd.readouterr() == ("", "")


def test_encoders_are_opened_by_name(folders: dict[str, Path]) -> None:
    assert isinstance(open_encoder("streams"), SpeechStreams)
    encoder = open_encoder(f"{folders['hubert']}:0,2")
    assert dict(encoder.spec.streams) == {"hubert.0": 16, "hubert.2": 16}
    for wrong in ("", "stream", f"{folders['hubert']}", f"{folders['hubert']}:", f"{folders['hubert']}:a", ":3", "x:1,,2"):
        with pytest.raises(ValueError, match="no speech encoder"):
            open_encoder(wrong)
    with pytest.raises(ValueError, match="no encoder was named"):
        open_encoder()


def test_joined_encoders_are_both(folders: dict[str, Path]) -> None:
    joined, sound = open_encoder(f"{folders['wav2vec2']}:1", "streams"), talk(0.8)[:-55]
    assert isinstance(joined, Joined)
    both = [features(encoder, sound).values for encoder in joined.encoders]
    whole = features(joined, sound).values
    assert torch.equal(whole, torch.cat(both, -1))
    for sizes in ([100] * 90, [5000, 1, 0, 3333], [7777]):
        assert torch.equal(cut(joined, sound, sizes), whole)
    state, count, spec = joined.start(), 0, joined.spec
    for heard in range(160, sound.shape[0] + 1, 160):
        track, state = joined.step(sound[heard - 160 : heard], state)
        count += track.values.shape[1]
        assert count >= (heard / SAMPLE_RATE_HZ - spec.lookahead_seconds - spec.block_seconds) * RATE_HZ - 1e-9
    with pytest.raises(ValueError, match="two of the encoders"):
        open_encoder("streams", "streams")


def test_weights_find_their_encoder_again(folders: dict[str, Path], tmp_path: Path) -> None:
    """As it was, or where its folder is now; and no other one in its place."""
    folder = Path(shutil.copytree(folders["hubert"], tmp_path / "then"))
    sound = talk(0.6)
    for names in (["streams"], [f"{folder}:1,2"], ["streams", f"{folder}:1,2"]):
        encoder = open_encoder(*names)
        written = identity(encoder)
        assert torch.equal(features(reopen(written), sound).values, features(encoder, sound).values)
    now = folder.rename(tmp_path / "now")
    with pytest.raises(ValueError, match="no folder"):
        reopen(written)
    again = reopen(written, checkpoint=now)
    assert torch.equal(features(again, sound).values, features(encoder, sound).values)
    assert hearing(again) == hearing(encoder) and identity(again) != identity(encoder)  # wherever it lies, it hears the same
    torch.manual_seed(2)
    other = checkpoint(tmp_path / "other", "hubert", intermediate_size=20)
    with pytest.raises(ValueError, match="other weights"):
        reopen(written, checkpoint=other)
    with pytest.raises(ValueError, match="want 0 of them"):
        reopen(identity(open_encoder("streams")), checkpoint=now)
    analysis = open_encoder("analysis")
    assert torch.equal(features(reopen(identity(analysis)), sound).values, features(analysis, sound).values)
    own = json.dumps([{"source": "Mine", "streams": {"mine": 3}}])
    with pytest.raises(ValueError, match="own encoder, Mine"):
        reopen(own)
    parts = json.loads(written)
    parts[0]["streams"]["prosodic"] += 1
    with pytest.raises(ValueError, match="trained on the streams"):
        reopen(json.dumps(parts), checkpoint=now)
