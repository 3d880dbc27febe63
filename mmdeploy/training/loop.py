"""The training loop: one component learns, the model around it is frozen.

The same code runs in one process and under a launcher on several (see `mmdeploy.training.launch`). The batch of the
recipe is the batch of all processes together: each takes its share of every batch, and the gradient is that of the
whole batch's mean loss however the shares divide. What is not a mean over samples differs from one process:
batch normalization sees its own share only, and so does a contrastive loss.

Every draw is seeded by the recipe's seed and the step, so a run that was killed goes on from its last checkpoint to
the same bits (on a CPU, with the same number of threads and processes). Weights of the best epoch by the validation
metric are kept; epoch 0 is the module as it came, so training that only harms changes nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Array, Network, StepContext, TrainingSetup
from mmdeploy.core.errors import DataError, TrainingError, did_you_mean
from mmdeploy.core.labels import Labels
from mmdeploy.core.samples import Gathered, Samples, finite
from mmdeploy.model.torch_model import torch_threads
from mmdeploy.training import checkpoint
from mmdeploy.training.losses import loss
from mmdeploy.training.optimizer import learning_rate, optimizer
from mmdeploy.training.options import TrainingOptions
from mmdeploy.training.processes import Batch, Part, accelerator, labels_on, random_state_kept, seed, share
from mmdeploy.training.record import EpochRecord, TrainingRecord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from accelerate import Accelerator
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

_CHECKPOINT_SECONDS = 60.0


def fit(
    module: nn.Module,
    options: TrainingOptions,
    context: StepContext,
    *,
    sparse: Sequence[str] = (),
    after_step: Callable[[int], None] | None = None,
    checkpoint_seconds: float = _CHECKPOINT_SECONDS,
) -> TrainingRecord:
    """Train a component's module in place, and leave it with the weights of its best epoch, in eval mode.

    Args:
        module: The component's module. Its parameters that require a gradient are trained.
        options: Of training.
        context: Of the step: ``training`` gives the model around the component and the data; ``scratch`` takes
            the checkpoint, at most one, so give each training of a step a folder of its own.
        sparse: Names of parameters whose zeros are kept zero.
        after_step: Called after each optimizer step with the number of steps done.
        checkpoint_seconds: Time between checkpoints inside an epoch; each epoch ends with one.

    Returns:
        The course of the training.

    Raises:
        DataError: If the splits are missing, empty, unlabelled where labels are needed, or bad.
        TrainingError: If there is nothing to train, or the loss is no longer finite.
    """
    setup = required_setup(context)
    engine = accelerator()
    with torch_threads(max(1, context.threads // engine.num_processes)), random_state_kept():
        training = _Training(module, options, context, setup, engine, tuple(sparse), after_step, checkpoint_seconds)
        return training.run()


def required_setup(context: StepContext) -> TrainingSetup:
    """Return the training setup of a step.

    Raises:
        DataError: If the recipe has no training or no validation data.
    """
    if context.training is None:
        raise DataError(
            f"{context.component}: training needs samples, but the recipe lacks data.training or data.validation",
            hint="name a callable for each under `data:`: training to learn from, validation (with labels) to choose "
            "the best epoch; neither may be the split that data.evaluation names",
        )
    return context.training


@dataclass
class _Training:
    """One training: what it works on, and how far it is."""

    module: nn.Module
    options: TrainingOptions
    context: StepContext
    setup: TrainingSetup
    accelerator: Accelerator
    sparse: tuple[str, ...]
    after_step: Callable[[int], None] | None
    checkpoint_seconds: float
    epoch: int = 1
    batch: int = 0
    loss_sum: float = 0.0
    samples: int = 0
    seconds: float = 0.0
    saved_at: float = field(default_factory=time.monotonic)

    def run(self) -> TrainingRecord:
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        if not trained:
            raise TrainingError(
                f"{self.context.component}: no parameter of the module requires a gradient, so nothing can be trained",
                hint="let the factory leave requires_grad set on what may be trained",
            )
        home = trained[0].device
        self.module.eval()
        self.masks = _masks(self.module, self.sparse)
        self.steps_per_epoch = self._count_batches()
        self.record = TrainingRecord(
            self.setup.metric, self.setup.larger_is_better, self.steps_per_epoch, self.options.batch_size,
            self.accelerator.num_processes, sum(parameter.numel() for parameter in trained),
        )  # fmt: skip
        try:
            self._prepare()
            self._train()
            checkpoint.restore(self.module, self.best)
        finally:
            self.accelerator.free_memory()
            vars(self.module).pop("_is_accelerate_prepared", None)
            self.module.zero_grad(set_to_none=True)
            self.module.eval().to(home)
        if self.accelerator.is_main_process:
            logger.info("%s: %s", self.context.component, self.record.note)
        return self.record

    def _prepare(self) -> None:
        """Put everything on its device, and go on from a checkpoint or judge the module as it came."""
        facts = {"options": self.options.model_dump(mode="json"), "seed": self.context.seed, "sparse": self.sparse,
                 "steps_per_epoch": self.steps_per_epoch, "processes": self.accelerator.num_processes}  # fmt: skip
        self.identity = checkpoint.identify(facts, self.module)
        self.module.to(self.accelerator.device)
        self.masks = {name: mask.to(self.accelerator.device) for name, mask in self.masks.items()}
        self.optimizer = self.accelerator.prepare(optimizer(self.module, self.options))
        self.trained_module = self.accelerator.prepare(self.module)
        self.network = self.setup.network(self.trained_module)
        self.plain_network = self.setup.network(self.module)
        self.validation = self.setup.validation()
        if not self._resume():
            self.best = checkpoint.copied(self.module)
            self._judge(EpochRecord(0, None, None))

    def _train(self) -> None:
        while self.epoch <= self.options.epochs and not self.record.stopped_early:
            started = time.monotonic() - self.seconds
            rate = 0.0
            for batch in self._batches():
                rate = self._step(batch)
                self.seconds = time.monotonic() - started
                if time.monotonic() - self.saved_at > self.checkpoint_seconds:
                    self._save()
            mean = self.loss_sum / self.samples
            self._judge(EpochRecord(self.epoch, None, None, mean, rate), started)
            patience = self.options.patience
            done = self.epoch == self.options.epochs
            self.record.stopped_early = not done and patience is not None and (
                self.record.epochs_without_gain() >= patience
            )  # fmt: skip
            self.epoch, self.batch, self.loss_sum, self.samples, self.seconds = self.epoch + 1, 0, 0.0, 0, 0.0
            self._save()

    def _batches(self) -> Iterator[Batch]:
        """Iterate over what is left of the epoch, every batch drawn with random numbers of its own."""
        iterator = iter(self.setup.training(self.epoch, self.options.batch_size))
        for index in range(self.steps_per_epoch):
            seed(self.context.seed, self.epoch, index)
            batch = next(iterator, None)
            if batch is None:
                raise DataError(
                    f"the training data gave {index} batches in epoch {self.epoch}, but {self.steps_per_epoch} before",
                    hint="let the callable give the same number of samples in every epoch",
                )
            if index < self.batch:
                continue
            if self.accelerator.process_index:
                seed(self.context.seed, self.epoch, index, self.accelerator.process_index)
            yield batch

    def _step(self, batch: Batch) -> float:
        """Train on one batch; return the learning rate."""
        step = (self.epoch - 1) * self.steps_per_epoch + self.batch
        rate = learning_rate(self.options, step, self.options.epochs * self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.module.train()
        part, samples, weight = share(batch, self.accelerator)
        self.optimizer.zero_grad(set_to_none=True)
        value = self._loss(self.network, part)
        # The mean over processes of these is the mean over the whole batch.
        self.accelerator.backward(value * weight)
        total = float(self.accelerator.reduce((value.detach() * weight)[None], "mean"))
        if not math.isfinite(total):
            raise self._not_finite("the loss", total, rate)
        self._descend(rate)
        self.loss_sum += total * samples
        self.samples += samples
        self.batch += 1
        if self.after_step is not None:
            self.after_step(step + 1)
        what = f"steps of training (epoch {self.epoch} of {self.options.epochs}, loss {total:.4g})"
        self.context.progress(step + 1, self.options.epochs * self.steps_per_epoch, what)
        return rate

    def _descend(self, rate: float) -> None:
        import torch

        named = dict(self.module.named_parameters())
        for name, mask in self.masks.items():
            gradient = named[name].grad
            if gradient is not None:
                gradient.mul_(mask)
        if self.options.gradient_clip is not None:
            norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.options.gradient_clip)
            if norm is not None and not math.isfinite(float(norm)):
                raise self._not_finite("the gradient's norm", float(norm), rate)
        self.optimizer.step()
        with torch.no_grad():
            for name, mask in self.masks.items():
                named[name].mul_(mask)

    def _loss(self, network: Network, part: Part) -> Tensor:
        feeds, labels = part
        return loss(network(feeds), feeds, labels, setup=self.setup, options=self.options)

    def _judge(self, epoch: EpochRecord, started: float | None = None) -> None:
        """Measure the module on the validation split, and keep its weights if they are the best so far."""
        metric, validation_loss = self._validate()
        seconds = 0.0 if started is None else time.monotonic() - started
        facts = asdict(epoch) | {"metric": metric, "validation_loss": validation_loss, "seconds": seconds}
        self.record.epochs.append(EpochRecord(**facts))
        if self.record.best.epoch == epoch.epoch:
            self.best = checkpoint.copied(self.module)
        if self.accelerator.is_main_process:
            logger.info("%s: %s", self.context.component, self.record.epochs[-1])

    def _validate(self) -> tuple[float | None, float | None]:
        """Return metric and loss on the validation split, the same on every process; None where not finite."""
        import torch
        from accelerate.utils import broadcast_object_list, gather_object

        self.module.eval()
        feeds, labels = Samples.of(self.validation[0]), self.validation[1]
        parts: list[tuple[npt.NDArray[np.intp], dict[str, Array], float]] = []
        with torch.no_grad():
            for number, rows in enumerate(feeds.batches(self.options.batch_size)):
                if number % self.accelerator.num_processes == self.accelerator.process_index:
                    parts.append((rows, *self._answers(feeds.take(rows), labels[rows])))
        parts = sorted(gather_object(parts), key=lambda part: int(part[0][0]))
        found: list[float | None] = [None, None]
        if self.accelerator.is_main_process:
            gathered = {name: Gathered(len(labels)) for name in self.setup.scored_outputs}
            for rows, answers, _ in parts:
                for name, one in gathered.items():
                    one.put(rows, answers[name])
            outputs = {name: one.column() for name, one in gathered.items()}
            value = sum(part_loss * len(rows) / len(labels) for rows, _, part_loss in parts)
            sound = all(bool(finite(column).all()) for column in outputs.values())
            score = self.setup.score(outputs, labels).score if sound else math.nan
            found = [score if math.isfinite(score) else None, value if math.isfinite(value) else None]
        broadcast_object_list(found)
        return found[0], found[1]

    def _answers(self, feeds: Mapping[str, Array], labels: Labels) -> tuple[dict[str, Array], float]:
        import torch

        device = self.accelerator.device
        given = {name: torch.as_tensor(array).to(device) for name, array in feeds.items()}
        outputs = self.plain_network(given)
        wanted = labels_on(labels, device)
        value = loss(outputs, given, wanted, setup=self.setup, options=self.options)
        return {name: outputs[name].cpu().numpy() for name in self.setup.scored_outputs}, float(value)

    def _count_batches(self) -> int:
        """Read one epoch to know its length, so that bad data is found before anything is trained."""
        from accelerate.utils import gather_object

        count = 0
        for feeds, labels in self.setup.training(0, self.options.batch_size):
            if labels is None and self.options.uses_task:
                raise DataError(
                    f"loss {self.options.loss} needs labels, but the training data has none",
                    hint="yield (feed, label) for each sample, or train with loss: distill",
                )
            count += bool(feeds)
        if not count:
            raise DataError("the training data has no samples", hint="see data.training in the recipe")
        counts = gather_object([count])
        if len(set(counts)) > 1:
            raise DataError(
                f"the training data gives {min(counts)} batches to one process and {max(counts)} to another",
                hint="let the callable give the same samples in every process",
            )
        return count

    def _not_finite(self, what: str, value: float, rate: float) -> TrainingError:
        return TrainingError(
            f"{self.context.component}: {what} is {value} in epoch {self.epoch}, step {self.batch + 1} of "
            f"{self.steps_per_epoch}, at learning rate {rate:.3g}",
            hint=f"lower learning_rate (it is {self.options.learning_rate:g}), lengthen warmup (it is "
            f"{self.options.warmup:g}), or set gradient_clip (it is {self.options.gradient_clip or 'null'})",
        )

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.context.scratch is None or not self.accelerator.is_main_process:
            return
        checkpoint.write(
            self.context.scratch,
            {
                "identity": self.identity,
                "module": checkpoint.copied(self.module),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "record": self.record.to_metadata(),
                "place": [self.epoch, self.batch, self.samples],
                "sums": [self.loss_sum, self.seconds],
            },
        )

    def _resume(self) -> bool:
        """Go on from a checkpoint, if there is one."""
        content = checkpoint.read(self.context.scratch, self.identity) if self.context.scratch is not None else None
        if content is None:
            return False
        checkpoint.restore(self.module, content["module"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.best = content["best"]
        self.record = TrainingRecord.from_metadata(content["record"])
        self.epoch, self.batch, self.samples = content["place"]
        self.loss_sum, self.seconds = content["sums"]
        logger.info("%s: training goes on at epoch %d, step %d", self.context.component, self.epoch, self.batch + 1)
        return True


def _masks(module: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    named = dict(module.named_parameters())
    for name in names:
        if name not in named:
            raise TrainingError(f"there is no parameter {name!r} to keep sparse", hint=did_you_mean(name, named))
    return {name: (named[name].detach() != 0).to(named[name].dtype) for name in names}
