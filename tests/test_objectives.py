"""Objectives where the optimum is known: a field that is one number, and motions whose paths have one velocity each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vivavoce.train.objectives import Loss, Rungs, advantages, forward_process, grpo, ladder_dpo, sft


def field(value: Tensor):
    """A velocity that is the same everywhere."""
    return lambda point, time, given: value + 0.0 * point


def rungs(*velocities: float, swapped: float = 0.0, count: int = 10) -> Rungs[None]:
    """Motions whose velocity is known: noise is 0, so x_1 is the velocity. Of a share of the recordings the order is turned."""
    data = torch.tensor(velocities)[:, None, None, None].repeat(1, count, 3, 2)
    turned = round(swapped * count)
    data[:, :turned] = data[:, :turned].flip(0)
    time = torch.full((count, 3), 0.5)
    mask = torch.tensor([[False, True, True]]).repeat(count, 1)
    return Rungs(
        data=data, given=[None] * len(velocities), noise=torch.zeros(count, 3, 2), time=time, mask=mask, weight=torch.ones(2)
    )


def optimum(loss, start: float = 0.0, steps: int = 400, rate: float = 0.05) -> float:
    value = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.Adam([value], lr=rate)
    for i in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - i / steps)
        optimiser.zero_grad()
        found = loss(field(value))
        assert isinstance(found, Loss)
        found.value.backward()
        optimiser.step()
    return float(value.detach())


def test_supervised_the_field_becomes_the_winners() -> None:
    assert optimum(lambda policy: sft(policy, rungs(1.5, -1.0))) == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize("beta", [1.0, 4.0])
@pytest.mark.parametrize("reference", [0.0, 0.3])
def test_preferences_move_the_policy_from_the_reference_by_log_odds_over_beta(beta: float, reference: float) -> None:
    """Errors (u - 1)^2 and (u + 1)^2 make a margin of 4 (u - u_ref); seven of ten recordings prefer the first."""
    held = field(torch.tensor(reference))
    found = optimum(lambda policy: ladder_dpo(policy, held, rungs(1.0, -1.0, swapped=0.3), beta=beta), reference)
    assert found == pytest.approx(reference + math.log(0.7 / 0.3) / (2 * beta), abs=0.01)


def test_a_ladders_pairs_are_all_or_its_ends() -> None:
    policy, held, ladder = field(torch.tensor(0.2)), field(torch.tensor(0.0)), rungs(1.0, 0.5, -1.0)
    pairs = [(1.0, 0.5), (1.0, -1.0), (0.5, -1.0)]
    every = [float(ladder_dpo(policy, held, rungs(*pair), beta=2.0).value) for pair in pairs]
    assert float(ladder_dpo(policy, held, ladder, beta=2.0).value) == pytest.approx(sum(every), rel=1e-5)
    assert float(ladder_dpo(policy, held, ladder, beta=2.0, pairs="ends").value) == pytest.approx(every[1], rel=1e-5)


def test_equal_motions_teach_nothing() -> None:
    value = torch.tensor(0.4, requires_grad=True)
    ladder_dpo(field(value), field(torch.tensor(0.0)), rungs(1.0, 1.0, 1.0), beta=5.0).value.backward()
    assert float(value.grad) == pytest.approx(0.0, abs=1e-7)


def test_the_anchor_pulls_to_the_winner_and_the_norm_guard_back() -> None:
    def slope(start: float, **weights: float) -> float:
        value = torch.tensor(start, requires_grad=True)
        ladder_dpo(field(value), field(torch.tensor(0.5)), rungs(1.0, 1.0), beta=1.0, **weights).value.backward()
        return float(value.grad)

    assert slope(0.5, sft_weight=1.0) < 0  # down the slope is up towards 1
    assert slope(0.8, norm_weight=1.0) > 0  # faster than the reference
    assert slope(0.3, norm_weight=1.0) == pytest.approx(0.0, abs=1e-7)  # slower: no matter


def test_the_bounded_negative_goes_as_far_as_the_theorem_says() -> None:
    old, bad = 0.3, torch.zeros(1, 10)
    for beta in (0.5, 1.0):
        found = optimum(lambda policy, b=beta: forward_process(policy, field(torch.tensor(old)), rungs(-1.0), bad, beta=b), old)
        assert found == pytest.approx(old + (old + 1.0) / beta, abs=0.02)
    good = optimum(lambda policy: forward_process(policy, field(torch.tensor(old)), rungs(2.0), 1 - bad, beta=1.0), old)
    assert good == pytest.approx(2.0, abs=0.02)


def test_rewards_out_of_range_are_refused() -> None:
    still = field(torch.tensor(0.0))
    with pytest.raises(AssertionError, match="0 to 1"):
        forward_process(still, still, rungs(1.0), torch.full((1, 10), 1.2), beta=1.0)

@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_winners_own_term_pulls_a_forward_process_to_the_winner(weight: float) -> None:
    """From v_old = 0 with a reward of 1 for u = 1 and of 0 for u = -3: min of ((v - 1)^2 + (-v + 3)^2) / 2 + w (v - 1)^2."""
    rewards, still = torch.tensor([1.0, 0.0])[:, None].expand(-1, 10), field(torch.tensor(0.0))
    found = optimum(lambda policy: forward_process(policy, still, rungs(1.0, -3.0), rewards, beta=1.0, sft_weight=weight))
    assert found == pytest.approx((4 + 2 * weight) / (2 + 2 * weight), abs=0.01)



def test_flat_groups_are_dropped_and_each_reward_counts_by_its_weight() -> None:
    sync = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0]])
    calm = torch.tensor([[10.0, 20.0, 60.0], [100.0, 300.0, 200.0], [7.0, 7.0, 7.0]])
    found = advantages([sync, calm], [1.0, 0.5])
    assert found.kept.tolist() == [True, True, False]
    normal = [(r - r.mean(1, keepdim=True)) / r.std(1, keepdim=True, correction=0) for r in (sync, calm)]
    torch.testing.assert_close(found.values[0], normal[0][0] + 0.5 * normal[1][0])
    torch.testing.assert_close(found.values[1], 0.5 * normal[1][1])
    assert not found.values[2].any()
    torch.testing.assert_close(advantages([1000 * sync], [1.0]).values, advantages([sync], [1.0]).values)


def test_policy_gradient_moves_towards_reward_and_the_anchor_holds() -> None:
    """Draws of N(u, 1), rewarded for being near 2: the expected reward rises towards u = 2, against k/2 (u - u_anchor)^2."""
    made = torch.Generator().manual_seed(0)

    def settled(kl: float) -> float:
        mean = torch.tensor(0.0, requires_grad=True)
        optimiser = torch.optim.Adam([mean], lr=0.02)
        for _ in range(600):
            drawn = mean.detach() + torch.randn(64, generator=made)
            reward = -(drawn - 2).square()
            advantage = advantages([reward[None]], [1.0]).values[0]
            density = -0.5 * (drawn - mean).square()
            optimiser.zero_grad()
            grpo(density, density.detach(), advantage, 0.5 * mean.square().expand(64), clip=0.2, kl=kl).value.backward()
            optimiser.step()
        return float(mean.detach())

    free, held = settled(0.0), settled(2.0)
    assert free == pytest.approx(2.0, abs=0.3)
    assert 0.1 < held < 0.7 * free


def test_the_clip_stops_what_has_gone_far_enough() -> None:
    moved = torch.tensor([0.5, 0.5], requires_grad=True)
    loss = grpo(moved, torch.zeros(2), torch.tensor([1.0, -1.0]), torch.zeros(2), clip=0.1)
    loss.value.backward()
    assert moved.grad is not None
    assert float(moved.grad[0]) == 0.0  # better already than the clip lets count
    assert float(moved.grad[1]) > 0.0
    assert loss.figures["clipped"] == 1.0
