"""What is measured of a clip: each figure with its unit, its direction and what it takes. The definitions are in `metrics`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from vivavoce.judge.evidence import Evidence
from vivavoce.judge.look import RATE_HZ, Likeness
from vivavoce.judge.sound import Heard
from vivavoce.latent.mesh import brow_height, brow_to_eye, eye_opening, eyes_apart, lip_opening, mouth_width
from vivavoce.latent.topology import LIP_CONTOURS, SKIN
from vivavoce.metrics import eyes, head, lips, theval
from vivavoce.metrics.dynamics import activity, jerk
from vivavoce.metrics.pictures import colour_drift, flicker
from vivavoce.metrics.sync import sound_offset

Better = Literal["higher", "lower", "near 1", "near 0", "near real", "none"]
Need = Literal["motion", "recording", "portrait", "sound", "words"]
TOPICS = ("Lips", "Head", "Eyes and brows", "Picture", "Identity", "THEval", "Whole set")

SUFFIX = "_real"  # of a figure's name, where it is that of the recording
PSNR_MOST = 100.0  # dB, for equal pictures
TAKE_SECONDS = 1.5  # of the stretches of one video that its diversity compares
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number about one clip. ``needs``: what it takes besides the video; "motion" is a recording or a driving video. ``alone``:
    it says something about the recording, too, when that stands in the video's place. ``measure``: NaN where it can't tell."""

    name: str
    title: str
    topic: str
    unit: str
    better: Better
    what: str
    measure: Callable[[Evidence], float]
    needs: frozenset[Need] = frozenset()
    alone: bool = False


def figures_of(evidence: Evidence, figures: Sequence[Figure]) -> tuple[dict[str, float], tuple[str, ...]]:
    """The figures that the evidence allows, by name, and those of the recording, by name and SUFFIX; and what is to be said of
    those that could not be told all the same, which are left out. One that fails leaves the others alone."""
    real = evidence.of_recording()
    found: dict[str, float] = {}
    notes: list[str] = []
    for figure in figures:
        for name, side in ((figure.name, evidence), (figure.name + SUFFIX, real if figure.alone else None)):
            if side is None or not allowed(figure, side):
                continue
            try:
                found[name] = float(figure.measure(side))
            except ValueError as error:
                notes.append(f"{name}: {' '.join(str(error).split())}")
    untold = [name for name, value in found.items() if np.isnan(value)]
    if untold:
        notes.append(f"too short, or too little happens, to tell {', '.join(untold)}")
    return {name: value for name, value in found.items() if not np.isnan(value)}, tuple(notes)


def allowed(figure: Figure, evidence: Evidence) -> bool:
    """Whether the evidence has what the figure needs."""
    there = {
        "motion": evidence.example, "recording": evidence.recording, "portrait": evidence.portrait, "sound": evidence.heard,
        "words": evidence.heard if evidence.heard is not None and len(evidence.heard.phones) else None,
    }
    return all(there[need] is not None for need in figure.needs)


# --- Measures that take more than one line -------------------------------------------------------------------------------------


def _both(curve: Callable[[np.ndarray], np.ndarray], evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """A curve of the video and of its example."""
    assert evidence.example is not None
    return curve(evidence.shown.points), curve(evidence.example.points)


def _ratio(a: float, b: float) -> float:
    return a / b if b > 1e-9 else NAN


def _heard(evidence: Evidence) -> Heard:
    assert evidence.heard is not None
    return evidence.heard


def _fitted(values: np.ndarray, frames: int) -> np.ndarray:
    """Values of the sound for as many frames as there are pictures; what it lacks at the end goes on as it ended."""
    lacking = max(0, frames - len(values))
    return np.concatenate([values, np.repeat(values[-1:], lacking, axis=0)])[:frames]


def _silent(evidence: Evidence) -> np.ndarray:
    return _fitted(_heard(evidence).silent, len(evidence.shown.points))


def _loudness(evidence: Evidence) -> np.ndarray:
    return _fitted(_heard(evidence).loudness, len(evidence.shown.points))


def _sound_offset(evidence: Evidence) -> tuple[float, float]:
    return sound_offset(_opening(evidence), np.sqrt(_loudness(evidence)), RATE_HZ)


def _opening(evidence: Evidence) -> np.ndarray:
    return lip_opening(evidence.shown.points)


def _head_ratio(evidence: Evidence) -> float:
    assert evidence.example is not None
    return _ratio(head.rotation_spread(evidence.shown.rotation()), head.rotation_spread(evidence.example.rotation()))


def _jerk_ratio(evidence: Evidence) -> float:
    assert evidence.example is not None
    return _ratio(jerk(evidence.shown.rotation(), RATE_HZ), jerk(evidence.example.rotation(), RATE_HZ))


def _diversity(evidence: Evidence) -> float:
    return np.degrees(head.diversity(head.windows(evidence.shown.rotation(), round(TAKE_SECONDS * RATE_HZ))))


def _beats(evidence: Evidence) -> float:
    return head.beat_align(evidence.shown.rotation(), _heard(evidence).beats, RATE_HZ)


def _synchrony(window: int) -> Callable[[Evidence], float]:
    def measure(evidence: Evidence) -> float:
        spoken = _fitted(_heard(evidence).level_db, len(evidence.shown.points))
        return float(head.speech_synchrony(evidence.shown.rotation(), spoken, RATE_HZ)[window])

    return measure


def _blinks(which: int) -> Callable[[Evidence], float]:
    def measure(evidence: Evidence) -> float:
        shape = eyes.blink_shape(eyes.blinks(eye_opening(evidence.shown.points), RATE_HZ), RATE_HZ)
        return shape[which] * (1.0 if which == 2 else 1000.0)

    return measure


def _sharpness(evidence: Evidence) -> float:
    assert evidence.recording is not None
    return _ratio(evidence.shown.mouth_sharp, evidence.recording.mouth_sharp)


def _face_sharpness(evidence: Evidence) -> float:
    assert evidence.portrait is not None
    return _ratio(evidence.shown.face_sharp, evidence.portrait.face_sharp)


def _similarity(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Mean cosine over all pairs of descriptors, which have length 1."""
    return float((a @ b.T).mean()) if len(a) and len(b) else NAN


def _identity(evidence: Evidence) -> float:
    assert evidence.portrait is not None
    own = evidence.portrait.descriptor
    return NAN if own is None else _similarity(evidence.shown.descriptors, own[None])


def _identity_match(evidence: Evidence) -> float:
    assert evidence.recording is not None
    return _similarity(evidence.shown.descriptors, evidence.recording.descriptors)


def _likeness(evidence: Evidence) -> Likeness:
    return evidence.likeness if evidence.likeness is not None else Likeness(psnr=NAN, ssim=NAN)


def _theval_lips(evidence: Evidence) -> float:
    points = evidence.shown.points
    return theval.lip_dynamics(points[:, LIP_CONTOURS, :2], eyes_apart(points[..., :2]))


def _theval_head(evidence: Evidence) -> float:
    skin = evidence.shown.points[:, :SKIN, :2]
    return theval.head_dynamics(evidence.shown.rotation(), (skin.min(1) + skin.max(1)) / 2)


def _theval_sync(evidence: Evidence) -> float:
    return theval.lip_sync(_opening(evidence), _loudness(evidence), ~_silent(evidence))


_MOTION, _RECORDING = frozenset[Need]({"motion"}), frozenset[Need]({"recording"})
_SOUND, _PORTRAIT = frozenset[Need]({"sound"}), frozenset[Need]({"portrait"})

_LIPS = (
    Figure(
        name="lip_corr", title="Lip opening, correlation", topic="Lips", unit="", better="higher", needs=_MOTION,
        what="Pearson correlation of the opening of the inner lips with the recording's, at no lag; -1 to 1.",
        measure=lambda e: lips.correlation(*_both(lip_opening, e)),
    ),
    Figure(
        name="lip_lag_ms", title="Lip lag", topic="Lips", unit="ms", better="near 0", needs=_MOTION,
        what="Lag at which that correlation is best, within 320 ms; positive: the generated lips are late.",
        measure=lambda e: 1000 / RATE_HZ * lips.best_lag(*_both(lip_opening, e)),
    ),
    Figure(
        name="lip_gain", title="Lip gain", topic="Lips", unit="×", better="near 1", needs=_MOTION,
        what="Standard deviation of the opening over the recording's: under 1 the lips mumble, over 1 they gape.",
        measure=lambda e: lips.gain(*_both(lip_opening, e)),
    ),
    Figure(
        name="width_corr", title="Mouth width, correlation", topic="Lips", unit="", better="higher", needs=_MOTION,
        what="The same correlation for the mouth's width: rounding and spreading.",
        measure=lambda e: lips.correlation(*_both(mouth_width, e)),
    ),
    Figure(
        name="closure_f1", title="Closures, F1", topic="Lips", unit="", better="higher", needs=_MOTION,
        what="F1 of the frames with closed lips against the recording's, one frame of tolerance; 0 to 1.",
        measure=lambda e: lips.closure_f1(*_both(lip_opening, e)),
    ),
    Figure(
        name="bilabial_closure", title="Closures at p, b, m", topic="Lips", unit="", better="higher", alone=True,
        needs=frozenset({"sound", "words"}),
        what="Share of the p, b and m in the words (found in the sound by forced alignment) at which the lips close; 0 to 1.",
        measure=lambda e: lips.bilabial_closures(_opening(e), _heard(e).bilabials, RATE_HZ),
    ),
    Figure(
        name="silent_lips", title="Lips in silence", topic="Lips", unit="face heights", better="lower", alone=True, needs=_SOUND,
        what="Standard deviation of the opening within stretches of silence of 0.4 s and more.",
        measure=lambda e: lips.silent_stability(_opening(e), _silent(e)),
    ),
    Figure(
        name="sound_corr", title="Lips against loudness", topic="Lips", unit="", better="near real", alone=True, needs=_SOUND,
        what="Correlation of the changes of opening and loudness at their best lag within 400 ms. Loudness tells little of lips.",
        measure=lambda e: _sound_offset(e)[1],
    ),
    Figure(
        name="sound_lag_ms", title="Lips after loudness", topic="Lips", unit="ms", better="near real", alone=True, needs=_SOUND,
        what="That lag; positive: the lips are late. Rough: of recordings half are within 100 ms of 0. Look at the median.",
        measure=lambda e: 1000 * _sound_offset(e)[0],
    ),
    Figure(
        name="lip_activity", title="Lip speed", topic="Lips", unit="face heights/s", better="near real", alone=True,
        what="Mean absolute rate of change of the opening.",
        measure=lambda e: activity(_opening(e), RATE_HZ),
    ),
)

_HEAD = (
    Figure(
        name="head_ratio", title="Head movement", topic="Head", unit="×", better="near 1", needs=_MOTION,
        what="Spread of the head's rotation (geometric mean of pitch, yaw and roll) over the recording's.", measure=_head_ratio,
    ),
    Figure(
        name="jerk_ratio", title="Head jerk", topic="Head", unit="×", better="near 1", needs=_MOTION,
        what="Median absolute jerk of the head's rotation over the recording's: over 1 it trembles.", measure=_jerk_ratio,
    ),
    Figure(
        name="head_spread", title="Head spread", topic="Head", unit="°", better="near real", alone=True,
        what="Standard deviation of the head's rotation, geometric mean of the three angles.",
        measure=lambda e: np.degrees(head.rotation_spread(e.shown.rotation())),
    ),
    Figure(
        name="head_speed", title="Head speed", topic="Head", unit="°/s", better="near real", alone=True,
        what="Mean angular speed of the head.", measure=lambda e: np.degrees(head.speed(e.shown.rotation(), RATE_HZ)),
    ),
    Figure(
        name="head_diversity", title="Head diversity", topic="Head", unit="°", better="near real", alone=True,
        what="Mean distance between the head's paths in stretches of 1.5 s of the video: low where one nod repeats.",
        measure=_diversity,
    ),
    Figure(
        name="beat_align", title="BeatAlign", topic="Head", unit="", better="near real", alone=True, needs=_SOUND,
        what="Nearness of the head's turning points to the syllables' beginnings (Gaussian of 100 ms); 0 to 1. Chance is high.",
        measure=_beats,
    ),
    Figure(
        name="beat_above_chance", title="BeatAlign above chance", topic="Head", unit="", better="near real", alone=True,
        needs=_SOUND,
        what="BeatAlign less what it is with the syllables moved to other moments of the clip; 0 by chance.",
        measure=lambda e: head.beat_align_above_chance(e.shown.rotation(), _heard(e).beats, RATE_HZ),
    ),
    *(
        Figure(
            name=f"head_sync_{round(1000 * seconds)}", title=f"Head and speech, {seconds:g} s", topic="Head", unit="",
            better="near real", alone=True, needs=_SOUND,
            what=f"Whether the head moves more where loudness changes more: correlation of how both rise between windows of "
            f"{seconds:g} s; -1 to 1. People reach 0.1 to 0.25; a clip of seconds says little.",
            measure=_synchrony(window),
        )
        for window, seconds in enumerate(head.WINDOWS_SECONDS)
    ),
)

_EYES = (
    Figure(
        name="brow_ratio", title="Brow movement", topic="Eyes and brows", unit="×", better="near 1", needs=_MOTION,
        what="Standard deviation of the brows' height over the recording's.",
        measure=lambda e: lips.gain(*_both(brow_height, e)),
    ),
    Figure(
        name="brow_activity", title="Brow speed", topic="Eyes and brows", unit="face heights/s", better="near real", alone=True,
        what="Mean absolute rate of change of the brows' height.",
        measure=lambda e: activity(brow_height(e.shown.points), RATE_HZ),
    ),
    Figure(
        name="blink_per_min", title="Blinks", topic="Eyes and brows", unit="/min", better="near real", alone=True,
        what="Lids that close to under half of their local opening and open again within 0.6 s. A clip of seconds has few.",
        measure=lambda e: eyes.blinks_per_minute(eye_opening(e.shown.points), RATE_HZ),
    ),
    Figure(
        name="blink_closing_ms", title="Blinks, closing", topic="Eyes and brows", unit="ms", better="near real", alone=True,
        what="Median time in which lids close, where there are blinks.", measure=_blinks(0),
    ),
    Figure(
        name="blink_opening_ms", title="Blinks, opening", topic="Eyes and brows", unit="ms", better="near real", alone=True,
        what="Median time in which they open.", measure=_blinks(1),
    ),
    Figure(
        name="blink_depth", title="Blinks, depth", topic="Eyes and brows", unit="", better="near real", alone=True,
        what="Median share of the local opening that lids close; 0 to 1.", measure=_blinks(2),
    ),
)

_PICTURE = (
    Figure(
        name="mouth_sharp", title="Mouth sharpness", topic="Picture", unit="×", better="near 1", needs=_RECORDING,
        what="Sharpness (root mean square of the Laplacian at 96 px) of the mouth over the recording's.", measure=_sharpness,
    ),
    Figure(
        name="face_sharp", title="Face sharpness", topic="Picture", unit="×", better="near 1", needs=_PORTRAIT, alone=True,
        what="Sharpness (at 192 px) of the face over the portrait's.", measure=_face_sharpness,
    ),
    Figure(
        name="psnr", title="PSNR", topic="Picture", unit="dB", better="higher", needs=_RECORDING,
        what="Peak signal-to-noise ratio of frames against the recording's of the same moment. Another nod lowers it, too.",
        measure=lambda e: min(_likeness(e).psnr, PSNR_MOST) if not np.isnan(_likeness(e).psnr) else NAN,
    ),
    Figure(
        name="ssim", title="SSIM", topic="Picture", unit="", better="higher", needs=_RECORDING,
        what="Structural similarity of the same frames; -1 to 1.", measure=lambda e: _likeness(e).ssim,
    ),
    Figure(
        name="flicker", title="Border change", topic="Picture", unit="levels", better="lower", alone=True,
        what="Mean change of the picture's outermost 4% (top and sides) from frame to frame, of 255 levels.",
        measure=lambda e: float(e.shown.border.mean()) if len(e.shown.border) else NAN,
    ),
    Figure(
        name="colour_flicker", title="Colour flicker", topic="Picture", unit="levels", better="lower", alone=True,
        what="Root mean square of the second difference of the frames' mean colour.", measure=lambda e: flicker(e.shown.colours),
    ),
    Figure(
        name="background", title="Background unrest", topic="Picture", unit="levels", better="lower", alone=True,
        what="Standard deviation over time of the pixels that never show the person; 0 where the background stands still.",
        measure=lambda e: e.shown.background,
    ),
    Figure(
        name="colour_drift", title="Colour drift", topic="Picture", unit="levels/min", better="lower", alone=True,
        what="Slope over time of the frames' mean colour. Clips of a few seconds say little.",
        measure=lambda e: colour_drift(e.shown.colours, e.shown.frame_rate_hz).levels_per_minute,
    ),
    Figure(
        name="face_found", title="Face found", topic="Picture", unit="", better="higher", alone=True,
        what="Share of frames in which the tracker sees a face; 0 to 1.", measure=lambda e: float(e.shown.found.mean()),
    ),
)

_IDENTITY = (
    Figure(
        name="identity", title="Identity, portrait", topic="Identity", unit="", better="higher", needs=_PORTRAIT, alone=True,
        what="Mean cosine of dlib's face descriptors, frames against the portrait; other people: about 0.8, the same: 0.95.",
        measure=_identity,
    ),
    Figure(
        name="identity_match", title="Identity, recording", topic="Identity", unit="", better="higher", needs=_RECORDING,
        what="The same, frames against the recording's frames.", measure=_identity_match,
    ),
)

_THEVAL = (
    Figure(
        name="theval_lips", title="Lip dynamics", topic="THEval", unit="", better="near real", alone=True,
        what="Mean variance over time of distances between lip points, in distances of the eyes (THEval).", measure=_theval_lips,
    ),
    Figure(
        name="theval_head", title="Head dynamics", topic="THEval", unit="", better="near real", alone=True,
        what="Unrest of the head's angles and of the face's place in the picture, px (THEval).", measure=_theval_head,
    ),
    Figure(
        name="theval_brows", title="Brow dynamics", topic="THEval", unit="", better="near real", alone=True,
        what="Mean change from frame to frame of the brows' distance from the eyes (THEval).",
        measure=lambda e: theval.brow_dynamics(brow_to_eye(e.shown.points)),
    ),
    Figure(
        name="theval_silence", title="Silent lips", topic="THEval", unit="", better="near real", alone=True, needs=_SOUND,
        what="Median absolute deviation of the lips' opening in silence (THEval).",
        measure=lambda e: theval.silent_lips(_opening(e), _silent(e)),
    ),
    Figure(
        name="theval_sync", title="Lips against sound", topic="THEval", unit="", better="near real", alone=True, needs=_SOUND,
        what="Mean absolute difference of opening and loudness, each from 0 to 1 (THEval).", measure=_theval_sync,
    ),
)

FIGURES: tuple[Figure, ...] = (*_LIPS, *_HEAD, *_EYES, *_PICTURE, *_IDENTITY, *_THEVAL)
