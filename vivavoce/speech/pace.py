"""Speech features at the pace of pictures: so many to a picture, whatever the pictures' rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.speech.encoder import RATE_HZ


@dataclass(frozen=True, kw_only=True)
class PaceState:
    """``waiting``: features from number ``first`` on, which later ones may need. ``given``: features given out so far."""

    waiting: Float[Tensor, "1 s w"]
    first: int = 0
    given: int = 0


class Pace:
    """Features at RATE_HZ to ``per_picture`` of them for each picture: feature i of the result is what is heard i / (per_picture
    fps) seconds on, on a straight line between its neighbours. Where that is their own rate, every feature stays as it is."""

    def __init__(self, fps: float, per_picture: int):
        if not fps > 0:
            raise ValueError(f"{fps} pictures per second were asked for: give more than 0")
        self.step_features = RATE_HZ / (fps * per_picture)  # how far it goes in the features for each of its own

    def start(self, width: int) -> PaceState:
        return PaceState(waiting=torch.zeros(1, 0, width))

    def step(
        self, features: Float[Tensor, "1 s w"], state: PaceState, *, last: bool = False
    ) -> tuple[Float[Tensor, "1 n w"], PaceState]:
        """The features that are determined so far. How they are cut into steps changes nothing. With ``last`` the sound ends
        here: its last feature stays, until the result is at least as long as what went in."""
        waiting = torch.cat([state.waiting, features], 1)
        heard = state.first + waiting.shape[1]
        if last:
            count = math.ceil(heard / self.step_features - 1e-6)
        else:  # the feature on the right must be there, or the place must be that of the last one exactly
            count = math.floor((heard - 1) / self.step_features + 1e-6) + 1 if heard else 0
        places = torch.arange(state.given, max(count, state.given), dtype=torch.float64) * self.step_features - state.first
        left = (places + 1e-6).floor()
        share = (places - left).clamp(min=0)
        share = torch.where(share < 1e-6, 0.0, share).to(waiting.dtype)[:, None]
        low, high = (index.long().clamp(max=max(waiting.shape[1] - 1, 0)) for index in (left, left + 1))
        made = torch.where(share > 0, (1 - share) * waiting[:, low] + share * waiting[:, high], waiting[:, low])
        given = state.given + made.shape[1]
        spare = min(max(math.floor(given * self.step_features) - 1 - state.first, 0), max(waiting.shape[1] - 1, 0))
        return made, PaceState(waiting=waiting[:, spare:].clone(), first=state.first + spare, given=given)


def paced(features: Float[Tensor, "1 s w"], fps: float, per_picture: int) -> Float[Tensor, "1 n w"]:
    """`Pace` of a whole recording."""
    pace = Pace(fps, per_picture)
    return pace.step(features, pace.start(features.shape[-1]), last=True)[0]
