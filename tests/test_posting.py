"""Options of `vivavoce train post` that do not go together, and the way from answers to pairs."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_train import quiet
from toy import base, examples, model  # noqa: F401 - fixtures

from vivavoce.apps.cli_train import TrainPost
from vivavoce.apps.posting import check, preferred, trainer
from vivavoce.generate import MotionGenerator
from vivavoce.latent.mesh import FaceModel
from vivavoce.train.data import Example
from vivavoce.train.post import with_network
from vivavoce.train.preferences import Answer, Choice
from vivavoce.train.rollout import RolloutRecipe, rollouts


@pytest.mark.parametrize(("options", "complaint"), [
    ({"pairs": Path("x")}, "--objective pair_dpo, not forward_process"), ({"objective": "pair_dpo"}, "the file of answers of"),
    ({"judge": "http://x/v1"}, "--objective grpo, not forward_process"), ({"objective": "sft", "model": "m"}, "grpo, not sft"),
    ({"objective": "grpo", "judge": "http://x/v1", "model": "m"}, "give all three"),
    ({"objective": "sft", "rewards": "scores"}, "--rewards goes with --objective forward_process, not sft"),
])
def test_options_that_do_not_go_together(options: dict, complaint: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match=complaint):
        check(TrainPost(data=tmp_path, output=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_takes_that_people_compared_are_of_the_weights_that_are_given(
    base: MotionGenerator, examples: list[Example], model: FaceModel, tmp_path: Path
) -> None:
    few = RolloutRecipe(count=1, group=2, seconds=2.0)
    rollouts(base, examples, few, tmp_path / "groups", rate_hz=25, progress=quiet)
    net = copy.deepcopy(base.net)
    with torch.no_grad():
        next(net.parameters()).mul_(1.01)
    other = with_network(base, net, base.windows.amplitude)
    options = TrainPost(data=tmp_path, output=tmp_path / "run", objective="pair_dpo", pairs=tmp_path / "pairs.jsonl")
    with pytest.raises(ValueError, match="were made by other weights than those that are given: give with --weights"):
        trainer(options, other, model)
    assert not (tmp_path / "run").exists()
    trainer(options, base, model)
    assert (tmp_path / "run" / "run.json").exists()
    (tmp_path / "groups" / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json is damaged"):
        trainer(options, base, model)
    (tmp_path / "groups" / "recipe.json").unlink()  # nobody knows what made them
    trainer(replace(options, output=tmp_path / "other"), other, model)


def test_answers_become_pairs_or_a_sentence(examples: list[Example], tmp_path: Path) -> None:
    (tmp_path / "groups").mkdir()
    takes = torch.arange(3.0)[:, None, None].expand(3, 5, 31).contiguous()
    for number in (0, 3):
        save_file({"takes": takes.half()}, tmp_path / "groups" / f"{number}.safetensors")

    def told(number: int, answer: Answer) -> str:
        return Choice(example=number, clip=examples[number].clip, takes=(2, 1), sync=answer, naturalness=answer).line()

    file = tmp_path / "pairs.jsonl"
    file.write_text(told(0, "same"))
    with pytest.raises(ValueError, match="none of 1 recordings apart"):
        preferred(file, examples, print)
    file.write_text(told(0, "same") + told(3, "B"))
    said: list[str] = []
    (pair,) = preferred(file, examples, said.append)
    assert (pair.example, pair.takes[:, 0, 0].tolist()) == (3, [1.0, 2.0])
    assert said == ["2 pairs of 2 recordings were judged; in 1 of these a take is better than another"]
