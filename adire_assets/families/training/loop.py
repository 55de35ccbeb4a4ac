"""The training loop: a task's forward and backward, the optimizer's step, and little else.

It is exact: a run that goes on from a checkpoint ends in the bits of an undisturbed one, because
all that it keeps is in the checkpoint (`State`) and all that it draws is a function of the step.
With several processes each has its share of a step's examples, their gradients are averaged in one
exchange, and only the first one writes.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import get_scheduler

from adire_assets.core.errors import UserError
from adire_assets.core.store import write_json
from adire_assets.core.worker import Progress
from adire_assets.families.training.checkpoint import Checkpoints, State, split
from adire_assets.families.training.draws import stream
from adire_assets.families.training.optimizers import OPTIMIZERS
from adire_assets.families.training.settings import SharedTrainingConfig

STEP_STREAM = 1  # kind of draw, see `draws.stream`
REPORT_SECONDS = 4.0
STEPS_PER_LOSS_FETCH = (
    10  # on CUDA, losses are fetched every so many steps: each fetch waits for all
)
LOSS_WINDOW_STEPS = 50  # steps whose mean loss is compared
ShouldPrune = Callable[[int, float], bool]  # of a step and its validation loss

EXPLODED_LOSS_FACTOR = (
    3.0  # times the base's own loss at the first step, or times that of predicting nothing
)


class Task(Protocol):
    """What learns, and what from."""

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """{name: weight} of everything that learns, in a fixed order."""
        ...

    @property
    def module(self) -> nn.Module:
        """What computes, as this process has it."""
        ...

    def batches(self, step: int) -> Iterable[Any]:
        """This process's share of optimizer step `step` (from 0), in as few parts as is good."""
        ...

    def validation(self) -> Iterable[Any]:
        """The same batches whatever the run; none where there is no validation split."""
        ...

    def loss(self, batch: Any, learning: bool) -> Tensor:
        """Its part of the loss, a scalar: the sum over a step's batches, or over those of the
        validation, is the loss. `learning`: weighted as what is learned from."""
        ...


@dataclass
class TrainingHistory:
    """The training loss of every step, and validation losses by step."""

    losses: list[float] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)
    steps_per_second: float = 0.0
    kept_step: int = 0  # the step whose weights are the adapter

    def recent(self, window: int) -> float:
        return mean(self.losses[-window:])

    def report(self, settings: SharedTrainingConfig, task: Task, device: str) -> dict[str, Any]:
        """training.json."""
        window = settings.checkpointing_steps
        return {
            "steps": settings.max_train_steps,
            "kept_step": self.kept_step,
            "final_loss": mean(self.losses[-window:]),
            "first_loss": mean(self.losses[:window]),
            "validation_loss": self.validation.get(self.kept_step),
            "trained_parameters": sum(weight.numel() for weight in task.weights.values()),
            "threads": torch.get_num_threads(),
            "device": device,
        }

    def write(self, folder: Path, report: Mapping[str, Any]) -> None:
        """training.json, loss.csv (step,loss) and validation.csv (step,validation_loss)."""
        write_json(folder / "training.json", report)
        for name, heading, rows in (
            ("loss", "loss", enumerate(self.losses, start=1)),
            ("validation", "validation_loss", sorted(self.validation.items())),
        ):
            lines = [f"step,{heading}", *(f"{step},{loss:.6g}" for step, loss in rows)]
            (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


class TrialPruned(Exception):
    """`should_prune` ended the run after `step` steps."""

    def __init__(self, step: int) -> None:
        super().__init__(f"pruned at step {step}")
        self.step = step


def average_gradients(weights: Sequence[nn.Parameter]) -> None:
    """The mean of the processes' gradients, in one exchange."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(together)
    together /= torch.distributed.get_world_size()
    for gradient, mean_of_all in zip(
        gradients, together.split([gradient.numel() for gradient in gradients]), strict=True
    ):
        gradient.copy_(mean_of_all.view_as(gradient))


class TrainingLoop:
    """One run of the optimizer to `max_train_steps`."""

    def __init__(
        self,
        task: Task,
        settings: SharedTrainingConfig,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        progress: Progress,
        should_prune: ShouldPrune,
    ) -> None:
        self.task, self.settings = task, settings
        self.accelerator, self.checkpoints, self.progress = accelerator, checkpoints, progress
        self.should_prune = should_prune
        self.weights = task.weights
        self.optimizer = OPTIMIZERS[settings.optimizer](list(self.weights.values()), settings)
        self.rates = get_scheduler(
            settings.lr_scheduler,
            self.optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
        ).lr_lambdas[0]
        self.average = [weight.detach().clone() for weight in self._trained] if self._ema else []
        self.best: dict[str, Tensor] = {}
        self.history = TrainingHistory()
        self.first = self._restore()

    @property
    def _trained(self) -> list[nn.Parameter]:
        return list(self.weights.values())

    @property
    def _several(self) -> bool:
        return self.accelerator.num_processes > 1

    @property
    def _ema(self) -> bool:
        return self.settings.use_ema

    def _averages(self) -> dict[str, Tensor]:
        return dict(zip(self.weights, self.average, strict=True)) if self._ema else {}

    def run(self, on_validation: Callable[[int], None]) -> TrainingHistory:
        """Train; `on_validation(step)` is called with the adapter's weights in place."""
        settings, history = self.settings, self.history
        total, started, reported = settings.max_train_steps, time.monotonic(), 0.0
        together = 1 if self.accelerator.device.type == "cpu" else STEPS_PER_LOSS_FETCH
        pending: list[Tensor] = []
        paused = 0.0
        for step in range(self.first, total):
            pending.append(self._step(step))
            if step == self.first:  # what cannot be kept is refused before hours are spent on it
                split(self._state(step).content)
            done = step + 1
            checkpoint = done % settings.checkpointing_steps == 0 or done == total
            validate = done == total or (
                settings.validation_steps and done % settings.validation_steps == 0
            )
            if checkpoint or validate or len(pending) >= together:
                self._take(pending)
                pending = []
            if checkpoint or validate:
                began = time.monotonic()
                self._check_weights(done)
                if validate:
                    self._validate(done, on_validation)
                if checkpoint and self.accelerator.is_main_process:
                    self.checkpoints.save(self._state(done))
                paused += time.monotonic() - began
            now = time.monotonic()
            history.steps_per_second = (done - self.first) / max(now - started - paused, 1e-9)
            if history.losses and (checkpoint or now - reported >= REPORT_SECONDS):
                reported = now
                self._report(done)
        if settings.keep_checkpoint == "best":
            for name, weight in self.weights.items():
                weight.data.copy_(self.best[name])
        elif self._ema:
            self._swap()
        history.kept_step = self._best_step() if self.best else total
        return history

    def _step(self, step: int) -> Tensor:
        """One step of the optimizer; the loss of this process's share."""
        settings = self.settings
        # For dropout. torch.manual_seed visits every kind of device, which takes its time.
        seed = stream(settings.seed, STEP_STREAM, step, self.accelerator.process_index)
        torch.default_generator.manual_seed(seed)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * self.rates(step)
        losses = [self._backward(batch) for batch in self.task.batches(step)]
        if self._several:
            average_gradients(self._trained)
        self._optimize()
        if self._ema:  # diffusers' EMAModel: the average forgets its start faster
            decay = min(settings.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [w.detach() for w in self._trained], 1 - decay)
        return torch.stack(losses).sum()

    def _optimize(self) -> None:
        """Clip and step; by hand, because accelerate's optimizer asks a millisecond each time."""
        scaler = self.accelerator.scaler
        if scaler is not None:  # float16: a step with gradients that are not finite is left out
            scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self._trained, self.settings.max_grad_norm)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad()

    def _backward(self, batch: Any) -> Tensor:
        loss = self.task.loss(batch, learning=True)
        self.accelerator.backward(loss)
        return loss.detach()

    # --- what is seen of it --------------------------------------------------------------------

    def _validate(self, done: int, on_validation: Callable[[int], None]) -> None:
        if self._ema:
            self._swap()
        loss = self._validation_loss()
        if loss is not None:
            self.history.validation[done] = loss
            if self.settings.keep_checkpoint == "best" and self._best_step() == done:
                self.best = {name: w.detach().clone() for name, w in self.weights.items()}
            self.progress(
                f"step {done}: validation loss {loss:.4f}", step=done, validation_loss=loss
            )
            # One decides, and all leave together.
            main = self.accelerator.is_main_process
            answer = [
                main and self.should_prune(done, loss) and done < self.settings.max_train_steps
            ]
            if broadcast_object_list(answer)[0]:
                raise TrialPruned(done)
        on_validation(done)
        if self._ema:
            self._swap()

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        """The loss on the validation split; None without one."""
        self.task.module.eval()
        parts = [self.task.loss(batch, learning=False) for batch in self.task.validation()]
        self.task.module.train()
        return float(torch.stack(parts).sum()) if parts else None

    def _best_step(self) -> int:
        return min(self.history.validation, key=lambda step: self.history.validation[step])

    def _swap(self) -> None:
        """The averaged weights for the trained ones, or back."""
        for weight, average in zip(self._trained, self.average, strict=True):
            kept = weight.detach().clone()
            weight.data.copy_(average)
            average.copy_(kept)

    def _report(self, done: int) -> None:
        settings, history = self.settings, self.history
        loss, rate = history.recent(settings.checkpointing_steps), history.steps_per_second
        self.progress(
            f"step {done}/{settings.max_train_steps} loss {loss:.4f} {rate:.1f} steps/s "
            f"{_clock((settings.max_train_steps - done) / rate)} left",
            step=done,
            loss=loss,
            learning_rate=settings.learning_rate * self.rates(done - 1),
            steps_per_second=rate,
        )

    def _take(self, pending: list[Tensor]) -> None:
        """Fetch losses; UserError when they say that the run is lost."""
        values = self.accelerator.reduce(torch.stack(pending), "mean")
        before = len(self.history.losses)
        bad = (~torch.isfinite(values)).nonzero()
        if len(bad):
            raise self._diverged(f"the loss became NaN at step {before + int(bad[0]) + 1}")
        losses = self.history.losses
        losses += values.tolist()
        if len(losses) >= LOSS_WINDOW_STEPS:
            limit = EXPLODED_LOSS_FACTOR * max(losses[0], 1.0)
            if (now := mean(losses[-LOSS_WINDOW_STEPS:])) > limit:
                raise self._diverged(
                    f"the loss exploded: {now:.3g} in the mean of steps "
                    f"{len(losses) - LOSS_WINDOW_STEPS + 1} to {len(losses)}, more than {limit:.3g}"
                )

    def _check_weights(self, step: int) -> None:
        if not all(torch.isfinite(weight).all() for weight in self._trained):
            raise self._diverged(f"the adapter's weights became NaN at step {step}")

    def _diverged(self, what: str) -> UserError:
        rate = self.settings.learning_rate
        return UserError(f"{what}: lower training.learning_rate (now {rate:g})")

    # --- checkpoints ---------------------------------------------------------------------------

    def _restore(self) -> int:
        """Put the last checkpoint back; the steps that are done."""
        found = [self.checkpoints.load() if self.accelerator.is_main_process else None]
        [state] = broadcast_object_list(found)  # other machines do not see the first one's disk
        if state is None:
            return 0
        content = state.content
        for name, weight in self.weights.items():
            weight.data.copy_(content["weights"][name])
        for name, average in self._averages().items():
            average.copy_(content["average"][name])
        self.best = {name: t.to(self.accelerator.device) for name, t in content["best"].items()}
        self.optimizer.load_state_dict(content["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.history.losses = content["losses"]
        self.history.validation = content["validation"]
        self.progress(f"going on from the checkpoint at step {state.step}", step=state.step)
        return state.step

    def _state(self, step: int) -> State:
        scaler = self.accelerator.scaler
        return State(
            step,
            {
                "weights": {name: weight.detach() for name, weight in self.weights.items()},
                "average": self._averages(),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "losses": self.history.losses,
                "validation": self.history.validation,
            },
        )


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 6)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
