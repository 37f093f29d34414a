"""Agreement of what is seen of a mouth with what is heard, from two sequences of embeddings or two curves."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vivavoce.metrics.lips import correlation


def distances_by_offset(
    video: Float[np.ndarray, "t d"], audio: Float[np.ndarray, "t d"], furthest: int, *, padded: bool = False
) -> Float[np.ndarray, " o"]:
    """Mean Euclidean distance of video and audio for each offset from -furthest to furthest; positive: the video is late.

    ``padded``: beyond its ends the sound is zeros, as in the published evaluation of SyncNet; otherwise frames without sound
    are left out.
    """
    assert video.shape == audio.shape, (video.shape, audio.shape)
    count = len(video)
    if not padded and count <= furthest:
        raise ValueError(f"{count} windows, but offsets of up to {furthest} were asked for: give a longer clip")
    found = []
    for offset in range(-furthest, furthest + 1):
        wanted = np.arange(count) - offset
        inside = (wanted >= 0) & (wanted < count)
        heard = np.where(inside[:, None], audio[np.clip(wanted, 0, count - 1)], 0.0)
        apart = np.linalg.norm(video - heard, axis=1)
        found.append(apart.mean() if padded else apart[inside].mean())
    return np.array(found)


def offset_and_confidence(
    video: Float[np.ndarray, "t d"], audio: Float[np.ndarray, "t d"], furthest: int, *, padded: bool = False
) -> tuple[int, float]:
    """Offset of the smallest mean distance (positive: the video is late), and SyncNet's confidence: median minus minimum."""
    apart = distances_by_offset(video, audio, furthest, padded=padded)
    return int(apart.argmin()) - furthest, float(np.median(apart) - apart.min())


def two_way_accuracy(in_sync: Float[np.ndarray, " n"], shifted: Float[np.ndarray, " n"]) -> float:
    """Share of pairs whose score (higher: in sync) is higher with the right sound than with a wrong one; ties count half."""
    a, b = np.asarray(in_sync), np.asarray(shifted)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(((a > b) + 0.5 * (a == b)).mean()) if len(a) else float("nan")


def sound_offset(
    opening: Float[np.ndarray, " t"], loudness: Float[np.ndarray, " t"], rate_hz: float, *, furthest_seconds: float = 0.4
) -> tuple[float, float]:
    """Seconds by which the lips' opening is late on the sound's loudness where the two correlate best, and that correlation."""
    assert opening.shape == loudness.shape, (opening.shape, loudness.shape)
    furthest, count = round(furthest_seconds * rate_hz), len(opening)
    lags = range(-furthest, furthest + 1)
    found = [
        correlation(opening[max(lag, 0) : count + min(lag, 0)], loudness[max(-lag, 0) : count - max(lag, 0)]) for lag in lags
    ]
    best = int(np.argmax(found))
    return lags[best] / rate_hz, found[best]
