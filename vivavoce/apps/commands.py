"""What the commands of the command line do: open, run, write. Imports heavy modules, so it comes after the options."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import skimage.data
import torch

from vivavoce.animate import Animator, Controls
from vivavoce.apps import export, interrupt
from vivavoce.apps.progress import reporter, shown
from vivavoce.latent.mesh import FaceModel
from vivavoce.media.audio import Audio, has_sound, probe_audio, read_audio
from vivavoce.media.files import check_writable, require_file
from vivavoce.media.portrait import Portrait
from vivavoce.media.speak import speak
from vivavoce.media.video import VideoWriter, check_output, read_frames, video_seconds
from vivavoce.speech.encoder import SpeechEncoder
from vivavoce.speech.encoders import STREAMS, open_encoder
from vivavoce.speech.streams import SpeechStreams, listened_streams

if TYPE_CHECKING:
    from vivavoce.apps import cli

DEMO_SENTENCE = "Hello! I am a portrait, and this is my voice. One picture and a few words are all that I need to speak."


def demo(options: cli.Demo) -> None:
    """The main job on a picture and a voice that every installation has."""
    check_output(options.output, options.overwrite)
    speech = speak(DEMO_SENTENCE, voice="en")
    portrait = Portrait(image=skimage.data.astronaut(), name="astronaut")
    frames = _animator().animate(portrait, speech)
    _write(frames, options.output, fps=25.0, sound=speech, seconds=speech.duration, overwrite=options.overwrite)


def animate(options: cli.Animate) -> None:
    """A portrait speaks a recording, which is read in blocks, or a text."""
    render = options.render
    check_output(options.output, render.overwrite)
    portrait = Portrait.open(options.portrait, face=render.face)
    speech: Audio | Iterable[Audio]
    sound: Audio | Path
    if options.text is not None:
        speech = sound = speak(options.text, voice=options.voice)
        seconds = speech.duration
    else:
        assert options.speech is not None  # Animate.check saw to it
        sound, seconds = options.speech, probe_audio(options.speech).duration_seconds
        speech = read_audio(options.speech)
    frames = _animator().animate(
        portrait, speech, fps=render.fps, size=render.size, crop=render.crop, seed=options.seed, guidance=options.guidance,
        controls=Controls(expression=render.expression, head=render.head, blink=render.blink, gaze=render.gaze),
    )
    _write(frames, options.output, fps=render.fps, sound=sound, seconds=seconds, overwrite=render.overwrite)


def drive(options: cli.Drive) -> None:
    """A portrait moves as a recorded face does."""
    render = options.render
    check_output(options.output, render.overwrite)
    portrait, seconds = Portrait.open(options.portrait, face=render.face), video_seconds(options.video)
    animator = _animator()
    rate = animator.space.spec.fps
    recorded = shown(read_frames(options.video, rate), total=_count(seconds, rate), what="tracking")
    controls = Controls(expression=render.expression, head=render.head, gaze=render.gaze)
    frames = animator.drive(portrait, recorded, fps=render.fps, size=render.size, crop=render.crop, controls=controls)
    sound = options.video if has_sound(options.video) else None
    _write(frames, options.output, fps=render.fps, sound=sound, seconds=seconds, overwrite=render.overwrite)


def track(options: cli.Track) -> None:
    """The motion of a recorded face, as a table."""
    check_writable(options.output, export.SUFFIXES, options.overwrite)
    seconds = video_seconds(options.video)
    space = _animator().space
    rate = space.spec.fps
    with closing(shown(read_frames(options.video, rate), total=_count(seconds, rate), what="tracking")) as frames:
        latents = space.encode(frames)
    interrupt.check()
    export.write_table(options.output, space.layout.unpack(latents[0]), rate)
    print(f"{options.output}: {latents.shape[1]} frames at {rate:g} per second")


def train_face(options: cli.TrainFace) -> None:
    """The face model's recipe."""
    from vivavoce.train.face import FaceConfig, train_face

    with reporter() as report:
        weights = train_face(options.data, options.output, report, FaceConfig())
    print(f"{weights}: learned")


def train_phonetic(options: cli.TrainPhonetic) -> None:
    """Runs the recipe of the phonetic network, which goes on where an earlier run in the same folder stopped."""
    from vivavoce.speech.phones import PHONES
    from vivavoce.speech.phonetic import PhoneticNetwork
    from vivavoce.train.corpus import read_corpus
    from vivavoce.train.phonetic import PhoneticRecipe, train_phonetic

    read_corpus(options.corpus, "train")  # before the folder for the results is made
    recipe = PhoneticRecipe(corpus=options.corpus, out=options.output, seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    torch.set_num_threads(1)
    with reporter() as report:
        weights = train_phonetic(recipe, PhoneticNetwork.Config(phones=len(PHONES)), report, report.say)
    print(f"{weights}: trained for {recipe.steps} steps")


def train_motion(options: cli.TrainMotion) -> None:
    """Runs the recipe of the motion network, which goes on where an earlier run in the same folder stopped."""
    from vivavoce.train.data import read_manifest
    from vivavoce.train.motion import MotionRecipe, train_motion

    read_manifest(options.data, "train")  # before the folder for the results is made
    recipe = MotionRecipe(data=options.data, out=options.output, seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    model, encoder = _parts(options.output, options.encoder)
    recipe = replace(recipe, levels={"listen": listened_streams(encoder.spec.streams)})
    torch.set_num_threads(1)
    with reporter() as report:
        weights = train_motion(recipe, model, encoder, report, report.say)
    print(f"{weights}: trained for {recipe.steps} steps")


def train_renderer(options: cli.TrainRenderer) -> None:
    """Runs the recipe of the refiner, which goes on where an earlier run in the same folder stopped."""
    from vivavoce.train.data import read_manifest
    from vivavoce.train.renderer import RendererRecipe, prepare_units, train_renderer

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    recipe = RendererRecipe(data=options.data, out=options.output, seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    model, _ = _parts(options.output)
    with reporter() as report:
        weights = train_renderer(recipe, prepare_units(recipe, model, report), report, report.say)
    print(f"{weights}: trained for {recipe.steps} steps")


def train_post(options: cli.TrainPost) -> None:
    """Post-training, what it needs before, and the verdict on the split `val`; each goes on where an earlier run stopped."""
    from vivavoce.apps import posting
    from vivavoce.apps.verdicts import write_verdict
    from vivavoce.generate import MotionGenerator
    from vivavoce.train.data import read_manifest
    from vivavoce.train.motion import MotionRecipe, prepare

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    posting.check(options)
    folder = options.weights or _shipped()
    require_file(folder / "motion.safetensors", "weights of the motion network")
    base = MotionGenerator.load(folder / "motion.safetensors")
    model, encoder = _parts(folder)
    train = posting.trainer(options, base, model)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with reporter() as report:
        motion = MotionRecipe(data=options.data, out=options.output)
        examples = {split: prepare(motion, split, model, encoder, report) for split in ("train", "val")}
        weights = train(examples["train"], report)
        table = write_verdict(options.output, MotionGenerator.load(weights), base, examples["val"], model, report)
    print(table)
    print(f"{weights}: post-trained by {options.objective}")


def train_sync(options: cli.TrainSync) -> None:
    """Runs the recipe of the sync expert, which goes on where an earlier run in the same folder stopped."""
    from vivavoce.train.data import read_manifest
    from vivavoce.train.sync import SyncRecipe, new_template, prepare_clips, train_sync

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    recipe = SyncRecipe(data=options.data, out=options.output, seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    torch.set_num_threads(1)
    model, _ = _parts(options.output)
    with reporter() as report:
        clips, judged = (prepare_clips(recipe, split, model, report) for split in ("train", "val"))
        weights = train_sync(recipe, clips, judged, new_template(model), report, report.say)
    print(f"{weights}: trained for {recipe.steps} steps each")


def train_corpus(options: cli.TrainCorpus) -> None:
    """Speaks texts and aligns recordings; everything that can be wrong is found out before the folder is made."""
    from vivavoce.speech.align import Aligner
    from vivavoce.train.corpus import Writer
    from vivavoce.train.recorded import RecordedConfig, find_recordings, make_recorded
    from vivavoce.train.synthetic import SyntheticConfig, make_synthetic, read_texts

    torch.set_num_threads(1)
    recorded, synthetic = RecordedConfig(), SyntheticConfig()
    recordings, aligner = find_recordings(options.data, recorded), Aligner()
    texts = {} if options.texts is None else read_texts(options.texts, synthetic)
    with reporter() as report:
        writer = Writer(options.output)
        make_synthetic(texts, writer, report, synthetic)
        make_recorded(recordings, writer, aligner, report, recorded)
    print(f"{options.output}: {len(writer)} utterances")


def inspect_levels(options: cli.Inspect) -> None:
    """Which block listens to which level."""
    from vivavoce.apps import inspect

    if options.output is not None:
        check_writable(options.output, inspect.SUFFIXES, options.overwrite)
    net = inspect.load_network(options.weights or _shipped())
    print(inspect.level_table(net))
    if options.output is not None:
        inspect.plot_levels(net, options.output)
        print(f"{options.output}: drawn")


def bench_render(options: cli.BenchRender) -> None:
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


def bench_live(options: cli.BenchLive) -> None:
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


def bench_speech(options: cli.BenchSpeech) -> None:
    """The ablation of how speech is heard, which goes on where an earlier one in the same folder stopped."""
    from vivavoce.train.ablation import Ablation, ablate
    from vivavoce.train.data import read_manifest

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    torch.set_num_threads(1)
    ablation = Ablation(data=options.data, out=options.output, steps=options.steps, seeds=options.seeds)
    model, encoder = _parts(options.output)
    with reporter() as report:
        table = ablate(ablation, model, encoder, report, report.say)
    print(table.read_text(), end="")
    print(f"{table}: written")


def bench_baselines(options: cli.BenchBaselines) -> None:
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
        bench = Bench(data=options.data, out=options.output, config=config, weights=fingerprint(_shipped()), mouths=cues)
        _, text = bench_baselines(bench, _animator(), report, report.say)
    print(text, end="")
    _document(text, "baselines.md", (), options.output, options.document)


def bench_metrics(options: cli.BenchMetrics) -> None:
    """Figures under controlled damage; the folder's videos and figures are kept."""
    from vivavoce.train.data import read_manifest
    from vivavoce.train.takes import TakeConfig, fingerprint
    from vivavoce.train.validation import bench_metrics

    read_manifest(options.data, "val")  # before the folder for the results is made
    config = TakeConfig(seconds=options.seconds, most=1, people=options.people)
    with reporter() as report:
        weights = fingerprint(_shipped())
        text, plots = bench_metrics(options.data, options.output, config, weights, _animator(), report, report.say)
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


def evaluate(options: cli.Evaluate) -> None:
    """Judges, and says where the report is and what it says in short."""
    from vivavoce.judge.evaluation import Options
    from vivavoce.judge.evaluation import evaluate as judge
    from vivavoce.judge.pairs import read_pairs
    from vivavoce.judge.published import Weights, published
    from vivavoce.judge.report import KEPT
    from vivavoce.judge.sets import SETS
    from vivavoce.judge.standard import absent
    from vivavoce.judge.words import counted, short_table

    pairs = read_pairs(options.pairs)
    standard, figures, sets = published(Weights(**vars(options.networks)), options.output / KEPT)
    torch.set_num_threads(1)
    with reporter() as report:
        found = judge(
            pairs, options.output, options=Options(rewards=options.rewards, seed=options.seed, notes=tuple(absent(standard))),
            further=figures, sets=(*SETS, *sets), progress=report,
        )
    print(short_table(found))
    for row in found.rows:
        if row.problem:
            print(f"not judged: {row.pair.name} ({row.pair.system}): {row.problem}")
    print(counted(found))
    print(f"{options.output / 'index.html'}: written")


def _shipped() -> Path:
    return Path(str(resources.files("vivavoce") / "weights"))


def _parts(folder: Path, encoder: Sequence[str] = (STREAMS,)) -> tuple[FaceModel, SpeechEncoder]:
    """Face model and speech encoder for training: those in the folder, where it has its own, or else the ones that ship."""
    face, phonetic = folder / "face.safetensors", folder / "phonetic.safetensors"
    model = FaceModel.load(face if face.is_file() else _shipped() / face.name)
    if tuple(encoder) == (STREAMS,) and phonetic.is_file():
        return model, SpeechStreams.load(phonetic)
    return model, open_encoder(*encoder)


def _animator() -> Animator:
    """The shipped models, on one thread: the network is so small that a second would wait, and the encoder wants its core."""
    torch.set_num_threads(1)
    return Animator.load()


def _write(
    frames: Iterator[np.ndarray], output: Path, *, fps: float, sound: Audio | Path | None, seconds: float | None, overwrite: bool
) -> None:
    """Frames to a video that appears when it is complete. The portrait is examined before the file is begun."""
    started = time.monotonic()
    count = 0
    # Closed here, not when the garbage collector comes by: an error message must not meet a bar that is still being drawn.
    with closing(shown(frames, total=_count(seconds, fps), what="rendering")) as progress:
        first = next(progress)
        height, width = first.shape[:2]
        with VideoWriter(output, fps=fps, size=(width, height), sound=sound, overwrite=overwrite) as writer:
            for frame in chain([first], progress):
                writer.write(frame)
                count += 1
            writer.finish()
            interrupt.check()
            width, height = writer.size
    spent = time.monotonic() - started
    print(f"{output}: {count} frames of {width}x{height}, {count / fps:.1f} s, made in {spent:.1f} s")


def _count(seconds: float | None, rate: float) -> int | None:
    return None if seconds is None else round(seconds * rate)
