"""How training meets the machine: its device, its share of a batch, and its random numbers."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.labels import Labels, Ragged, Table, Texts

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, device

Batch: TypeAlias = "tuple[dict[str, Array], Labels | None]"
#: Feeds and labels on the device; see `labels_on`.
Part: TypeAlias = "tuple[dict[str, Tensor], Any]"


def accelerator() -> Accelerator:
    """Return the engine: on GPUs where there are any, else on the CPU; one process unless a launcher started us.

    Raises:
        EnvironmentUnfitError: If the launcher asks for a way of sharing the work that the loop does not support.
    """
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import DistributedType

    on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
    # A component may put out tensors that no loss looks at.
    engine = Accelerator(
        cpu=on_cpu, mixed_precision="no", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    if engine.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise EnvironmentUnfitError(
            f"training cannot be shared by {engine.distributed_type.value}: only data parallelism is supported",
            hint="launch with --multi_gpu, or without a configuration file",
        )
    return engine


def share(batch: Batch, engine: Accelerator) -> tuple[Part, int, float]:
    """Return this process's part of a batch, on its device.

    A process that is left without a sample takes the first with weight 0: all must take part in each step.

    Returns:
        Feeds and labels of the part; the number of samples of the whole batch; and the weight of the part's mean
        loss, such that the mean over the processes is the mean over the whole batch.
    """
    import torch

    feeds, labels = batch
    samples, processes, index = len(next(iter(feeds.values()))), engine.num_processes, engine.process_index
    start, stop = samples * index // processes, samples * (index + 1) // processes
    rows = slice(start, stop) if stop > start else slice(0, 1)
    given = {name: torch.as_tensor(array[rows]).to(engine.device) for name, array in feeds.items()}
    wanted = None if labels is None else labels_on(labels[rows], engine.device)
    return (given, wanted), samples, (stop - start) * processes / samples


def labels_on(labels: Labels, place: device) -> Any:
    """Return labels as a loss takes them: numbers as a tensor on a device, text as it is.

    Returns:
        A tensor; a list of strings, of lists of strings or of tensors, one a sample; or a dict of these by name.
    """
    import torch

    if isinstance(labels, Table):
        return {name: labels_on(column, place) for name, column in labels.columns.items()}
    if isinstance(labels, Ragged) and not isinstance(labels.values, Texts):
        return [torch.as_tensor(array).to(place) for array in labels]
    return list(labels) if isinstance(labels, Texts | Ragged) else torch.as_tensor(labels).to(place)


def seed(*numbers: int) -> None:
    """Seed every generator that training or a data callable may draw from, as a function of ``numbers``."""
    import numpy as np
    from accelerate.utils import set_seed

    set_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the generators of Python, NumPy and PyTorch back as they were."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
