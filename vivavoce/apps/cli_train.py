"""Options of `vivavoce train`. What the commands do is in `commands_train.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from tyro.conf import Positional, arg, subcommand

from vivavoce.apps.cli_base import Folder, Learning, Recordings, Seed, SplitRecordings, Steps, Weights, check_seed


@dataclass(frozen=True, kw_only=True)
class TrainFace(Recordings):
    """Learn the face model: how faces differ, and how they move. Needs recordings of more than forty people."""

    output: Folder
    """Folder for the tracked recordings and face.safetensors; tracks that are there already are used."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_face


@dataclass(frozen=True, kw_only=True)
class TrainMotion(Learning, Recordings):
    """Train the network from speech to facial motion, for the face model in FOLDER, or else the one that ships."""

    output: Folder
    """Folder for checkpoints, the log of losses and the weights; goes on where an earlier run in it stopped."""

    encoder: Annotated[tuple[str, ...], arg(metavar="NAME", help_behavior_hint="(default: the one that ships)")] = ("streams",)
    """Speech encoders to hear with: "streams", the one that ships; or a wav2vec 2.0, HuBERT or Whisper checkpoint with layers,
    such as /models/hubert-base:6,9; or several, side by side."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_motion


@dataclass(frozen=True, kw_only=True)
class TrainPhonetic(Learning):
    """Train the network that hears which sounds are being spoken, on a corpus of speech with timed phones."""

    corpus: Annotated[Positional[Path], arg(metavar="CORPUS", help_behavior_hint="")]
    """Folder made by `vivavoce train corpus`."""
    output: Folder
    """Folder for features, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_phonetic


@dataclass(frozen=True, kw_only=True)
class TrainCorpus(Recordings):
    """Make speech whose phones are known, to train the phonetic network: texts spoken by espeak-ng, and aligned recordings."""

    output: Folder
    """Folder for the corpus; what is in it already is kept, and the rest is added."""
    texts: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Folder of texts to speak, a sentence per line: en.txt, de.txt, zh.txt and so on. Without it only recordings are aligned."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_corpus


@dataclass(frozen=True, kw_only=True)
class TrainRenderer(Learning, SplitRecordings):
    """Train the network that refines frames: what a warped portrait cannot show, such as teeth and closed eyelids."""

    output: Folder
    """Folder for pairs of frames, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_renderer


@dataclass(frozen=True, kw_only=True)
class TrainPost(Recordings):
    """Post-train the motion network on what it makes itself, and judge what that bought on the recordings of the split `val`."""

    output: Folder
    """Folder for rollouts, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    objective: Literal["sft", "ladder_dpo", "pair_dpo", "forward_process", "grpo"] = "forward_process"
    """How: supervised, by ReFree-S2V's ladder of masked speech, by what people preferred, by DiffusionNFT with rewards from the
    ladder or from scorers, or by GRPO with rewards from the recording or from a judge."""
    rewards: Literal["ladder", "scores"] = "ladder"
    """For forward_process: how little of the speech a take was made without, or how near to the recording it is by grpo's
    rewards."""
    pairs: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: pairs.jsonl in the output folder)")] = None
    """Answers of `vivavoce prefer`, for pair_dpo; the takes lie beside them."""
    judge: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """For grpo: have takes judged by a multimodal model there (docs/model-judge.md), such as http://localhost:8000/v1. Its key is
    $VIVAVOCE_JUDGE_KEY."""
    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Which model judges."""
    portrait: Annotated[Path | None, arg(metavar="PORTRAIT", help_behavior_hint="")] = None
    """Picture of the face that the judge sees."""
    steps: Steps = None
    """Updates of the weights."""
    seed: Seed = 0
    """Equal seeds give equal weights."""
    weights: Weights = None
    """Folder with the motion.safetensors to begin with; the ones that ship are post-trained already."""

    def check(self) -> None:
        check_seed(self.seed)

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_post


@dataclass(frozen=True, kw_only=True)
class TrainVideo(Learning, Recordings):
    """Teach a pretrained video network of the Wan family to speak. On several GPUs: accelerate launch -m vivavoce train ..."""

    output: Folder
    """Folder for clips, latents, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    base: Annotated[str, arg(metavar="PATH|HUB_ID")]
    """Folder of a pipeline that diffusers saved, or its name on the Hugging Face hub, like Wan-AI/Wan2.2-TI2V-5B-Diffusers."""
    stage: Literal["both", "clip", "frame"] = "both"
    """What it learns: how voices and faces go together over a whole clip, or which lips go with which sound, or one after the
    other."""
    side: Annotated[int, arg(metavar="PX")] = 480
    """Width and height of the pictures that heads are cut to."""
    ears: Annotated[int, arg(metavar="N")] = 400
    """Updates of the ears alone, before all others, by what tracked lips do; 0 for none."""
    batch: Annotated[int, arg(metavar="N")] = 1
    """Windows of video per process and update: as many as fit into memory."""
    from_nothing: bool = False
    """The base is not pretrained: all of it learns, and is saved in the output folder."""
    encoder: Annotated[tuple[str, ...], arg(metavar="NAME", help_behavior_hint="(default: the one that ships)")] = ("streams",)
    """Speech encoders to hear with, as in `vivavoce train motion`."""

    def check(self) -> None:
        super().check()
        if self.batch < 1:
            raise ValueError(f"--batch is {self.batch}: give 1 or more")
        if self.ears < 0:
            raise ValueError(f"--ears is {self.ears}: give 0 (none) or more")
        if self.steps is not None and self.steps < (2 if self.stage == "both" else 1):
            raise ValueError(f"--steps is {self.steps}: give one for each stage at least")

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_video


@dataclass(frozen=True, kw_only=True)
class TrainVideoVAE(Learning, Recordings):
    """Train a tiny autoencoder of video, in the format of diffusers' AutoencoderKLWan: 128 px, for bases of one's own."""

    output: Folder
    """Folder for clips, checkpoint, the log and, in the end, the autoencoder; goes on where an earlier run in it stopped."""
    side: Annotated[int, arg(metavar="PX")] = 128
    """Width and height of the pictures that heads are cut to."""
    decoder_of: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """A finished autoencoder, of which only the decoder goes on learning, from longer stretches: against colours that drift."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_video_vae


@dataclass(frozen=True, kw_only=True)
class TrainVideoPost(Learning):
    """Post-train a video network that learned to speak on what it makes itself: takes of clips, some of which could hear less."""

    run_folder: Annotated[Positional[Path], arg(name="run", metavar="RUN", help_behavior_hint="")]
    """Folder that `vivavoce train video` filled: its clips' latents, and its adapter."""
    output: Folder
    """Folder for takes, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    base: Annotated[str, arg(metavar="PATH|HUB_ID")]
    """The base that the adapter was trained with, as for `vivavoce train video`; RUN itself after --from-nothing."""
    adapter: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the one in RUN)")] = None
    """What is post-trained."""
    objective: Literal["sft", "ladder_dpo", "forward_process"] = "ladder_dpo"
    """How: supervised, by ReFree-S2V's ladder of masked speech, or by DiffusionNFT with rewards from the ladder."""
    clips: Annotated[int, arg(metavar="N")] = 24
    """Clips of which takes are made, three of each."""
    batch: Annotated[int, arg(metavar="N")] = 1
    """Windows of video per process and update; each is seen four times, as recorded and in each take."""

    def check(self) -> None:
        super().check()
        for name, value in (("clips", self.clips), ("batch", self.batch), ("steps", self.steps)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}: give 1 or more")

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_video_post


@dataclass(frozen=True, kw_only=True)
class TrainSync(Learning, SplitRecordings):
    """Train the sync expert, which judges whether lips move as the sound says."""

    output: Folder
    """Folder for prepared clips, checkpoints, the log and the weights; goes on where an earlier run in it stopped."""
    steps: Steps = None
    """Updates of the weights, of each of the two pairs of networks."""

    def work(self) -> Callable[[Self], None]:
        from vivavoce.apps import commands_train

        return commands_train.train_sync


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one of the models on recordings of your own."""

    model: (
        Annotated[TrainFace, subcommand("face")]
        | Annotated[TrainCorpus, subcommand("corpus")]
        | Annotated[TrainPhonetic, subcommand("phonetic")]
        | Annotated[TrainMotion, subcommand("motion")]
        | Annotated[TrainRenderer, subcommand("renderer")]
        | Annotated[TrainPost, subcommand("post")]
        | Annotated[TrainSync, subcommand("sync")]
        | Annotated[TrainVideo, subcommand("video")]
        | Annotated[TrainVideoPost, subcommand("video-post")]
        | Annotated[TrainVideoVAE, subcommand("video-vae")]
    )

    def run(self) -> None:
        self.model.run()
