"""What runs in each process that `mmdeploy.training.launch` starts: ``python -m mmdeploy.training.launched FOLDER``."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from mmdeploy.core.contracts import Progress, no_progress
from mmdeploy.core.errors import MmdeployError
from mmdeploy.training.launch import (
    ERROR,
    MEETING,
    PROGRESS,
    REQUEST,
    RESULT,
    Request,
    end_with_parent,
    process_index,
)

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.2


def main(folder: Path) -> int:
    """Do what the request in a folder says; leave the result or the error there, and return the exit status."""
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    request: Request = pickle.loads((folder / REQUEST).read_bytes())
    _meet(folder)
    first = process_index() == 0
    try:
        result = _function(request.call)(request.argument, _reporting(folder / PROGRESS) if first else no_progress)
        if first:
            _write(folder / RESULT, result)
    except MmdeployError as error:
        logger.exception("process %d failed", process_index())
        _write(folder / f"{ERROR}{process_index()}", error)
        return 1
    except Exception as error:
        logger.exception("process %d failed unexpectedly", process_index())
        if _is_lost_connection(error):  # the other's end is the cause, and it says why, or was killed
            return 1
        summary = traceback.format_exception_only(error)[-1].strip()
        _write(folder / f"{ERROR}{process_index()}", (summary, traceback.format_exc()))
        return 1
    _part()
    return 0


def _meet(folder: Path) -> None:
    """Join the other processes through a file; Accelerate takes up what it finds joined."""
    import torch

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return
    on_cpu = os.environ["ACCELERATE_USE_CPU"] == "true"
    if not on_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group(
        "gloo" if on_cpu else "nccl",
        init_method=f"file://{folder / MEETING}",
        rank=process_index(),
        world_size=processes,
    )


def _part() -> None:
    """Leave together: who leaves first takes the connections away."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _is_lost_connection(error: Exception) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _function(call: str) -> Any:
    module, _, name = call.partition(":")
    return getattr(importlib.import_module(module), name)


def _reporting(path: Path) -> Progress:
    last = 0.0

    def progress(done: int, total: int | None, what: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([done, total, what]) + "\n")

    return progress


def _write(path: Path, content: object) -> None:
    staging = path.with_name(f"partial-{path.name}")
    staging.write_bytes(pickle.dumps(content))
    staging.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
