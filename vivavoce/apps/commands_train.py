"""What `vivavoce train` does: recipes from options, and where the weights are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vivavoce.apps.parts import parts, shipped
from vivavoce.apps.progress import reporter
from vivavoce.media.files import require_file
from vivavoce.speech.streams import listened_streams
from vivavoce.train.data import read_manifest

if TYPE_CHECKING:
    from vivavoce.apps import cli_train


def train_face(options: cli_train.TrainFace) -> None:
    """The face model's recipe."""
    from vivavoce.train.face import FaceConfig, train_face

    with reporter() as report:
        weights = train_face(options.data, options.output, report, FaceConfig())
    print(f"{weights}: learned")


def train_phonetic(options: cli_train.TrainPhonetic) -> None:
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


def train_motion(options: cli_train.TrainMotion) -> None:
    """Runs the recipe of the motion network, which goes on where an earlier run in the same folder stopped."""
    from vivavoce.train.motion import MotionRecipe, train_motion

    read_manifest(options.data, "train")  # before the folder for the results is made
    recipe = MotionRecipe(data=options.data, out=options.output, seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    model, encoder = parts(options.output, options.encoder)
    recipe = replace(recipe, levels={"listen": listened_streams(encoder.spec.streams)})
    torch.set_num_threads(1)
    with reporter() as report:
        weights = train_motion(recipe, model, encoder, report, report.say)
    print(f"{weights}: trained for {recipe.steps} steps")


def train_renderer(options: cli_train.TrainRenderer) -> None:
    """Runs the recipe of the refiner, which goes on where an earlier run in the same folder stopped."""
    from vivavoce.train.renderer import RendererRecipe, prepare_units, train_renderer

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    recipe = RendererRecipe(data=options.data, out=options.output, seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    model, _ = parts(options.output)
    with reporter() as report:
        weights = train_renderer(recipe, prepare_units(recipe, model, report), report, report.say)
    print(f"{weights}: trained for {recipe.steps} steps")


def train_post(options: cli_train.TrainPost) -> None:
    """Post-training, what it needs before, and the verdict on the split `val`; each goes on where an earlier run stopped."""
    from vivavoce.apps import posting
    from vivavoce.apps.verdicts import write_verdict
    from vivavoce.generate import MotionGenerator
    from vivavoce.train.motion import MotionRecipe, prepare
    from vivavoce.train.verdict import glance

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    posting.check(options)
    folder = options.weights or shipped()
    require_file(folder / "motion.safetensors", "motion network")
    base = MotionGenerator.load(folder / "motion.safetensors")
    model, encoder = parts(folder)
    train = posting.trainer(options, base, model)
    torch.set_num_threads(1)
    with reporter() as report:
        motion = MotionRecipe(data=options.data, out=options.output)
        examples = {split: prepare(motion, split, model, encoder, report) for split in ("train", "val")}
        weights = train(examples["train"], report, lambda made: glance(made, examples["val"], model))
        table = write_verdict(options.output, MotionGenerator.load(weights), base, examples["val"], model, report)
    print(table)
    print(f"{weights}: post-trained by {options.objective}")


def train_sync(options: cli_train.TrainSync) -> None:
    """Runs the recipe of the sync expert, which goes on where an earlier run in the same folder stopped."""
    from vivavoce.train.loop import check_claim
    from vivavoce.train.sync import FILES, TOLD, SyncRecipe, identity_of, new_template, prepare_clips, train_sync

    for split in ("train", "val"):
        read_manifest(options.data, split)  # before the folder for the results is made
    recipe = SyncRecipe(data=options.data, out=options.output, seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    torch.set_num_threads(1)
    model, _ = parts(options.output)
    check_claim(recipe.out, identity_of(recipe, new_template(model)), FILES, TOLD)  # preparing takes long
    with reporter() as report:
        clips, judged = (prepare_clips(recipe, split, model, report) for split in ("train", "val"))
        weights = train_sync(recipe, clips, judged, new_template(model), report, report.say)
    print(f"{weights}: trained for {recipe.steps} steps each")


def train_video(options: cli_train.TrainVideo) -> None:
    """Cuts clips, encodes them and runs the recipe, each going on where an earlier run stopped; one of as many processes as
    `accelerate launch` started. The first of them cuts the clips and talks; encoding is shared."""
    from vivavoce.latent.motion import MOTION_RATE_HZ
    from vivavoce.latent.video import VideoSpace
    from vivavoce.train.loop import check_claim
    from vivavoce.train.video import FILES, VideoRecipe, identity_of, stages_of, train_video
    from vivavoce.train.video_clips import ClipConfig, load_clips, make_clips
    from vivavoce.train.video_data import Base, CacheConfig, make_cache
    from vivavoce.train.video_loop import make_accelerator

    recordings = read_manifest(options.data, "train")  # before the folder for the results is made
    base = Base.of(options.base)
    accelerator = make_accelerator()
    first = accelerator.is_main_process
    space = VideoSpace.load(
        options.base, height=options.side, width=options.side, fps=MOTION_RATE_HZ, device=accelerator.device,
    )
    _, encoder = parts(options.output, options.encoder)
    recipe = VideoRecipe(
        base=options.base, cache=options.output / "latents", out=options.output, seed=options.seed, batch=options.batch,
        stages=stages_of(options.stage, options.steps), train_base=options.from_nothing, checkpointing=not options.from_nothing,
        ears=options.ears,
    )
    check_claim(recipe.out, identity_of(recipe, accelerator), FILES)  # preparing takes long
    folder = options.output / "clips"
    if accelerator.num_processes == 1:
        torch.set_num_threads(1)
    with reporter() as report:
        watch, say = (report, report.say) if first else (_unwatched, _unsaid)
        if first:
            make_clips(recordings, folder, options.output / "tracks", watch, ClipConfig(side=options.side))
        accelerator.wait_for_everyone()
        make_cache(
            load_clips(folder, "train"), recipe.cache, space, encoder, base, CacheConfig(), watch,
            process=accelerator.process_index, processes=accelerator.num_processes,
        )
        accelerator.wait_for_everyone()
        del space
        weights = train_video(recipe, accelerator, watch, say)
    if first:
        print(f"{weights}: trained for {recipe.steps} steps")


def train_video_vae(options: cli_train.TrainVideoVAE) -> None:
    """Cuts clips and trains, each going on where an earlier run stopped."""
    from vivavoce.components import module
    from vivavoce.train.loop import check_claim
    from vivavoce.train.video_clips import ClipConfig, load_clips, make_clips
    from vivavoce.train.video_vae import FILES, TOLD, VideoVAERecipe, identity_of, train_video_vae

    module("diffusers")  # is refused before anything is done
    recordings = read_manifest(options.data, "train")
    recipe = VideoVAERecipe(out=options.output, seed=options.seed)
    if options.decoder_of is not None:
        require_file(options.decoder_of / "config.json", "autoencoder")
        recipe = recipe.lengthened(options.decoder_of)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    check_claim(recipe.out, identity_of(recipe), FILES, TOLD)  # preparing takes long
    torch.set_num_threads(1)
    with reporter() as report:
        make_clips(recordings, options.output / "clips", options.output / "tracks", report, ClipConfig(side=options.side))
        folder = train_video_vae(recipe, load_clips(options.output / "clips", "train"), report, report.say)
    print(f"{folder}: trained for {recipe.steps} steps")


def train_video_post(options: cli_train.TrainVideoPost) -> None:
    """Takes of clips, then the recipe, each going on where an earlier run stopped; one of as many processes as `accelerate
    launch` started, which share the takes."""
    from vivavoce.animate_video import adapter_windows
    from vivavoce.train.loop import check_claim
    from vivavoce.train.video import ADAPTER, FILES
    from vivavoce.train.video_loop import make_accelerator
    from vivavoce.train.video_post import VideoPostRecipe, identity_of, post_train_video
    from vivavoce.train.video_rollout import VideoRolloutRecipe, policy_of, video_rollouts

    adapter, cache = options.adapter or options.run_folder / ADAPTER, options.run_folder / "latents"
    require_file(cache / "cache.json", "latents of `vivavoce train video`")
    windows = adapter_windows(adapter)  # before anything large is loaded
    recipe = VideoPostRecipe(
        base=options.base, adapter=adapter, cache=cache, out=options.output, objective=options.objective, batch=options.batch,
        seed=options.seed,
    )
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    accelerator = make_accelerator()
    check_claim(recipe.out, identity_of(recipe, accelerator), FILES)  # takes take long
    first = accelerator.is_main_process
    if accelerator.num_processes == 1:
        torch.set_num_threads(1)
    with reporter() as report:
        watch, say = (report, report.say) if first else (_unwatched, _unsaid)
        generator, drawn = policy_of(recipe, windows, accelerator)
        ladder = VideoRolloutRecipe(
            count=options.clips, ratios=recipe.ratios, shortest=drawn.config.latents, latents=3 * drawn.config.latents,
            seed=options.seed,
        )
        rolled = video_rollouts(
            generator, drawn, ladder, options.output / "takes", watch, process=accelerator.process_index,
            processes=accelerator.num_processes, wait=accelerator.wait_for_everyone,
        )
        del generator, drawn
        weights = post_train_video(recipe, rolled, accelerator, watch, say)
    if first:
        print(f"{weights}: post-trained by {options.objective} for {recipe.steps} steps")


def _unwatched(_: str, __: int, ___: int) -> None:
    """What a process does that is not the first."""


def _unsaid(_: str) -> None:
    """What it has to say."""


def train_corpus(options: cli_train.TrainCorpus) -> None:
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
