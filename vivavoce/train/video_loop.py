"""Training through `accelerate`: one process or many, whole or sharded networks, half or single precision.

Which of these it is, `accelerate launch` decides; nothing here or above asks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vivavoce.components import module
from vivavoce.train.loop import Schedule, check_claim, claim

_SMALL = 100_000  # numbers in a parameter
Precision = Literal["no", "bf16"]
_PATIENCE = timedelta(days=2)  # that processes wait for each other: one may be preparing data


def claim_together(accelerator: Any, out: Path, stamp: Mapping[str, Any], files: Sequence[str]) -> None:
    """`loop.claim` by all processes: each refuses what is another run's, and the first tells the folder."""
    check_claim(out, stamp, files)
    accelerator.wait_for_everyone()  # nobody writes what another has yet to look at
    if accelerator.is_main_process:
        claim(out, stamp, files)


def weights_of(net: nn.Module) -> str:
    """Tells networks apart by their small parameters (norms, biases, tables): all of them may be many gigabytes."""
    small = (p.detach().double().abs().mean() for p in net.parameters() if p.numel() <= _SMALL)
    return f"{sum(float(value) for value in small):.9e}"


def make_accelerator(precision: Precision | None = None, accumulate: int = 1) -> Any:
    """The processes as `accelerate launch` made them, or this one alone. ``precision``: None for what the launcher says."""
    accelerate = module("accelerate")
    return accelerate.Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=accumulate, kwargs_handlers=[
            # A part that a step has no use for (a place that attention does not look at) has no gradient in it.
            accelerate.DistributedDataParallelKwargs(find_unused_parameters=True),
            accelerate.InitProcessGroupKwargs(timeout=_PATIENCE),
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """``rates``: learning rate of the parameters whose names have a part in them ("lora_"), the first that fits; "" fits all.
    They are frozen where none does. ``ema``: memory of the moving average of the weights, 0 for none."""

    steps: int
    rates: Mapping[str, float]
    warmup: int = 50
    weight_decay: float = 0.0
    ema: float = 0.99
    clip: float = 1.0
    log_every: int = 10
    checkpoint_every: int = 100


class Training:
    """A task on its way: optimiser, moving average of what is trained, step, log, and a checkpoint to go on from in ``out``.

    The task's forward takes a batch and gives a loss and figures to watch. What is drawn at random has to be a function of the
    step, so that no state of a generator need be kept: a run that went on gives the weights of one that was never interrupted.
    """

    def __init__(self, accelerator: Any, task: nn.Module, pace: Pace, out: Path):
        self.accelerator, self.plain, self.pace, self.out, self.step = accelerator, task, pace, out, 0
        self.file, self._log = out / "checkpoint.pt", out / "log.jsonl"
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in task.named_parameters():
            if parameter.requires_grad:
                fits = next((part for part in pace.rates if part in name), None)
                parameter.requires_grad_(fits is not None)
                if fits is not None:
                    groups.setdefault(fits, []).append(parameter)
        self.rates = [pace.rates[part] for part in groups]
        self.task, self.optimiser = accelerator.prepare(task, torch.optim.AdamW(
            [{"params": group, "lr": pace.rates[part]} for part, group in groups.items()],
            weight_decay=pace.weight_decay, betas=(0.9, 0.98),
        ))
        self.sharded = "FSDP" in str(accelerator.distributed_type)
        self.average = {name: p.detach().clone() for name, p in self._trained()}
        self._schedule = Schedule(steps=pace.steps, learning_rate=1.0, warmup=pace.warmup)
        self._seen: list[dict[str, float]] = []

    @property
    def done(self) -> bool:
        return self.step >= self.pace.steps

    def update(self, batches: Iterable[Any]) -> dict[str, float]:
        """One step down the mean loss of so many batches as gradients are accumulated over; means of their figures.

        FloatingPointError where a loss is not finite, before anything changes.
        """
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * self._schedule.rate(self.step)
        seen: list[dict[str, float]] = []
        for batch in batches:
            with self.accelerator.accumulate(self.task):
                loss, watched = self.task(batch)
                value = float(loss.detach())
                seen.append({"loss": value, **watched})
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss of step {self.step} is {value}: take a smaller learning rate")
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self._complete()
                    self.accelerator.clip_grad_norm_([p for _, p in self._trained()], self.pace.clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
        self.step += 1
        keep = min(self.pace.ema, self.step / (self.step + 9))  # short memory at first, or the start would stay in it
        with torch.no_grad():
            for name, parameter in self._trained():
                self.average[name].lerp_(parameter.detach(), 1 - keep)
        figures = {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}
        self._seen.append(figures)
        return figures

    def log(self, **more: float | bool) -> None:
        """Every so many steps a line of figures, means over steps and processes, in ``log.jsonl``."""
        if self.step % self.pace.log_every and not self.done:
            return
        names = list(self._seen[0])
        own = torch.tensor([[figures[name] for name in names] for figures in self._seen], device=self.accelerator.device)
        means = self.accelerator.reduce(own.float().mean(0), "mean").tolist()
        self._seen.clear()
        if self.accelerator.is_main_process:
            with self._log.open("a") as log:
                log.write(json.dumps({"step": self.step, **dict(zip(names, means, strict=True)), **more}) + "\n")

    def state(self) -> dict[str, Tensor]:
        """All of the task's weights, gathered on the main process where they are sharded (elsewhere it may be empty)."""
        if not self.sharded:
            return {name: weight.detach() for name, weight in self.plain.state_dict().items()}
        return self.accelerator.get_state_dict(self.task)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The task has its averaged weights inside a with statement."""
        with torch.no_grad():
            own = {name: p.detach().clone() for name, p in self._trained()}
            for name, parameter in self._trained():
                parameter.copy_(self.average[name])
            try:
                yield
            finally:
                for name, parameter in self._trained():
                    parameter.copy_(own[name])

    def save(self, companion: Mapping[str, Tensor] | None = None) -> None:
        """A complete file at every moment, whenever the processes end. ``companion``: other weights that go with it."""
        with self.averaged():
            average = self._weights()
        kept = {
            "weights": self._weights(), "average": average, "optimiser": self._optimiser_state(), "step": self.step,
            "companion": dict(companion or {}),
        }
        if self.accelerator.is_main_process:
            partial = self.file.with_suffix(".part")
            torch.save(kept, partial)
            partial.rename(self.file)
        self.accelerator.wait_for_everyone()

    def restore(self) -> dict[str, Tensor] | None:
        """Go back to the checkpoint, if there is one; its companion. ValueError where it is of another network."""
        if not self.file.exists():
            return None
        kept = torch.load(self.file, weights_only=True, map_location="cpu")
        names = {name for name, _ in self._trained()}
        if not self.sharded and kept["weights"].keys() != names:
            raise ValueError(f"{self.file} is of a network with other parts: give another folder, or remove it")
        self._set_weights(kept["average"])
        self.average = {name: p.detach().clone() for name, p in self._trained()}
        self._set_weights(kept["weights"])
        self._set_optimiser_state(kept["optimiser"])
        self.step = kept["step"]
        if self.accelerator.is_main_process and self._log.exists():  # what came after the checkpoint comes again
            lines = [line for line in self._log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
            self._log.write_text("".join(line + "\n" for line in lines))
        return kept["companion"]

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.plain.named_parameters() if p.requires_grad]

    def _complete(self) -> None:
        """A gradient for every parameter, so that the optimiser remembers all of them from the first step on."""
        for _, parameter in self._trained():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _weights(self) -> dict[str, Any]:
        """Of what is trained; sharded ones are gathered, on the main process."""
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import get_model_state_dict

            return get_model_state_dict(self.task, options=_gathered(ignore_frozen_params=True))
        return {name: p.detach().cpu().clone() for name, p in self._trained()}

    def _set_weights(self, weights: dict[str, Any]) -> None:
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import set_model_state_dict

            set_model_state_dict(self.task, weights, options=_gathered(strict=False))
            return
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(weights[name])

    def _optimiser_state(self) -> dict[str, Any]:
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

            return get_optimizer_state_dict(self.task, self.optimiser.optimizer, options=_gathered())
        return self.optimiser.state_dict()

    def _set_optimiser_state(self, state: dict[str, Any]) -> None:
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

            set_optimizer_state_dict(self.task, self.optimiser.optimizer, state, options=_gathered())
        else:
            self.optimiser.load_state_dict(state)


def _gathered(**options: Any) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True, **options)
