"""What `vivavoce bench` does: measure, print the table, write it where that is wanted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vivavoce.apps.commands import DEMO_SENTENCE, load_animator
from vivavoce.apps.parts import parts, shipped
from vivavoce.apps.progress import reporter
from vivavoce.media.audio import Audio
from vivavoce.media.files import check_writable, require_file
from vivavoce.media.speak import speak

if TYPE_CHECKING:
    from vivavoce.apps import cli_bench


def bench_render(options: cli_bench.BenchRender) -> None:
    """Speed, stages and memory of rendering, each size in a process of its own."""
    from vivavoce.apps import bench

    if options.output is not None:
        check_writable(options.output, (".json",), options.overwrite)
    with reporter() as report:
        result = bench.measure(options.sizes, options.frames, report)
    print(bench.table(result))
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{options.output}: written")


def bench_live(options: cli_bench.BenchLive) -> None:
    """Delay, load and memory of live sessions."""
    from vivavoce.apps import bench_live as live

    if options.output is not None:
        check_writable(options.output, (".json",), options.overwrite)
    if options.seconds < live.SHORTEST_SECONDS or (options.soak is not None and options.soak < live.SHORTEST_SECONDS):
        raise ValueError(f"sessions of under {live.SHORTEST_SECONDS:g} seconds say nothing: give more")
    speech = Audio.open(options.speech).mono() if options.speech is not None else speak(DEMO_SENTENCE)
    with reporter() as report:
        if options.soak is not None:
            found = live.soak(speech, options.sizes[0], options.soak, report.say)
        else:
            found = live.measure(speech, options.sizes, options.sessions, options.seconds, report.say)
    print(json.dumps(found, indent=1) if options.soak is not None else live.table(found))
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{options.output}: written")


def bench_speech(options: cli_bench.BenchSpeech) -> None:
    """The ablation of how speech is heard, which goes on where an earlier one in the same folder stopped."""
    from vivavoce.train.ablation import Ablation, ablate
    from vivavoce.train.data import read_manifest

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    torch.set_num_threads(1)
    ablation = Ablation(data=options.data, out=options.output, steps=options.steps, seeds=options.seeds)
    model, encoder = parts(options.output)
    with reporter() as report:
        table = ablate(ablation, model, encoder, report, report.say)
    print(table.read_text(), end="")
    print(f"{table}: written")


def bench_post(options: cli_bench.BenchPost) -> None:
    """The comparison of post-training, which goes on where an earlier one in the same folder stopped."""
    from vivavoce.apps import bench_post as told
    from vivavoce.generate import MotionGenerator
    from vivavoce.train.comparison import WAYS, Comparison, compare, findings
    from vivavoce.train.data import read_manifest
    from vivavoce.train.motion import MotionRecipe, prepare

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    comparison = Comparison(
        out=options.output, steps=options.steps, seeds=options.seeds, ways=options.ways or tuple(WAYS), count=options.stretches
    )
    folder = options.weights or shipped()
    require_file(folder / "motion.safetensors", "motion network")
    base = MotionGenerator.load(folder / "motion.safetensors")
    model, encoder = parts(folder)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with reporter() as report:
        recipe = MotionRecipe(data=options.data, out=options.output)
        examples = {split: prepare(recipe, split, model, encoder, report) for split in ("train", "val")}
        compare(comparison, base, model, examples, report, report.say)
    name = f"post-{options.steps}"
    print(told.write(findings(comparison), options.output, name), end="")
    print(f"{options.output / name}.md: written")


def bench_baselines(options: cli_bench.BenchBaselines) -> None:
    """The engine among baselines; the folder's videos and figures are kept."""
    from vivavoce.apps import rhubarb
    from vivavoce.train.data import read_manifest
    from vivavoce.train.standing import Bench, bench_baselines
    from vivavoce.train.takes import TakeConfig, chosen, fingerprint

    config = TakeConfig(seconds=options.seconds, most=options.most, people=options.people)
    clips = chosen(read_manifest(options.data, "val"), config)
    read_manifest(options.data, "train")  # before the folder for the results is made
    program = rhubarb.found()
    with reporter() as report:
        if program is None:
            report.say("rhubarb is not on the PATH: its mouth shapes are left out")
        cues = rhubarb.cues_of(clips, config.seconds, options.output / "cues", program, report) if program else None
        bench = Bench(data=options.data, out=options.output, config=config, weights=fingerprint(shipped()), mouths=cues)
        _, text = bench_baselines(bench, load_animator(), report, report.say)
    print(text, end="")
    _document(text, "baselines.md", (), options.output, options.document)


def bench_metrics(options: cli_bench.BenchMetrics) -> None:
    """Figures under controlled damage; the folder's videos and figures are kept."""
    from vivavoce.train.data import read_manifest
    from vivavoce.train.takes import TakeConfig, fingerprint
    from vivavoce.train.validation import bench_metrics

    read_manifest(options.data, "val")  # before the folder for the results is made
    config = TakeConfig(seconds=options.seconds, most=1, people=options.people)
    with reporter() as report:
        weights = fingerprint(shipped())
        text, plots = bench_metrics(options.data, options.output, config, weights, load_animator(), report, report.say)
    _document(text, "metrics.md", plots, options.output, options.document)


def _document(text: str, name: str, pictures: Sequence[Path], folder: Path, document: Path | None) -> None:
    """Text beside its pictures, in the folder where they are and, if asked, in another."""
    for place in filter(None, (folder, document)):
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
        for picture in pictures:
            if picture.parent != place:
                shutil.copyfile(picture, place / picture.name)
        print(f"{place / name}: written")
