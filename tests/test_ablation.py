"""The ablation of how speech is heard: its variants, its judgement, its table; and the look into the selectors."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from vivavoce.apps import cli
from vivavoce.apps.inspect import level_table, load_network, plot_levels
from vivavoce.generate import MotionGenerator, WindowConfig
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import Layout
from vivavoce.media.track import Track
from vivavoce.nets.levels import LevelsConfig
from vivavoce.nets.motion import MotionTransformer
from vivavoce.speech.encoder import SpeechSpec
from vivavoce.train.ablation import VARIANTS, Ablation, ablate, clip_figures, markdown, validation_loss
from vivavoce.train.data import Example, save_examples, style_of
from vivavoce.train.motion import MotionRecipe

STREAMS = {"acoustic": 4, "phonetic": 3, "prosodic": 2}
SMALL = {"width": 16, "context": 8, "blocks": 2, "heads": 2, "speech_heads": 2}


class Deaf:
    """An encoder that hears nothing, for features that are made otherwise."""

    spec = SpeechSpec(sample_rate_hz=16000, rate_hz=50, streams=STREAMS, lookahead_seconds=0.0, block_seconds=0.1)

    def start(self) -> None:
        return None

    def step(self, samples: torch.Tensor, state: None, *, last: bool = False) -> tuple[Track, None]:
        return Track(values=torch.zeros(1, len(samples) // 320, 9), rate=50.0), None


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(Path(str(resources.files("vivavoce") / "weights" / "face.safetensors")))


def generator_for(model: FaceModel) -> MotionGenerator:
    torch.manual_seed(0)
    layout = Layout.of(model.widths())
    levels = LevelsConfig(streams=STREAMS, width=8, stem=8, filters=2)
    net = MotionTransformer(MotionTransformer.Config(event=layout.width, levels=levels, style=3, **SMALL))
    return MotionGenerator(
        net, layout, WindowConfig(steps=1), mean=torch.zeros(layout.width), std=torch.ones(layout.width), style=torch.zeros(3),
        silence=torch.zeros(9),
    )


def example(model: FaceModel, motion: torch.Tensor, speech: torch.Tensor | None, first: int = 0, clip: str = "c") -> Example:
    style = style_of(motion.numpy(), Layout.of(model.widths()))
    return Example(person="p", clip=clip, motion=motion, speech=speech, first=first, style=style)


def test_every_variant_changes_one_thing() -> None:
    runs = {name: Ablation(data=Path("d"), out=Path("o")).run(name, 0) for name in VARIANTS}
    for name, recipe in runs.items():
        assert replace(recipe, out=runs["full"].out, levels={}, net={}) == replace(runs["full"], levels={}, net={})
        levels = replace(LevelsConfig(streams=STREAMS), **recipe.levels)
        assert len(levels.names) == {"phonetic": 6, "prosodic": 6, "local": 2, "global": 2, "all": 18}.get(name, 12)
        MotionTransformer.Config(event=4, levels=levels, style=3, **recipe.net)
    assert len({(str(r.levels), str(r.net)) for r in runs.values()}) == len(VARIANTS)
    assert len({r.out for r in runs.values()}) == len(VARIANTS)


def test_a_network_that_makes_the_recording_is_perfect(model: FaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stretches of a clip, the second from feature 80 on, against samples that hold exactly them."""
    generator, layout = generator_for(model), Layout.of(model.widths())
    motion = 0.3 * torch.randn(100, layout.width, generator=torch.Generator().manual_seed(1)).cumsum(0) / 5
    speech = torch.zeros(200, 9)
    monkeypatch.setattr(generator, "samples", lambda _, seeds: motion.expand(len(seeds), -1, -1))
    parts = [example(model, motion[:30], speech), example(model, motion[40:], speech, first=80)]
    figures = clip_figures(generator, parts, model)
    for name in ("lip_corr", "lip_corr_mean4", "lip_gain", "width_corr", "head_ratio", "brow_ratio"):
        assert figures[name] == pytest.approx(1, abs=1e-6)
    assert figures["lip_lag_frames"] == 0
    assert figures["closure_f1"] == pytest.approx(1)


def test_variety_costs_single_samples_but_not_their_mean(model: FaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, layout = generator_for(model), Layout.of(model.widths())
    motion = torch.zeros(200, layout.width)
    motion[:, 0] = torch.sin(torch.arange(200) / 5)
    noise = torch.zeros(4, 200, layout.width)
    noise[:, :, 0] = torch.randn(2, 200, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    noise[2:] *= -1
    monkeypatch.setattr(generator, "samples", lambda _, seeds: motion + 0.5 * noise)
    figures = clip_figures(generator, [example(model, motion, torch.zeros(400, 9))], model)
    assert figures["lip_corr"] < 0.95
    assert figures["lip_corr_mean4"] > figures["lip_corr"] + 0.03


def test_loss_is_that_of_a_network_that_says_nothing(model: FaceModel) -> None:
    """A new network's velocity is zero, so the loss is E|x - noise|^2: 1 + 1 for normalised motion; twice the same number."""
    generator = generator_for(model)
    motion = torch.randn(500, generator.layout.width, generator=torch.Generator().manual_seed(0))
    examples = [example(model, motion, torch.zeros(1000, 9))]
    recipe = MotionRecipe(data=Path("d"), out=Path("o"))
    loss = validation_loss(generator, examples, model, recipe)
    assert loss == pytest.approx(2, rel=0.05)
    assert validation_loss(generator, examples, model, recipe) == loss


def test_the_table_says_mean_and_spread() -> None:
    table = markdown(9, {"full": {0: {"loss": 1.0}, 1: {"loss": 2.0}}, "local": {0: {"loss": 3.0}}})
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert rows[1] == f"| {VARIANTS['full'].says} | 2 | 1.500 ± 0.500 |"
    assert rows[2] == f"| {VARIANTS['local'].says} | 1 | 3.000 ± 0.000 |"


def test_an_interrupted_ablation_goes_on(model: FaceModel, tmp_path: Path) -> None:
    """Stopped in its second run, started again: the first is not repeated, and the table is that of an unbroken one."""
    layout, encoder = Layout.of(model.widths()), Deaf()
    clips = []
    for i in range(4):
        g = torch.Generator().manual_seed(i)
        motion, speech = torch.randn(80, layout.width, generator=g), torch.randn(160, 9, generator=g)
        clips.append(replace(example(model, motion, speech, clip=f"c{i}"), person=("grid_a", "b")[i % 2]))
    tables = []
    for name in ("unbroken", "broken"):
        out = tmp_path / name
        out.mkdir()
        for split in ("train", "val"):
            save_examples(clips, out / f"examples-{split}.safetensors")
        recipe = MotionRecipe(data=Path("d"), out=out, batch=2, warmup=1, checkpoint_every=1, net=SMALL)
        ablation = Ablation(data=Path("d"), out=out, steps=2, seeds=1, variants=("local", "uniform"), recipe=recipe)
        said: list[str] = []
        stopped = name == "unbroken"
        trained = 0

        def progress(what: str, step: int, _: int) -> None:
            nonlocal stopped, trained
            trained += what == "training"
            if not stopped and trained == 4:
                stopped = True
                raise KeyboardInterrupt

        if name == "broken":
            with pytest.raises(KeyboardInterrupt):
                ablate(ablation, model, encoder, progress, said.append)
            assert [line for line in said if "seed" in line] == ["local, seed 0", "uniform, seed 0"]
            said.clear()
        tables.append(ablate(ablation, model, encoder, progress, said.append).read_text())
        if name == "broken":
            assert [line for line in said if "seed" in line] == ["uniform, seed 0"]
            assert "going on at step 1" in said
            assert json.loads((out / "speech-2.json").read_text())["runs"].keys() == {"local", "uniform"}
    assert tables[0] == tables[1]


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="nasal"):
        Ablation(data=Path("d"), out=Path("o"), variants=("nasal",))
    with pytest.raises(ValueError, match="0 seeds"):
        Ablation(data=Path("d"), out=Path("o"), seeds=0)


def test_the_table_of_levels_shows_the_selectors(model: FaceModel, tmp_path: Path) -> None:
    generator = generator_for(model)
    with torch.no_grad():
        generator.net.selector.logits[1, 3] = 20.0
    generator.save(tmp_path / "motion.safetensors", {})
    net = load_network(tmp_path)
    lines = level_table(net).splitlines()
    numbers = {line[:28].strip(): [float(v) for v in line[28:].split()] for line in lines[1:] if "," in line}
    assert len(numbers) == len(net.config.levels.names) + 2
    np.testing.assert_allclose(numbers["phonetic, 1.5 s"], [1 / 12, 1 / 12, 1, (1 / 6 + 1) / 3], atol=6e-4)
    np.testing.assert_allclose(numbers["prosodic, together"], [0.5, 0.5, 0, 1 / 3], atol=6e-4)
    plot_levels(net, tmp_path / "levels.png")
    assert (tmp_path / "levels.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["levels.png", "motion.safetensors"]


def test_bad_input_of_inspect_and_bench_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, says in (
        (f"inspect levels --weights {tmp_path}", "motion.safetensors"),
        (f"inspect levels -o {tmp_path}/x.gif", "x.gif"),
        (f"bench speech {tmp_path} -o {tmp_path}/out", "MANIFEST.csv"),
    ):
        assert cli.main(line.split()) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
