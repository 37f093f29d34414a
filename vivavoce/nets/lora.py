"""Low-rank adapters on a pretrained network through peft, several by name and one of them active."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")  # of every block of WanTransformer3DModel


def add_lora(base: Any, rank: int, name: str) -> None:
    """Another adapter on the base, a diffusers model; it changes nothing yet. It can be trained, and becomes the active one."""
    from peft import LoraConfig

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # there may be several, as the name says
        base.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)), adapter_name=name)


def activate(base: nn.Module, name: str) -> None:
    """Compute with one adapter from now on. What can be trained stays as it is, which peft by itself would change."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    trained = {parameter: parameter.requires_grad for parameter in base.parameters()}
    for module in base.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter([name])
    for parameter, wanted in trained.items():
        parameter.requires_grad_(wanted)


def lora_state(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """One adapter's weights in the state of a base, their keys without its name."""
    ends = {f".lora_{side}.{name}.weight": f".lora_{side}.weight" for side in "AB"}
    return {
        key.removesuffix(end) + plain: weight for key, weight in state.items() for end, plain in ends.items() if key.endswith(end)
    }


@torch.no_grad()
def set_lora(base: nn.Module, name: str, state: Mapping[str, Tensor], keep: float = 0.0) -> None:
    """Give an adapter the weights, keeping a share of its own. KeyError unless they are exactly its own in name and number."""
    there = lora_state(base.state_dict(), name)
    if there.keys() != state.keys():
        raise KeyError(f"{sorted(there.keys() ^ state.keys())[0]} is in one of the adapters only")
    for key, weight in there.items():
        mixed(weight, state[key], keep)


@torch.no_grad()
def mixed(into: Tensor, weight: Tensor, keep: float) -> None:
    """``into`` becomes keep * into + (1 - keep) * weight; exactly the weight where nothing is kept."""
    if keep == 0.0:
        into.copy_(weight)
    else:
        into.lerp_(weight.to(into), 1.0 - keep)
