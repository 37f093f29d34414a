"""How much any curve of a face moves: lips, mouth width, brows. Units are the curve's own per second."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vivavoce.metrics.head import smoothed


def activity(curve: Float[np.ndarray, " t"], rate_hz: float) -> float:
    """Mean absolute rate of change of the smoothed curve; 0 where nothing moves."""
    return float(np.abs(np.diff(smoothed(curve))).mean()) * rate_hz if len(curve) > 1 else 0.0
