"""Where engines say how many threads an inference takes: in a recipe, and in a model's ``config.pbtxt``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Threads:
    """The words of one engine.

    Attributes:
        option: The key of a recipe's ``engine``.
        parameter: The key of the ``parameters`` of config.pbtxt.
        fixed: Whether the number is compiled into the engine: another one in config.pbtxt changes nothing.
    """

    option: str
    parameter: str
    fixed: bool = False


#: By the engine's method; TensorRT's run on a GPU.
THREADS = {
    "onnxruntime": Threads("intra_op_threads", "intra_op_thread_count"),
    "openvino": Threads("threads", "INFERENCE_NUM_THREADS"),
    "aot_inductor": Threads("threads", "INTRA_OP_THREAD_COUNT", fixed=True),
}


def threads_told(parameters: Mapping[str, str]) -> int:
    """Return how many threads an inference of a served model takes: 1 where its parameters do not say."""
    told = [parameters[words.parameter] for words in THREADS.values() if words.parameter in parameters]
    return max((int(text) for text in told if text.isdecimal()), default=1) or 1
