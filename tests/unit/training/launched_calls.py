"""Functions that launched processes call, by name."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import tiny_setup

from mmdeploy.core.contracts import Progress
from mmdeploy.core.errors import DataError
from mmdeploy.training.loop import fit
from mmdeploy.training.options import TrainingOptions


def trained(argument: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Train the tiny module and return its weights as nested lists, and the record."""
    module = tiny_setup.module()
    setup = tiny_setup.TinySetup(samples=argument["samples"])
    with tempfile.TemporaryDirectory() as folder:
        context = tiny_setup.context(setup, Path(folder), progress=progress)
        record = fit(module, TrainingOptions(**argument["options"]), context, sparse=argument.get("sparse", ()))
    weights = {name: tensor.tolist() for name, tensor in module.state_dict().items()}
    return {"weights": weights, "record": record.to_metadata()}


def fails_in_second(kind: str, progress: Progress) -> None:
    """Fail in the process with index 1, while the other waits for it."""
    import torch

    if os.environ["RANK"] == "1":
        if kind == "data":
            raise DataError("the second process has bad data")
        if kind == "bug":
            raise ZeroDivisionError("a bug in the second process")
        os.kill(os.getpid(), 9)
    torch.distributed.barrier()


def sleeps(path: str, progress: Progress) -> None:
    """Write this process's id and sleep."""
    Path(path, str(os.getpid())).touch()
    time.sleep(600)
