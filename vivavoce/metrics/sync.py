"""Agreement of what is seen of a mouth with what is heard, from two sequences of embeddings or two curves."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vivavoce.metrics.lips import SHORTEST, correlation


def distances_by_offset(
    video: Float[np.ndarray, "t d"], audio: Float[np.ndarray, "t d"], furthest: int, *, padded: bool = False
) -> Float[np.ndarray, " o"]:
    """D(k) = mean over t of |video(t) - audio(t - k)| for k from -furthest to furthest; positive: the video is late.

    Row t of both is the embedding of the window about the same time. Beyond its ends the sound is left out or, ``padded``, zeros:
    so the published evaluation of SyncNet has it. ValueError where the clip has no more than ``furthest`` windows.
    """
    assert video.shape == audio.shape, (video.shape, audio.shape)
    count = len(video)
    if count <= furthest:
        raise ValueError(f"{count} windows, but offsets of up to {furthest} were asked for: give a longer clip")
    found = []
    for offset in range(-furthest, furthest + 1):
        wanted = np.arange(count) - offset
        inside = (wanted >= 0) & (wanted < count)
        heard = np.where(inside[:, None], audio[np.clip(wanted, 0, count - 1)], 0.0)
        apart = np.linalg.norm(video - heard, axis=1)
        found.append(apart.mean() if padded else apart[inside].mean())
    return np.array(found)


def offset_and_confidence(apart: Float[np.ndarray, " o"]) -> tuple[int, float]:
    """argmin of D(k) (`distances_by_offset`), positive: the video is late, and SyncNet's confidence median D - min D.

    Chung and Zisserman 2016. Offset near 0 is good; confidence from 0, higher is better up to what recordings have: generated
    lips can surpass them by opening wide. Both are only as good as the embeddings. ``apart``: of offsets -n to n.
    """
    return int(apart.argmin()) - len(apart) // 2, float(np.median(apart) - apart.min())


def sound_offset(
    opening: Float[np.ndarray, " t"], loudness: Float[np.ndarray, " t"], rate_hz: float, *, furthest_seconds: float = 0.4
) -> tuple[float, float]:
    """Seconds by which lips are late on the sound, without any network, and the correlation r that says how sure that is.

    argmax over k of corr(opening'(t + k), loudness'(t)), ' being the change over time; near 0 is good, -furthest to furthest.
    ``loudness``: square root of the amplitude, or dB. Loudness tells little of lips: in 74 recordings of five seconds and more
    r is 0.2, the median 0.04 s early, and half of the clips lie from 0.08 s early to 0.11 s late. So give the median over many
    clips, or the sync expert's offset (`judge.expert`).
    """
    assert opening.shape == loudness.shape, (opening.shape, loudness.shape)
    furthest, count = round(furthest_seconds * rate_hz), len(opening)
    if count <= furthest + SHORTEST:
        return float("nan"), 0.0
    lips, sound = np.gradient(opening), np.gradient(loudness)
    lags = range(-furthest, furthest + 1)
    found = [correlation(lips[max(k, 0) : count + min(k, 0)], sound[max(-k, 0) : count - max(k, 0)]) for k in lags]
    best = int(np.argmax(found))
    return lags[best] / rate_hz, found[best]
