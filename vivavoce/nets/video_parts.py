"""What is added to a pretrained video network: ears, eyes for faces and skeletons, and the injections between its blocks.

Every output is zero-initialised, so that all of it together adds nothing before it learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.nets.inject import MultiHeadFiLM, TokenAttention
from vivavoce.nets.levels import LevelsConfig, LevelSelector, SpeechLevels
from vivavoce.nets.redistribute import PICTURES, redistributed
from vivavoce.nets.video_condition import Heard, VideoCondition, Voice

KINDS = 2  # of motion whose intensity can be told: expression, body


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """Which parts there are, and their size.

    ``levels``: of speech, two features a picture, so its "latent frames" are pictures here; None: deaf. ``every``: an injection
    comes after every so many blocks of the base. ``width``: numbers per token that an injection works on; at the 5B's 3072 and
    the default, an injection of speech has 3 million weights. ``selector``, ``injection``: as for `MotionTransformer`.
    ``pooled``: the mean of a latent frame's four pictures instead of all four side by side. ``around``: more pictures on either
    side that attention hears. ``identity``: whether there are eyes for a face; ``joints``: key points of a skeleton, 0 for none;
    ``intensity``: whether there is a dial for how much moves.
    """

    levels: LevelsConfig | None
    every: int = 1
    width: int = 512
    heads: int = 8
    selector: Literal["learned", "uniform"] = "learned"
    injection: Literal["film", "attention"] = "film"
    pooled: bool = False
    around: int = 2
    identity: bool = False
    joints: int = 0
    intensity: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("selector", self.selector, ("learned", "uniform")), ("injection", self.injection, ("film", "attention"))
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}: give one of {', '.join(known)}")
        widths = [self.width] if self.levels is None else [self.width, self.levels.width]
        if any(width % self.heads for width in widths):
            raise ValueError(f"{self.heads} heads do not divide widths of {' and '.join(map(str, widths))}: give fewer heads")
        if self.levels is not None and self.levels.stride != 2:
            raise ValueError(f"levels of video have two features a picture, not {self.levels.stride}: give stride 2")

    @property
    def injects(self) -> bool:
        """Whether anything comes in between the blocks."""
        return self.levels is not None or self.identity or self.joints > 0

    @property
    def places(self) -> int:
        """Pictures that attention to speech hears for one latent frame."""
        return 1 if self.pooled else PICTURES + 2 * self.around


@dataclass(frozen=True, kw_only=True)
class TokenMasks:
    """The condition's masks on the grid of tokens: of every voice, and of the face."""

    voices: tuple[Float[Tensor, "b t n 1"] | None, ...]
    face: Float[Tensor, "b t n 1"] | None

    @classmethod
    def of(cls, condition: VideoCondition, patch: Sequence[int]) -> TokenMasks:
        """A token's number is the mean over its patch of latents."""

        def tokens(mask: Tensor | None) -> Tensor | None:
            return None if mask is None else functional.avg_pool2d(mask.float(), tuple(patch)).flatten(2)[..., None]

        return cls(voices=tuple(tokens(voice.mask) for voice in condition.voices), face=tokens(condition.face_mask))


class VideoParts(nn.Module):
    """All parameters of ours for a base of so many blocks and such a width; ``channels`` of its latents."""

    def __init__(self, config: PartsConfig, *, blocks: int, width: int, channels: int):
        super().__init__()
        self.config = config
        count = blocks // config.every if config.injects else 0
        if config.every > blocks:
            raise ValueError(f"an injection after every {config.every} blocks is none, as the base has {blocks}: give fewer")
        if config.levels is not None:
            self.levels = SpeechLevels(config.levels)
            self.selector = LevelSelector(count, len(config.levels.names), config.selector)
        if config.identity:
            self.identity = FaceTokens(channels, config.width)
        if config.joints:
            self.skeleton = SkeletonTokens(config.joints, config.width)
        if config.intensity:
            self.intensity = Intensity(width)
        self.injections = nn.ModuleList(Injection(config, width) for _ in range(count))

    def hear(self, voice: Voice, pictures: int, *, aligned: bool) -> Heard:
        """A voice prepared for all injections; see `VideoTransformer.listen`."""
        speech = self._prepared(self.levels(voice.speech.to(self.levels.absent.dtype), pictures), aligned)
        return Heard(speech=speech, no_speech=self._nothing(pictures, aligned), mask=voice.mask, aligned=aligned)

    def hear_nobody(self, batch: int, pictures: int, *, aligned: bool) -> Heard:
        """Absent speech, prepared likewise."""
        nothing = self._nothing(pictures, aligned)
        return Heard(speech=tuple(part.expand(batch, -1, -1, -1) for part in nothing), no_speech=nothing, aligned=aligned)

    def see(
        self, batch: int, frames: int, *, face: Float[Tensor, "b c h w"] | None, skeleton: Float[Tensor, "b T j 3"] | None,
        intensity: Float[Tensor, "b 2"] | None,
    ) -> dict[str, Tensor]:
        """Fields of the condition for what can be seen, absent where it was not given."""
        seen: dict[str, Tensor] = {}
        if self.config.identity:
            seen["no_identity"] = self.identity.absent
            seen["identity"] = self.identity.absent.expand(batch, -1, -1, -1) if face is None else self.identity(face)
        if self.config.joints:
            count = self.config.joints * (1 if self.config.pooled else PICTURES)
            seen["no_skeleton"] = self.skeleton.absent
            seen["skeleton"] = (
                self.skeleton.absent.expand(batch, frames, count, -1) if skeleton is None
                else self.skeleton(skeleton, pooled=self.config.pooled)
            )
        if self.config.intensity:
            seen["intensity"] = self.intensity.neutral_for(batch) if intensity is None else self.intensity(intensity)
        return seen

    def _nothing(self, pictures: int, aligned: bool) -> tuple[Tensor, ...]:
        absent = self.levels.absent.expand(-1, -1, pictures, -1)
        return tuple(part[:, :1] for part in self._prepared(absent, aligned))

    def _prepared(self, levels: Float[Tensor, "l b T d"], aligned: bool) -> tuple[Float[Tensor, "b f n m"], ...]:
        if self.config.injection == "attention":
            return (self._tokens(levels, aligned),)
        prepared = []
        for injection, mixture in zip(self.injections, self.selector(levels), strict=True):
            assert isinstance(injection, Injection) and isinstance(injection.speech, MultiHeadFiLM)
            prepared.append(injection.speech.prepare(self._side_by_side(mixture, aligned))[:, :, None])
        return tuple(prepared)

    def _side_by_side(self, mixture: Float[Tensor, "b T d"], aligned: bool) -> Float[Tensor, "b f m"]:
        """Each latent frame's mixtures; those of one channel lie together, so that every head of FiLM hears all pictures."""
        own = redistributed(mixture if aligned else mixture.mean(1, keepdim=True))
        return own.mean(2) if self.config.pooled else own.transpose(2, 3).flatten(2)

    def _tokens(self, levels: Float[Tensor, "l b T d"], aligned: bool) -> Float[Tensor, "b f m d"]:
        """Each latent frame's levels, picture by picture, or those of all pictures."""
        by_picture = levels.permute(1, 2, 0, 3)
        if not aligned:
            return by_picture.flatten(1, 2)[:, None]
        if self.config.pooled:
            return redistributed(by_picture).mean(2)
        return redistributed(by_picture, self.config.around).flatten(2, 3)


class Injection(nn.Module):
    """What comes in after one block of the base: Z + sum_s mask_s Speech(Z, s) + face mask Identity(Z) + Skeleton(Z).

    All parts see the same normalised Z, as in FantasyTalking; its weights of the parts are left to their outputs.
    """

    def __init__(self, config: PartsConfig, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        levels = config.levels
        if levels is not None and config.injection == "film":
            condition = levels.width if config.pooled else PICTURES * levels.width
            self.speech: MultiHeadFiLM | TokenAttention = MultiHeadFiLM(width, condition, config.heads, config.width)
        elif levels is not None:
            self.speech = TokenAttention(width, levels.width, config.heads, config.width)
            self.place = nn.Parameter(torch.zeros(config.heads, config.places, len(levels.names)))
        if config.identity:
            self.identity = TokenAttention(width, config.width, config.heads, config.width)
        if config.joints:
            self.skeleton = TokenAttention(width, config.width, config.heads, config.width)

    def forward(
        self, hidden: Float[Tensor, "b t n d"], number: int, condition: VideoCondition, masks: TokenMasks,
        weights: Float[Tensor, " l"] | None,
    ) -> Float[Tensor, "b t n d"]:
        """What is to be added to ``hidden``, by injection ``number`` of the network; ``weights``: of its selector."""
        own = next(self.parameters()).dtype
        normed = self.norm(hidden.to(own))
        total = torch.zeros_like(normed)
        for voice, mask in zip(condition.voices, masks.voices, strict=True):
            total = total + _masked(self._spoken(normed, number, voice, weights), mask)
        if condition.identity is not None:
            total = total + _masked(self.identity(normed, condition.identity), masks.face)
        if condition.skeleton is not None:
            total = total + self.skeleton(normed, condition.skeleton)
        return total.to(hidden.dtype)

    def _spoken(self, normed: Tensor, number: int, voice: Heard, weights: Tensor | None) -> Tensor:
        if isinstance(self.speech, MultiHeadFiLM):
            return self.speech(normed, voice.speech[number])
        assert weights is not None
        tokens, = voice.speech
        if voice.aligned:
            return self.speech(normed, tokens, (self.place + weights.log()).flatten(1))
        return self.speech(normed, tokens, weights.log().repeat(tokens.shape[2] // len(weights))[None])


class FaceTokens(nn.Module):
    """Tokens of who somebody is, from the latents of a picture of the face alone."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 4, stride=2, padding=1),
        )
        self.norm = nn.LayerNorm(width)
        self.absent = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, face: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 m k"]:
        """A token for each two by two latents."""
        return self.norm(self.net(face.to(self.absent.dtype)).flatten(2).transpose(1, 2))[:, None]


class SkeletonTokens(nn.Module):
    """Tokens of a body's key points: for each latent frame the joints of its four pictures side by side (Hallo4).

    Hallo4 draws the skeleton and encodes pictures; numbers say the same with fewer tokens.
    """

    def __init__(self, joints: int, width: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width))
        self.joint = nn.Parameter(torch.randn(joints, width) * 0.5)
        self.place = nn.Parameter(torch.randn(PICTURES, 1, width) * 0.5)
        self.norm = nn.LayerNorm(width)
        self.absent = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, skeleton: Float[Tensor, "b T j 3"], *, pooled: bool) -> Float[Tensor, "b t m k"]:
        """``skeleton``: x, y in units of the picture and visibility, per picture; ``pooled``: the mean of the four."""
        own = redistributed(self.net(skeleton.to(self.absent.dtype)) + self.joint)
        return self.norm(own.mean(2) if pooled else (own + self.place).flatten(2, 3))


class Intensity(nn.Module):
    """How much the expression and the body move, each 0 to 1, added to the modulations that the blocks get of flow time
    (FantasyTalking, arXiv 2504.04842). The neutral 1/2 adds exactly nothing."""

    neutral = 0.5

    def __init__(self, width: int, hidden: int = 128):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(KINDS, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.out = nn.Linear(hidden, 6 * width, bias=False)
        nn.init.zeros_(self.out.weight)

    def neutral_for(self, batch: int) -> Float[Tensor, "b m"]:
        """What the neutral intensity adds: zeros."""
        return self.out.weight.new_zeros(batch, self.out.out_features)

    def forward(self, values: Float[Tensor, "b 2"]) -> Float[Tensor, "b m"]:
        """ValueError for values beyond 0 to 1."""
        if values.min() < 0 or values.max() > 1:
            raise ValueError(f"intensities from {float(values.min()):g} to {float(values.max()):g} were given: give 0 to 1")
        away = 2 * (values.to(self.out.weight.dtype) - self.neutral)
        return self.out(self.net(away) - self.net(torch.zeros_like(away)))


def config_of(values: dict[str, Any]) -> PartsConfig:
    """From its JSON; TypeError where keys are unknown."""
    levels = values["levels"]
    return PartsConfig(**{**values, "levels": None if levels is None else LevelsConfig.of(levels)})


def _masked(residual: Tensor, mask: Tensor | None) -> Tensor:
    return residual if mask is None else residual * mask.to(residual.dtype)
