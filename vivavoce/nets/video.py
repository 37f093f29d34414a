"""The velocity network of VideoSpace: a pretrained video transformer of the Wan family, and injections between its blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivavoce.nets.lora import activate, add_lora, lora_state, mixed, set_lora
from vivavoce.nets.redistribute import latent_frames
from vivavoce.nets.video_condition import VideoCondition, Voice
from vivavoce.nets.video_parts import PartsConfig, TokenMasks, VideoParts, config_of

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

POLICY, REFERENCE = "policy", "reference"  # the adapter that learns, and the one that it is held against
RESIDUAL = "residual_to_known"  # in a base's configuration, beside diffusers' own
WAN_STEPS = 1000.0  # Wan's timestep at pure noise
IMAGE_TEXT = 512  # states of text that bases with image states insist on


class VideoTransformer(nn.Module):
    """v(x_t, t, c) for windows of latents of a Wan autoencoder, flow time per latent frame.

    The base (`WanTransformer3DModel` of diffusers) is neither patched nor subclassed: its parts are called one after the other as
    its own forward does, and after every n-th block an injection adds what is heard and seen (`video_parts.Injection`). All that
    is added begins at zero, LoRA included, so a new network is the base. The base is frozen.

    Two kinds of base, told apart by their configuration. Where as many channels go in as come out (Wan 2.2 TI2V-5B, Wan 2.1
    T2V) each latent frame has its own flow time, and a reference or a window's prefix are frames at time 1; Wan 2.1 T2V has only
    known one time per clip, and learns this in training. Where more go in (Wan 2.1 I2V), the base takes one time per clip: all
    times of a sample must be equal, and what is known enters as `video_condition.still_channels`.

    Latents may be in single precision whatever the base computes in, and should be while a velocity field is integrated.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """``rank``: of LoRA on the attentions and feed-forward layers of all blocks, 0 for none. ``checkpointing``: blocks and
        injections are computed again in the backward pass instead of remembered, as `base.enable_gradient_checkpointing()` asks
        for too."""

        parts: PartsConfig
        rank: int = 0
        checkpointing: bool = False

    def __init__(self, base: WanTransformer3DModel, config: Config):
        """ValueError for a base that carries an adapter already, or that is of no kind that is known here."""
        super().__init__()
        shape = base.config
        deep, ends = shape["patch_size"][0], shape["pos_embed_seq_len"]
        if deep != 1 or ends is not None:
            raise ValueError(
                f"a base with patches of {deep} latent frames and pos_embed_seq_len {ends} is not supported: give Wan 2.1 T2V or "
                "I2V, or Wan 2.2 TI2V"
            )
        if any(".lora_" in name for name, _ in base.named_parameters()):
            raise ValueError("the base carries a LoRA adapter already: load it afresh")
        if shape.get(RESIDUAL) and shape["in_channels"] == shape["out_channels"]:
            raise ValueError("this base is not told by channels what is known: nothing can be residual to it")
        self.config, self.base, self.active = config, base.requires_grad_(False), POLICY
        self.metadata: dict[str, str] = {}
        own = VideoParts(
            config.parts, blocks=len(base.blocks), width=shape["num_attention_heads"] * shape["attention_head_dim"],
            channels=shape["out_channels"],
        )
        self.own = nn.ModuleDict({POLICY: own.to(base.device)})
        if config.rank:
            add_lora(base, config.rank, POLICY)

    @property
    def parts(self) -> VideoParts:
        """Our own parameters, of the active adapter."""
        parts = self.own[self.active]
        assert isinstance(parts, VideoParts)
        return parts

    @property
    def stills(self) -> int:
        """Channels that go in beside the noisy latents; 0 where each latent frame has its own flow time."""
        return self.base.config["in_channels"] - self.base.config["out_channels"]

    def listen(
        self, text: Float[Tensor, "b n k"], *, pictures: int, no_text: Float[Tensor, "1 n k"] | None = None,
        voices: Sequence[Voice] = (), image: Float[Tensor, "b m i"] | None = None,
        still: Float[Tensor, "b t s h w"] | None = None, face: Float[Tensor, "b c h w"] | None = None,
        face_mask: Float[Tensor, "b t h w"] | None = None, skeleton: Float[Tensor, "b T j 3"] | None = None,
        intensity: Float[Tensor, "b 2"] | None = None, aligned: bool = True,
    ) -> VideoCondition:
        """Condition for windows of so many pictures: 4k + 1 where a video begins, 4k where it goes on.

        ``text``, ``no_text``, ``image``: states of Wan's encoders; ``still``: see `still_channels`; ``face``: latents of a
        picture of the face alone; ``skeleton``: x, y in units of the picture and visibility. Parts that the network has but is
        not given here are absent (intensity is neutral); `VideoCondition.kept` drops them for training.

        ``aligned``: each latent frame hears its own pictures. False is the clip-level stage of FantasyTalking: with attention,
        each hears the tokens of all pictures, which have no order. FiLM can't find its moment among them; it gets the mean over
        the clip, which says how somebody speaks but not what.

        The condition belongs to the active adapter: its reference needs one of its own (`Reference.listen`).
        """
        parts, config = self.parts, self.config.parts
        frames = latent_frames(pictures)
        self._refuse(text, image, still, {
            "voices": bool(voices) and config.levels is None, "face": face is not None and not config.identity,
            "skeleton": skeleton is not None and not config.joints,
            "intensity": intensity is not None and not config.intensity,
        })
        heard = tuple(parts.hear(voice, pictures, aligned=aligned) for voice in voices)
        if config.levels is not None and not voices:
            heard = (parts.hear_nobody(len(text), pictures, aligned=aligned),)
        seen = parts.see(len(text), frames, face=face, skeleton=skeleton, intensity=intensity)
        return VideoCondition(text=text, no_text=no_text, voices=heard, image=image, still=still, face_mask=face_mask, **seen)

    def _refuse(self, text: Tensor, image: Tensor | None, still: Tensor | None, unknown: Mapping[str, bool]) -> None:
        """ValueError where what was given is not what the network takes."""
        for name, given in unknown.items():
            if given:
                raise ValueError(f"{name}: this network was made without; leave it out, or train one that takes it")
        for name, part, takes in (
            ("image states", image, self.base.config["image_dim"] is not None), ("known latents (still)", still, self.stills > 0)
        ):
            if (part is not None) != takes:
                raise ValueError(f"this base takes {'' if takes else 'no '}{name}: {'give them' if takes else 'leave them out'}")
        if image is not None and text.shape[1] != IMAGE_TEXT:
            raise ValueError(f"{text.shape[1]} states of text were given: a base with image states takes {IMAGE_TEXT}, padded")

    def forward(
        self, point: Float[Tensor, "b t c h w"], time: Float[Tensor, "b t"], condition: VideoCondition
    ) -> Float[Tensor, "b t c h w"]:
        """Velocity at noisy latents, each frame at its flow time (0 noise, 1 data).

        Wan's convention is ours the other way round: its timestep is 1000 (1 - t), and it predicts noise - data. It is converted
        here and nowhere else.
        """
        timestep = WAN_STEPS * (1.0 - time)
        if self.stills:
            assert bool((time == time[:, :1]).all()), "this base has one flow time per clip: known frames go into still_channels"
            timestep = timestep[:, :1]
        if not self.base.config.get(RESIDUAL):
            return -self._walk(point, timestep, condition).to(point.dtype)
        assert condition.still is not None
        known = condition.still[:, :, -point.shape[2] :].to(point)
        # From noise to data - known, at the same time: x_t - t known; its velocity is less by what is known.
        return known - self._walk(point - time[:, :, None, None, None] * known, timestep, condition).to(point.dtype)

    def _walk(self, point: Tensor, timestep: Float[Tensor, "b f"], condition: VideoCondition) -> Float[Tensor, "b t c h w"]:
        """What the base's own forward does, with the injections."""
        base, (rows, columns) = self.base, self.base.config["patch_size"][1:]
        height, width = point.shape[3] // rows, point.shape[4] // columns
        if (height * rows, width * columns) != point.shape[3:]:
            raise ValueError(f"latents of {point.shape[3]} x {point.shape[4]}: give multiples of {rows} x {columns}")
        dtype = base.patch_embedding.weight.dtype
        latents = point if condition.still is None else torch.cat([point, condition.still.to(point)], 2)
        latents = latents.transpose(1, 2).to(dtype)
        rotary = base.rope(latents)
        hidden = base.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
        embedded, modulation, context = self._embedded(timestep, condition, dtype)
        # The flow time of a frame is that of its tokens; one for all frames is what older bases know.
        modulation = modulation[:, 0] if timestep.shape[1] == 1 else modulation.repeat_interleave(height * width, 1)
        hidden = self._blocks(hidden, context, modulation, rotary, condition, (height, width))
        table = base.scale_shift_table.to(embedded.device)
        shift, scale = (table[:, None] + embedded[:, :, None]).chunk(2, dim=2)
        normed = base.norm_out(hidden.float()).unflatten(1, (point.shape[1], -1))
        out = base.proj_out((normed * (1 + scale) + shift).to(hidden.dtype))
        patches = out.unflatten(-1, (rows, columns, -1)).unflatten(2, (height, width))
        return patches.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _embedded(
        self, timestep: Float[Tensor, "b f"], condition: VideoCondition, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b f d"], Float[Tensor, "b f 6 d"], Float[Tensor, "b n d"]]:
        """Flow times, the blocks' modulations made of them and of intensity, and what the blocks attend to."""
        image = None if condition.image is None else condition.image.to(dtype)
        embedded, modulation, context, seen = self.base.condition_embedder(
            timestep.flatten(), condition.text.to(dtype), image, timestep_seq_len=timestep.shape[1]
        )
        if condition.intensity is not None:
            modulation = modulation + condition.intensity[:, None].to(modulation.dtype)
        context = context if seen is None else torch.cat([seen, context], 1)
        return embedded, modulation.unflatten(2, (6, -1)), context

    def _blocks(
        self, hidden: Float[Tensor, "b n d"], context: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor],
        condition: VideoCondition, grid: tuple[int, int],
    ) -> Float[Tensor, "b n d"]:
        parts, every = self.parts, self.config.parts.every
        masks = TokenMasks.of(condition, self.base.config["patch_size"][1:])
        weights = None if self.config.parts.levels is None else parts.selector.weights()
        again = torch.is_grad_enabled() and (self.config.checkpointing or self.base.gradient_checkpointing)
        per_frame = grid[0] * grid[1]

        def layer(i: int, hidden: Tensor) -> Tensor:
            hidden = self.base.blocks[i](hidden, context, modulation, rotary)
            injection, left = divmod(i + 1, every)
            if left or not parts.injections:
                return hidden
            frames = hidden.unflatten(1, (-1, per_frame))
            own = None if weights is None else weights[injection - 1]
            added = parts.injections[injection - 1](frames, injection - 1, condition, masks, own)
            return hidden + added.flatten(1, 2)

        for i in range(len(self.base.blocks)):
            hidden = checkpoint(layer, i, hidden, use_reentrant=False) if again else layer(i, hidden)
        return hidden

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Compute with another adapter inside a with statement: the same base, other LoRA weights and other parts of ours.

        Checkpointed blocks are computed again in the backward pass: with that adapter which is active then.
        """
        if name not in self.own:
            raise ValueError(f"there is no adapter {name!r}: there are {', '.join(self.own)}")
        before = self.active
        self._activate(name)
        try:
            yield
        finally:
            self._activate(before)

    def _activate(self, name: str) -> None:
        self.active = name
        if self.config.rank:
            activate(self.base, name)

    def reference(self) -> Reference:
        """The field of an adapter that the policy is held against: its copy as it is now, or the one there is already."""
        if REFERENCE not in self.own:
            trained = {parameter: parameter.requires_grad for parameter in self.parameters()}
            self.own[REFERENCE] = deepcopy(self.own[POLICY]).requires_grad_(False).eval()
            if self.config.rank:
                add_lora(self.base, self.config.rank, REFERENCE)
                self._activate(self.active)
            for parameter in self.base.parameters():
                parameter.requires_grad_(trained.get(parameter, False))
            self.follow(0.0)
        return Reference(self)

    @torch.no_grad()
    def follow(self, keep: float) -> None:
        """The reference keeps so much of itself and takes the rest from the policy: a moving average over calls."""
        policy, reference = self.own[POLICY].state_dict(), self.own[REFERENCE].state_dict()
        for key, weight in reference.items():
            mixed(weight, policy[key], keep)
        set_lora(self.base, REFERENCE, lora_state(self.base.state_dict(), POLICY), keep)

    def train(self, mode: bool = True) -> VideoTransformer:
        """As for every module, but a reference never drops anything out."""
        super().train(mode)
        if REFERENCE in self.own:
            self.own[REFERENCE].eval()
        return self

    def adapter_state(self, name: str = POLICY, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """LoRA weights and our own parameters under one adapter's name, which is not in the keys. ``state``: of the whole
        network, where it had to be gathered from several processes."""
        state = self.state_dict() if state is None else state
        begins = f"own.{name}."
        own = {f"own.{key.removeprefix(begins)}": weight for key, weight in state.items() if key.startswith(begins)}
        base = {key.removeprefix("base."): weight for key, weight in state.items() if key.startswith("base.")}
        return own | {f"lora.{key}": weight for key, weight in lora_state(base, name).items()}

    def set_adapter(self, state: Mapping[str, Tensor], name: str = POLICY) -> None:
        """Give an adapter what `adapter_state` told. KeyError or RuntimeError where it does not fit."""
        own = {key.removeprefix("own."): weight for key, weight in state.items() if key.startswith("own.")}
        self.own[name].load_state_dict(own)
        set_lora(self.base, name, {k.removeprefix("lora."): v for k, v in state.items() if k.startswith("lora.")})

    def save(self, path: Path, metadata: Mapping[str, str], state: Mapping[str, Tensor] | None = None) -> None:
        """The policy and its configuration in one safetensors file, without the base; ``state`` as for `adapter_state`."""
        config = {"net": asdict(self.config), "base": base_config(self.base)}
        tensors = {key: weight.detach().contiguous() for key, weight in self.adapter_state(state=state).items()}
        save_file(tensors, path, {**metadata, "config": json.dumps(config)})

    @classmethod
    def load(cls, base: WanTransformer3DModel, path: Path) -> VideoTransformer:
        """What `save` saved, on the base that it was trained on; ValueError where the base's configuration differs."""
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata() or {}
        try:
            config = json.loads(metadata.pop("config"))
            trained, net = config["base"], config["net"]
            made = cls.Config(**{**net, "parts": config_of(net["parts"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is of another version of vivavoce ({error}): train the adapter again") from error
        given = base_config(base)
        for name in sorted(trained.keys() | given.keys()):
            if trained.get(name) != given.get(name):
                raise ValueError(
                    f"{path} was trained on a base with {name} {trained.get(name)}, this one has {given.get(name)}: "
                    "give the base that it was trained on"
                )
        self = cls(base, made)
        for dtype in {weight.dtype for key, weight in tensors.items() if key.startswith("own.")}:
            self.own.to(dtype)
        self.set_adapter(tensors)
        self.metadata = metadata
        return self.eval()


class Reference:
    """The velocity field of the reference: neither differentiated nor dropped out, and with ears of its own."""

    def __init__(self, net: VideoTransformer):
        self.net = net

    @torch.no_grad()
    def listen(self, text: Tensor, **given: Any) -> VideoCondition:
        """As `VideoTransformer.listen`."""
        with self.net.using(REFERENCE):
            return self.net.listen(text, **given)

    @torch.no_grad()
    def __call__(
        self, point: Float[Tensor, "b t c h w"], time: Float[Tensor, "b t"], condition: VideoCondition
    ) -> Float[Tensor, "b t c h w"]:
        with self.net.using(REFERENCE):
            return self.net(point, time, condition)


def base_config(base: WanTransformer3DModel) -> dict[str, Any]:
    """What makes a base the one that an adapter was trained on, as its JSON."""
    return json.loads(json.dumps({key: value for key, value in base.config.items() if not key.startswith("_")}))
