"""What a video network hears and sees besides the noisy latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivavoce.nets.redistribute import redistributed


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A speaker for `VideoTransformer.listen`.

    ``speech``: what is heard (`hearing.hear`) from ``levels.history`` features before the first picture's own to
    ``levels.lookahead`` after the last one's; two features are one picture, whatever the pictures' rate. ``mask``: where in the
    latents the speaker is, 0 to 1; None for the only one.
    """

    speech: Float[Tensor, "b s v"]
    mask: Float[Tensor, "b t h w"] | None = None


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A voice as the injections take it.

    ``speech``: for FiLM scales and shifts, one tensor for each injection; for attention tokens, one for all. A time axis of
    length one is for all latent frames. ``no_speech``: the same of absent speech, which was learned, its batch and time axes of
    length one. ``aligned``: False where every latent frame got what belongs to the whole clip.
    """

    speech: tuple[Float[Tensor, "b f n c"], ...]
    no_speech: tuple[Float[Tensor, "1 1 n c"], ...]
    mask: Float[Tensor, "b t h w"] | None = None
    aligned: bool = True


@dataclass(frozen=True, kw_only=True)
class VideoCondition:
    """Made once per window by `VideoTransformer.listen`, because no part depends on flow time.

    ``text``: states of the text encoder, ``no_text``: of the empty or the negative prompt. ``image``: states of the image
    encoder, ``still``: mask and latents of what is known (`still_channels`); bases without such inputs have None. ``identity``:
    tokens of a face, ``face_mask``: where in the latents it is, 0 to 1. ``skeleton``: tokens of key points. ``intensity``: what
    it adds to the modulations of all blocks. Networks that were not trained with a part have None.
    """

    text: Float[Tensor, "b n k"]
    no_text: Float[Tensor, "1 n k"] | None = None
    voices: tuple[Heard, ...] = ()
    image: Float[Tensor, "b m i"] | None = None
    still: Float[Tensor, "b t s h w"] | None = None
    identity: Float[Tensor, "b 1 m c"] | None = None
    no_identity: Float[Tensor, "1 1 1 c"] | None = None
    face_mask: Float[Tensor, "b t h w"] | None = None
    skeleton: Float[Tensor, "b t m c"] | None = None
    no_skeleton: Float[Tensor, "1 1 1 c"] | None = None
    intensity: Float[Tensor, "b m"] | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all that can be dropped."""
        there = {
            "text": self.no_text is not None, "speech": bool(self.voices),
            "reference": self.image is not None or self.still is not None, "identity": self.identity is not None,
            "skeleton": self.skeleton is not None, "intensity": self.intensity is not None,
        }
        return tuple(name for name, present in there.items() if present)

    def without(self, name: str) -> VideoCondition:
        """The same with one part absent. ValueError where there is no such part.

        An absent reference is image states and known latents of zero; bases that take the reference as a clean latent frame
        have no such part. Absent intensity is the neutral one.
        """
        if name not in self.parts:
            hint = "; give the empty prompt's states as no_text" if name == "text" else ""
            raise ValueError(f"the condition has no part {name!r} to drop: it has {', '.join(self.parts) or 'none'}{hint}")
        if name == "speech":
            return replace(self, voices=tuple(_silent(voice) for voice in self.voices))
        if name == "reference":
            return replace(self, image=_zero(self.image), still=_zero(self.still))
        if name == "intensity":
            return replace(self, intensity=_zero(self.intensity))
        return replace(self, **{name: vars(self)[f"no_{name}"].expand_as(vars(self)[name])})

    def kept(self, name: str, yes: Bool[Tensor, " b"]) -> VideoCondition:
        """The same with one part absent from the samples that have False, as training drops it."""
        return _merged(lambda here, gone: torch.where(_per_sample(yes, here), here, gone), self, self.without(name))

    @staticmethod
    def stack(conditions: Sequence[VideoCondition]) -> VideoCondition:
        """One after the other along the batch axis, for one network call; all must have the same parts."""
        return _merged(lambda *parts: torch.cat(parts), *conditions)

    def repeated(self, count: int) -> VideoCondition:
        """Each sample so many times, side by side."""
        return _merged(lambda part: part.repeat_interleave(count, 0), self)

    def between(self, first: int, last: int) -> VideoCondition:
        """That of latent frames ``first`` to ``last``, the last not included; what belongs to the whole clip stays."""

        def cut(part: Tensor) -> Tensor:
            return part if part.shape[1] == 1 else part[:, first:last]

        def cut_if(part: Tensor | None) -> Tensor | None:
            return None if part is None else cut(part)

        voices = tuple(
            replace(voice, speech=tuple(map(cut, voice.speech)), mask=cut_if(voice.mask)) for voice in self.voices
        )
        return replace(
            self, voices=voices, still=cut_if(self.still), face_mask=cut_if(self.face_mask), skeleton=cut_if(self.skeleton)
        )

    def only(self, voice: int | None) -> VideoCondition:
        """With one voice, heard all over the picture, or with none (`flow.guide.mask_guided`)."""
        if voice is None:
            return self.only(0).without("speech")
        return replace(self, voices=(replace(self.voices[voice], mask=None),))

    def place(self, voice: int) -> Float[Tensor, "b t 1 h w"]:
        """A voice's mask, ones where it has none."""
        mask = self.voices[voice].mask
        return self.text.new_ones(1, 1, 1, 1, 1) if mask is None else mask[:, :, None]


def still_channels(latents: Float[Tensor, "b t c h w"], known: Bool[Tensor, "b T"]) -> Float[Tensor, "b t s h w"]:
    """What image-to-video bases get beside the noisy latents: for each of a latent frame's four pictures whether it is known,
    then the latents of the video in which all others are grey (or the last known one, as training had it).

    Such bases know one flow time per clip: a clean prefix enters here, not as frames at time 1.
    """
    mask = redistributed(known).to(latents.dtype)
    return torch.cat([mask[..., None, None].expand(*mask.shape, *latents.shape[3:]), latents], 2)


def _silent(voice: Heard) -> Heard:
    return replace(voice, speech=tuple(no.expand_as(yes) for no, yes in zip(voice.no_speech, voice.speech, strict=True)))


def _zero(part: Tensor | None) -> Tensor | None:
    return None if part is None else torch.zeros_like(part)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.ndim - 1))


def _merged(function: Callable[..., Tensor], *values: Any) -> Any:
    """The function of the tensors that have a batch axis, wherever in equally built values they are."""
    first = values[0]
    if isinstance(first, Tensor):
        return function(*values)
    if isinstance(first, tuple):
        return tuple(_merged(function, *parts) for parts in zip(*values, strict=True))
    if isinstance(first, Heard | VideoCondition):
        names = [field.name for field in fields(first) if not field.name.startswith("no_")]
        return replace(first, **{name: _merged(function, *(vars(value)[name] for value in values)) for name in names})
    assert all(value is first for value in values), "conditions that are built differently"
    return first
