"""Facial motion with names and units, and its packing into latent vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.latent.mesh import REGIONS

MOTION_RATE_HZ = 25.0
"""Rate of tracked and generated motion; pictures may have any other."""

POSE = ("rotation", "translation", "log_scale")
"""The fields of `Motion` that are the head's."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Motion of a face over time, away from its own neutral face (closed lips) and its own reference pose.

    ``lips_jaw``, ``cheeks_brows``, ``eyelids``: expression by region, in standard deviations of the face model's directions.
    ``gaze``: of the eyeballs against their rest, (right, down) of the picture, radians.
    ``rotation``: of the head against its reference pose, rotation vector in picture axes (x right, y down, z away), radians.
    ``translation``: of the head in the picture, (right, down), face heights. ``log_scale``: natural log of its size.
    """

    lips_jaw: Float[Tensor, "*b t k"]
    cheeks_brows: Float[Tensor, "*b t k"]
    eyelids: Float[Tensor, "*b t k"]
    gaze: Float[Tensor, "*b t 2"]
    rotation: Float[Tensor, "*b t 3"]
    translation: Float[Tensor, "*b t 2"]
    log_scale: Float[Tensor, "*b t 1"]

    def __len__(self) -> int:
        return self.gaze.shape[-2]

    def expression(self) -> dict[str, Float[Tensor, "*b t k"]]:
        """Coefficients by region of the face model."""
        return {"lips_jaw": self.lips_jaw, "cheeks_brows": self.cheeks_brows, "eyelids": self.eyelids}

    def amplified(self, amplitude: Mapping[str, float]) -> Motion:
        """Fields multiplied by factors, by name."""
        return replace(self, **{name: factor * vars(self)[name] for name, factor in amplitude.items()})


@dataclass(frozen=True)
class Layout:
    """The one declaration of how motion is packed: field -> width, in order."""

    widths: Mapping[str, int]

    @classmethod
    def of(cls, expression: Mapping[str, int]) -> Layout:
        """The layout for a face model with so many coefficients by region."""
        return cls({**{r: expression[r] for r in REGIONS}, "gaze": 2, "rotation": 3, "translation": 2, "log_scale": 1})

    @property
    def width(self) -> int:
        return sum(self.widths.values())

    def pack(self, motion: Motion) -> Float[Tensor, "*b t d"]:
        """The fields side by side, in the layout's order; inverse of `unpack`."""
        parts = [vars(motion)[name] for name in self.widths]
        assert [p.shape[-1] for p in parts] == list(self.widths.values()), [tuple(p.shape) for p in parts]
        return torch.cat(parts, -1)

    def unpack(self, values: Float[Tensor, "*b t d"]) -> Motion:
        """The fields of packed motion; ValueError where the width is another layout's."""
        if values.shape[-1] != self.width:
            raise ValueError(
                f"packed motion has {values.shape[-1]} numbers a frame, this layout expects {self.width}: "
                "it comes from another face model"
            )
        return Motion(**dict(zip(self.widths, values.split(list(self.widths.values()), -1), strict=True)))

    def spread(self, by_field: Mapping[str, float]) -> Float[Tensor, " d"]:
        """One number per field, repeated over the field's width."""
        return torch.cat([torch.full((width,), float(by_field[name])) for name, width in self.widths.items()])
