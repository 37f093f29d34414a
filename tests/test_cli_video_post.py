"""`vivavoce train video-post`, as a user meets it: takes, then post-training, gone on with; and what will not do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_video_training import CONFIG
from tiny_base import save_base
from tiny_video import Loudness, make_recordings, quiet
from video_processes import LEVELS, PARTS, recipe_of

from vivavoce import animate_video
from vivavoce.apps import cli
from vivavoce.apps.parts import shipped
from vivavoce.latent.mesh import FaceModel
from vivavoce.latent.motion import MOTION_RATE_HZ
from vivavoce.latent.video import VideoSpace
from vivavoce.train import video_data
from vivavoce.train.video import Stage, train_video
from vivavoce.train.video_data import Base, make_cache
from vivavoce.train.video_loop import make_accelerator
from vivavoce.video_scene import VideoWindows

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, and what `train video` makes of recordings of nobody."""
    folder = tmp_path_factory.mktemp("post")
    base = save_base(folder / "base")
    clips, sounds = make_recordings(3, 13, FaceModel.load(shipped() / "face.safetensors"))
    space = VideoSpace.load(base, height=32, width=32, fps=MOTION_RATE_HZ)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_data, "load_sound", lambda path: sounds[path])
        make_cache(clips, folder / "run" / "latents", space, Loudness(), Base.of(base), CONFIG, quiet)
    train_video(recipe_of(
        folder / "run" / "latents", folder / "run", base=base, train_base=False, rank=2, levels=LEVELS, parts=PARTS,
        stages=(Stage(steps=1, aligned=True, lip_mask=False),),
    ), make_accelerator("no"), quiet, quiet)
    return folder


@pytest.fixture
def folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in place.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(animate_video, "VideoWindows", lambda **given: VideoWindows(**given, steps=2))
    return tmp_path


def test_an_adapter_is_post_trained_and_gone_on_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "train video-post run -o post --base base --objective forward_process --clips 2 --steps"
    assert cli.main([*line.split(), "2"]) == 0, capsys.readouterr().err
    assert f"{Path('post/adapter.safetensors')}: post-trained by forward_process for 2 steps" in capsys.readouterr().out
    takes = {file: file.stat().st_mtime_ns for file in Path("post/takes").glob("*.safetensors")}
    assert len(takes) == 2
    assert cli.main([*line.split(), "3"]) == 0  # goes on behind the second step, with the takes that are there
    assert "going on at step 2" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in takes} == takes
    step = torch.load("post/checkpoint.pt", weights_only=True)["step"]
    assert step == 3
    assert cli.main([*line.split(), "4", "--batch", "2"]) == 2  # another run
    assert "checkpoint.pt that is not of this run" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("line", "says"), [
    ("nowhere -o post --base base", "cache.json does not exist"),
    ("run -o post --base base --adapter none", "there is no adapter none"),
    ("run -o post --base nowhere", "there is no folder nowhere"),
    ("run -o post --base base --clips 0", "--clips is 0: give 1 or more"),
    ("run -o post --base base --steps 0", "--steps is 0: give 1 or more"),
    ("run -o post --base base --objective grpo", "--objective cannot be 'grpo'"),
])  # fmt: skip
def test_what_will_not_do_is_told_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    assert cli.main(f"train video-post {line}".split()) == 2
    err = capsys.readouterr().err
    assert says in err.splitlines()[-1], err
    assert not Path("post").exists()
