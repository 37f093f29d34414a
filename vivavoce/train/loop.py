"""What every training has in common: schedule, optimiser, moving average of the weights, and checkpoints to go on from."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

TOLD = "run.json"  # what a folder says of the run that it is of

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW with linear warm-up, then a cosine to a twentieth; ``ema`` is the memory of the moving average of the weights."""

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    ema: float = 0.999
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0))))


class Run(Generic[N]):
    """A network on its way: optimiser, moving average of the weights, step, and their checkpoint in ``file``.

    ``companion``: other weights that go with it, such as a reference that follows; saved and restored, never updated here.
    ``optimiser``: over the network's parameters, by default AdamW as the schedule says; its rates are set to the schedule's.
    """

    def __init__(
        self, net: N, schedule: Schedule, file: Path, companion: Mapping[str, Tensor] | None = None,
        optimiser: torch.optim.Optimizer | None = None,
    ):
        self.net, self.schedule, self.file, self.step = net, schedule, file, 0
        self.companion = dict(companion or {})
        self.average = {k: v.clone() for k, v in net.state_dict().items()}
        self.optimiser = optimiser or torch.optim.AdamW(
            net.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=(0.9, 0.98)
        )

    @property
    def done(self) -> bool:
        return self.step >= self.schedule.steps

    def update(self, loss: Tensor) -> float:
        """One step down the loss; its value. FloatingPointError where the loss is not finite, before anything changes."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss of step {self.step} is {value}: take a smaller learning rate")
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.schedule.clip)
        self.optimiser.step()
        self.step += 1
        keep = min(self.schedule.ema, self.step / (self.step + 9))  # short memory at first, or the start would stay in it
        for key, weight in self.net.state_dict().items():
            self.average[key].lerp_(weight, 1 - keep)
        return value

    def averaged(self) -> N:
        """A network with the averaged weights, for inference."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(self.average)
        return net.eval()

    def save(self) -> None:
        """A complete file at every moment, whenever the process ends."""
        partial = self.file.with_suffix(".part")
        networks = {"net": self.net.state_dict(), "average": self.average, "companion": self.companion}
        torch.save({**networks, "optimiser": self.optimiser.state_dict(), "step": self.step}, partial)
        partial.rename(self.file)

    def restore(self) -> bool:
        """Go back to the checkpoint, if there is one. ValueError where it is damaged, of another network, or beyond the last
        step."""
        if not self.file.exists():
            return False
        try:
            state = torch.load(self.file, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step = state["average"], state["step"]
            for key, weight in state.get("companion", {}).items():
                self.companion[key].copy_(weight)
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(f"the checkpoint {self.file} is damaged or of another network: remove it to begin anew") from error
        if self.step > self.schedule.steps:
            raise ValueError(
                f"{self.file.parent} has been trained for {self.step} steps, more than the {self.schedule.steps} that were asked "
                "for: give as many, or another folder"
            )
        return True


def check_claim(out: Path, stamp: Mapping[str, Any], files: Sequence[str], told: str = TOLD) -> None:
    """ValueError where one of ``files``, the checkpoints and weights of a run, lies in the folder and is not of the run that the
    stamp tells of. What is only known once recordings are prepared may be missing in it: `claim` is told all, this nothing."""
    known = _told(out / told)
    if known is None or any(known.get(key) != value for key, value in _plain(stamp).items()):
        _refuse_others(out, files, told)


def claim(out: Path, stamp: Mapping[str, Any], files: Sequence[str], told: str = TOLD) -> None:
    """Make the folder of a run, and tell it in the file ``told`` which run it is of: what would give other weights is in
    ``stamp``. ValueError, and nothing is touched, where another run's ``files`` (checkpoints and weights) lie in it: they would
    be gone on from, or replaced. Trainings that may share a folder have other files and another ``told``."""
    file, plain = out / told, _plain(stamp)
    if _told(file) == plain:
        return
    _refuse_others(out, files, told)
    out.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(plain, indent=1, sort_keys=True))
    partial.rename(file)


def stamp_of(command: str, recipe: Any, *, free: Collection[str] = (), **more: Any) -> dict[str, Any]:
    """A stamp for `claim`: the recipe, a dataclass, without its folders, its length and how often it is kept or looked at, which
    a run may change when it goes on, and without what else is ``free``; ``more``: what it learns from."""
    leave = {"out", "data", "steps", "log_every", "check_every", "checkpoint_every", *free}
    return {"command": command, **{k: v for k, v in asdict(recipe).items() if k not in leave}, **more}


def digest(values: Iterable[Tensor | np.ndarray | str]) -> str:
    """Tells data apart: 16 letters that depend on all of them, on their order, shapes and kinds."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, str):
            found.update(f"{value}\n".encode())
        else:
            array = np.ascontiguousarray(value.numpy() if isinstance(value, Tensor) else value)
            found.update(f"{array.shape} {array.dtype}\n".encode())
            found.update(array.tobytes())
    return found.hexdigest()[:16]


def _plain(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from its file."""
    return json.loads(json.dumps(stamp, default=list))


def _told(file: Path) -> dict[str, Any] | None:
    """The stamp in a file; None where there is none, or it is damaged and says nothing."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _refuse_others(out: Path, files: Sequence[str], told: str) -> None:
    for name in files:
        if (out / name).exists():
            known = f" (its {told} says of which)" if (out / told).exists() else ""
            raise ValueError(f"{out} holds a {name} that is not of this run{known}: give another folder, or move it away")


def forget(log: Path, step: int) -> None:
    """Take out of a log what a run wrote after the checkpoint that it goes on from, and a line that is not whole."""
    if log.exists():
        kept = []
        for line in log.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except json.JSONDecodeError:
                break
        partial = log.with_suffix(".part")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.rename(log)


def mixed_precision() -> AbstractContextManager:
    """Products of matrices in bfloat16 where this processor computes them so, which is several times faster; else as they are."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())
