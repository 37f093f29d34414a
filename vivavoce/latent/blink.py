"""When people blink: a renewal process, because blinks are events and not part of a smooth motion."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from jaxtyping import Float

from vivavoce.latent.motion import MOTION_RATE_HZ

MEDIAN_SECONDS = 2.8  # between blinks: people in conversation blink 15 to 25 times a minute (Bentivoglio et al. 1997)
SPREAD = 0.55  # standard deviation of the logarithm of that interval
SHORTEST_SECONDS = 0.6


class Blinks:
    """Lid closure per motion frame, a function of (seed, frame) however the frames are asked for."""

    def __init__(self, profile: Float[np.ndarray, " p"], *, seed: int, rate: float = 1.0):
        """``profile``: closure over one blink at the motion rate. ``rate``: how often, 1 as people do, 0 never."""
        self.profile, self.seed, self.rate = profile, seed, rate
        self._begins = [self._interval(0) // 2]  # grows as later frames are asked for

    def closure(self, first: int, count: int) -> Float[np.ndarray, " t"]:
        """Closure of frames [first, first + count), 0 open to 1 shut."""
        shut = np.zeros(count)
        if self.rate == 0:
            return shut
        while self._begins[-1] < first + count:
            self._begins.append(self._begins[-1] + self._interval(len(self._begins)))
        length = len(self.profile)
        for begin in self._begins[bisect_left(self._begins, first - length) : bisect_left(self._begins, first + count)]:
            a, b = max(begin, first), min(begin + length, first + count)
            if a < b:
                shut[a - first : b - first] = self.profile[a - begin : b - begin]
        return shut

    def _interval(self, draw: int) -> int:
        normal = np.random.default_rng((self.seed, draw)).standard_normal()
        seconds = MEDIAN_SECONDS / max(self.rate, 1e-6) * np.exp(SPREAD * normal)
        return max(int(max(seconds, SHORTEST_SECONDS) * MOTION_RATE_HZ), len(self.profile))
