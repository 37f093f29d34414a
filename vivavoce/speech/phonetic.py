"""The phonetic stream: which sounds are being spoken, from a small convolutional network that streams.

The network is ours (`vivavoce train phonetic`): log-mel features of the acoustic stream in, posteriors over `phones.PHONES` and
the bottleneck that they are read from out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vivavoce.speech import acoustic
from vivavoce.speech.encoder import RATE_HZ
from vivavoce.speech.phones import VISEME_OF, VISEMES

PhoneticState = tuple[Tensor, ...]
"""What every convolution still needs of its input's past, (kernel - 1, channels) each."""


class PhoneticNetwork(nn.Module):
    """Log-mel features to a bottleneck per frame, and to phone logits that are linear in it.

    A convolution over time, then residual blocks of a depthwise convolution over time, a norm and two layers over channels. Every
    convolution reaches mostly back; ``ahead`` of them reach one frame ahead, so that the output for frame i needs the input up to
    frame i + ``ahead``. All convolutions are valid ones: what lies before the sound is given as input.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """``phones``: how many classes; ``ahead``: frames; the rest is the network's size."""

        phones: int
        bottleneck: int = 64
        width: int = 256
        blocks: int = 7
        kernel: int = 9
        stem_kernel: int = 5
        expansion: int = 2
        ahead: int = 6

        @property
        def past(self) -> int:
            """Frames before its own that an output depends on."""
            return self.stem_kernel - 1 + self.blocks * (self.kernel - 1) - self.ahead

        @property
        def lookahead_seconds(self) -> float:
            return self.ahead / RATE_HZ

    def __init__(self, config: Config):
        super().__init__()
        assert config.ahead <= config.blocks + 1, "each convolution reaches at most one frame ahead"
        self.config = config
        self.stem = nn.Conv1d(acoustic.WIDTH, config.width, config.stem_kernel)
        ahead = [1] * (config.ahead - 1) + [0] * (config.blocks - config.ahead + 1)
        self.blocks = nn.ModuleList(PhoneticBlock(config, a) for a in ahead)
        self.narrow = nn.Linear(config.width, config.bottleneck)
        self.norm = nn.LayerNorm(config.bottleneck, elementwise_affine=False)
        self.classify = nn.Linear(config.bottleneck, config.phones)

    def forward(self, spectra: Float[Tensor, "b t+past+ahead c"]) -> Float[Tensor, "b t d"]:
        """Bottleneck features of the frames whose whole context is there."""
        hidden = functional.hardswish(self.stem(spectra.transpose(1, 2)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(self.narrow(hidden.transpose(1, 2)))

    def logits(self, bottleneck: Float[Tensor, "*b d"]) -> Float[Tensor, "*b p"]:
        """Phone logits; softmax gives the posteriors."""
        return self.classify(bottleneck)

    def visemes(self, bottleneck: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        """Posteriors of `phones.VISEMES`: a viseme is as likely as its phones together."""
        posterior = self.logits(bottleneck).softmax(-1)
        return posterior.new_zeros(*posterior.shape[:-1], len(VISEMES)).index_add(-1, torch.tensor(VISEME_OF), posterior)

    @torch.inference_mode()
    def start(self, silence: Float[Tensor, " c"]) -> PhoneticState:
        """The state after the input has been ``silence`` for ever."""
        config = self.config
        hidden = silence.expand(1, config.past + config.ahead + 1, -1).transpose(1, 2)
        state = [hidden[..., 1 - config.stem_kernel :]]
        hidden = functional.hardswish(self.stem(hidden))
        for block in self.blocks:
            state.append(hidden[..., 1 - config.kernel :])
            hidden = block(hidden)
        return tuple(part.clone() for part in state)

    @torch.inference_mode()
    def step(self, spectra: Float[Tensor, "n c"], state: PhoneticState) -> tuple[Float[Tensor, "n d"], PhoneticState]:
        """``n`` further inputs in, as many bottleneck features out: those of ``ahead`` frames earlier."""
        heard = torch.cat([state[0], spectra.T[None]], 2)
        after = [heard[..., heard.shape[2] - state[0].shape[2] :]]
        hidden = functional.hardswish(self.stem(heard))
        for block, past in zip(self.blocks, state[1:], strict=True):
            heard = torch.cat([past, hidden], 2)
            after.append(heard[..., heard.shape[2] - past.shape[2] :])
            hidden = block(heard)
        return self.norm(self.narrow(hidden[0].T)), tuple(after)

    def fingerprint(self) -> str:
        """A digest of the weights: what was trained on this network's features needs these very ones."""
        digest = hashlib.sha256()
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Weights and configuration in one safetensors file."""
        config = {"config": json.dumps(asdict(self.config))}
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, path, {**metadata, **config})

    @classmethod
    def load(cls, path: Path) -> PhoneticNetwork:
        """What `save` saved, for inference."""
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})["config"])
            network = cls(cls.Config(**config))
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})
        return network.eval().requires_grad_(False)


class PhoneticBlock(nn.Module):
    """x + MLP(norm(depthwise convolution(x))), with x cut to the frames that have their context."""

    def __init__(self, config: PhoneticNetwork.Config, ahead: int):
        super().__init__()
        self.ahead = ahead
        self.time = nn.Conv1d(config.width, config.width, config.kernel, groups=config.width)
        self.norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.expansion * config.width), nn.Hardswish(),
            nn.Linear(config.expansion * config.width, config.width),
        )

    def forward(self, hidden: Float[Tensor, "b c t+k-1"]) -> Float[Tensor, "b c t"]:
        mixed = self.mlp(self.norm(self.time(hidden).transpose(1, 2))).transpose(1, 2)
        first = hidden.shape[2] - mixed.shape[2] - self.ahead
        return hidden[..., first : first + mixed.shape[2]] + mixed
