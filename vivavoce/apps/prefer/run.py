"""`vivavoce prefer`: takes, clips of them, and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from vivavoce.animate import LARGEST_SIZE, SMALLEST_SIZE, Animator
from vivavoce.apps.clips import Stage
from vivavoce.apps.posting import GROUPS, PAIRS
from vivavoce.apps.prefer.app import create_app
from vivavoce.apps.prefer.trials import Ballot, make_clips, trials
from vivavoce.apps.progress import reporter
from vivavoce.apps.server.run import address, listen, server
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.media.portrait import Portrait
from vivavoce.train.data import Clip, read_manifest
from vivavoce.train.motion import MotionRecipe, prepare
from vivavoce.train.rollout import RolloutRecipe, as_recorded, rollouts

if TYPE_CHECKING:
    from vivavoce.apps.cli import Prefer

SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 20.0  # of a take; pair_dpo learns from windows of up to the former
CLIPS = "clips"  # in the output folder, beside the takes and the answers


def prefer(options: Prefer) -> None:
    """Until Ctrl-C; every answer is kept as soon as it is given. ValueError or OSError where it cannot be begun."""
    for name, value, least in (("recordings", options.recordings, 1), ("takes", options.takes, 2), ("seed", options.seed, 0)):
        if value < least:
            raise ValueError(f"--{name} is {value}: give {least} or more")
    if not SHORTEST_SECONDS <= options.seconds <= LONGEST_SECONDS:
        raise ValueError(f"--seconds is {options.seconds:g}: give {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g}")
    if not SMALLEST_SIZE <= options.size <= LARGEST_SIZE:
        raise ValueError(f"--size is {options.size}: give {SMALLEST_SIZE} to {LARGEST_SIZE} pixels")
    clips = {clip.name: clip for clip in read_manifest(options.data, "train")}
    portrait = Portrait.open(options.portrait)
    with listen("127.0.0.1", options.port) as listening:
        ballot = prepared(options, clips, portrait)
        where = address("127.0.0.1", listening.getsockname()[1])
        left = len(ballot.trials) - ballot.answered
        print(f"{where} has {left} pairs to judge; answers go to {options.output / PAIRS}; Ctrl-C ends", flush=True)
        server(create_app(ballot, options.output / CLIPS)).run(sockets=[listening])


def prepared(options: Prefer, clips: Mapping[str, Clip], portrait: Portrait) -> Ballot:
    """Recordings tracked, takes made and rendered, as far as that was not done before."""
    torch.set_num_threads(1)
    animator = Animator.load(options.weights)
    generator, space = animator.generator, animator.space
    recipe = RolloutRecipe(count=options.recordings, group=options.takes, seconds=options.seconds, seed=options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    with reporter() as report:
        motion = MotionRecipe(data=options.data, out=options.output)
        examples = as_recorded(prepare(motion, "train", space.model, animator.encoder, report))
        rolled = rollouts(
            generator, examples, recipe, options.output / GROUPS, rate_hz=MOTION_RATE_HZ, progress=report
        )
        reference = space.reference(portrait, size=options.size, crop=True)
        make_clips(rolled, examples, Stage(space, reference, generator, clips), options.output / CLIPS, report)
    return Ballot(trials(rolled, examples, options.seed), options.output / PAIRS)
