"""`vivavoce animate --engine wan` and `bench video`, as a user meets them."""

from __future__ import annotations

import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from tiny_base import save_adapter, save_base
from tiny_wan_net import load_tiny_wan

from vivavoce.animate import Controls
from vivavoce.apps import bench_video, cli, commands_video
from vivavoce.media.audio import Audio
from vivavoce.media.portrait import Portrait

pytest.importorskip("diffusers")
pytest.importorskip("peft")

LINE = "animate face.png speech.wav -o out.mp4 --engine wan --base base --device cpu --size 96 --steps 2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a portrait, speech, a base and an adapter."""
    folder = tmp_path_factory.mktemp("place")
    save_adapter(save_base(folder / "base"), folder / "adapter.safetensors")
    Image.fromarray(skimage.data.astronaut()[:256, 96:352]).save(folder / "face.png")
    tone = (8000 * np.sin(np.arange(9600) / 9)).astype("<i2")
    with wave.open(str(folder / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(tone.tobytes())
    return folder


@pytest.fixture
def folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in place.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_portrait_speaks_by_a_base_and_an_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(f"{LINE} --adapter adapter.safetensors --prompt a --offload model --guidance 2".split()) == 0
    out, err = capsys.readouterr()
    assert "out.mp4: 15 frames of 96x96, 0.6 s" in out
    assert "Traceback" not in err and "Warning" not in err
    with av.open("out.mp4") as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == 25
    with av.open("out.mp4") as video:
        assert video.streams.audio[0].codec_context.name == "aac"
    assert len(pictures) == 15 and pictures[0].shape == (96, 96, 3)
    assert float(np.abs(pictures[0].astype(float) - pictures[-1]).mean()) > 1  # it moves


def test_without_an_adapter_it_says_what_it_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(f"{LINE} --fps 10".split()) == 0
    out, err = capsys.readouterr()
    assert "the base alone makes the picture move, and does not hear the speech" in err
    assert "6 frames" in out


class StandIn:
    """The motion engine: remembers what it was asked."""

    calls: ClassVar[list[dict[str, Any]]] = []

    @classmethod
    def load(cls) -> StandIn:
        return cls()

    def animate(self, portrait: Portrait, audio: Audio, **options: Any) -> Iterator[np.ndarray]:
        self.calls.append(options)
        return iter([portrait.image] * 6)


def test_the_motion_engine_guides(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands_video, "Animator", StandIn)
    line = f"{LINE} --adapter adapter.safetensors --guide 0.9 --head 2 --fps 10 --seed 4"
    assert cli.main(line.split()) == 0, capsys.readouterr().err
    assert StandIn.calls == [{"fps": 10.0, "seed": 4, "size": 96, "controls": Controls(head=2.0)}]


@pytest.mark.parametrize(("line", "says"), [
    ("--steps 5", "--steps is an option of the video engine: give --engine wan too"),
    ("--base base", "--base is an option of the video engine"),
    ("--offload model", "--offload is an option of the video engine"),
    ("--tiling", "--tiling is an option of the video engine"),
    ("--text-guidance 2", "--text-guidance is an option of the video engine"),
    ("--engine wan", "--engine wan needs --base"),
    ("--engine wan --base base --head 2", "--head shapes the motion engine's video, with --engine wan its guide: give --guide"),
    ("--engine wan --base nowhere", "there is no folder nowhere: give a pipeline's folder"),
    ("--engine wan --base .", "has no vae/config.json"),
    ("--engine wan --base base --adapter none", "there is no adapter none"),
    ("--engine wan --base base --adapter face.png", "the adapter face.png can't be read"),
    ("--engine wan --base base --device tpu", "there is no device 'tpu'"),
    ("--engine wan --base base --device cuda:99", "the device cuda:99 is not there"),
    ("--engine wan --base base --steps 0", "0 solver steps were asked for"),
    ("--engine wan --base base --guidance -1", "a guidance of -1 by the speech was asked for"),
    ("--engine wan --base base --guide 1", "--guide is 1: give 0"),
    ("--engine wan --base base --size 8", "a video of 8 pixels was asked for: give 32 or more"),
    ("--engine wan --base base --intensity 0.5 0.5", "without a dial for intensity"),
    ("--engine wan --base base --intensity 0.5 2", "--intensity is 0.5 2: give numbers from 0 to 1"),
    ("--engine dream", "--engine cannot be 'dream'"),
])  # fmt: skip
def test_what_will_not_do_is_told_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    before = sorted(folder.iterdir())
    assert cli.main(f"animate face.png speech.wav -o out.mp4 {line}".split()) == 2
    err = capsys.readouterr().err
    assert says in err.splitlines()[-1], err
    assert sorted(folder.iterdir()) == before


def test_stopped_halfway_leaves_nothing_behind(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = sorted(folder.iterdir()), []

    class Stops(commands_video.Lines):
        def __call__(self, what: str, done: int, total: int | None) -> None:
            seen.append(what)
            if (what, done) == ("writing", 2):
                raise KeyboardInterrupt

    monkeypatch.setattr(commands_video, "reporter", Stops)
    assert cli.main(LINE.split()) == 130
    assert "Ctrl-C" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
    assert {"solving", "reading the prompt"} <= set(seen)


def test_the_bench_measures_a_tiny_base_on_a_processor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "video", "--device", "cpu", "--steps", "2", "--shape", "64", "64", "17", "-o", "bench.json"]) == 0
    out = capsys.readouterr().out
    assert "this is a tiny base, which says nothing about the real ones" in out
    assert re.search(r"tiny +64 x  64 +17 ", out)
    assert re.search(r"ReFree-S2V \(published\) +30.6 +0.70", out)
    found = json.loads(Path("bench.json").read_text())["bases"]["tiny"]
    assert found["frames_per_second"] == pytest.approx(17 / (30 * found["step_seconds"] + found["decode_seconds"]))
    assert cli.main(["bench", "video", "--device", "cpu", "--bases", "wan2.2-ti2v-5b"]) == 2
    assert "needs a GPU" in capsys.readouterr().err
    assert cli.main(["bench", "video", "--device", "cpu", "--shape", "64", "64", "18"]) == 2
    assert "18 pictures were asked for: give 4k + 1" in capsys.readouterr().err
    assert cli.main(["bench", "video", "--device", "cpu", "--bases", "wan3"]) == 2
    assert "there is no base 'wan3'" in capsys.readouterr().err


def test_a_network_that_is_built_is_in_the_precision_that_one_is_loaded_in(tmp_path: Path) -> None:
    built = bench_video._network(bench_video.TINY, torch.device("cpu"), torch.bfloat16)
    built.base.save_pretrained(tmp_path)
    loaded = load_tiny_wan(tmp_path, torch.bfloat16)
    assert {name: weight.dtype for name, weight in built.base.state_dict().items()} == {
        name: weight.dtype for name, weight in loaded.state_dict().items()
    }
    assert torch.get_default_dtype() == torch.float32
    point, time = torch.randn(1, 2, 48, 4, 4), torch.full((1, 2), 0.5)
    condition = built.listen(torch.randn(1, 3, 32), pictures=5)
    assert torch.isfinite(built(point, time, condition)).all()


def test_what_does_not_fit_is_a_row_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_video, "available_bytes", lambda _: 10**6)
    found = bench_video._measured("tiny", bench_video.TINY, torch.device("cuda"), 2)
    assert "needs about" in found["refused"] and "128x128 and 17 pictures" in found["refused"]
    result = {"device": "none", "solver_steps": 30, "bases": {"tiny": found}, "published": {}}
    assert found["refused"] in bench_video.table(result)
