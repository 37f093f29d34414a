"""Options of `vivavoce train post` that do not go together, and the way from answers to pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toy import examples, model  # noqa: F401 - fixtures

from vivavoce.apps.cli_train import TrainPost
from vivavoce.apps.posting import check, preferred
from vivavoce.train.data import Example
from vivavoce.train.preferences import Answer, Choice


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
