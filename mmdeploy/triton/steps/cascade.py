"""The python step ``<ensemble>.cascade``: a cheap answer in, the ensemble's answer out, the rest asked where unsure.

It is copied into a release as ``1/model.py`` with `condition.py` beside it, so it imports nothing of mmdeploy: numpy,
and Triton's own module inside the server. Its settings are the parameter ``mmdeploy.options`` of config.pbtxt::

    {"when": "max(softmax(quick_logits)) < 0.9", "answers": {"logits": "quick_logits"}, "left_early": "left_early",
     "inputs": {"rest": {"model": "digits.rest", "version": 1, "max_batch_size": 32, "joins": true,
                         "inputs": {"audio": "audio"}, "outputs": {"logits": "logits"}}}}

``answers`` says which tensor answers for an output in the rows that leave early; ``rest`` is asked (business logic
scripting) for the rows in which ``when`` holds, with its own names for what it reads and writes. Rows of one request,
and of several where ``joins`` says so, are gathered and asked together, and their answers go back to their places. A
request of which every row leaves early asks nobody.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

#: Key of config.pbtxt's ``parameters`` with the settings.
PARAMETER = "mmdeploy.options"
#: The condition's code, beside the model file.
CONDITION = "condition.py"
# See mmdeploy.triton.backends.batch: Triton 2.51 deadlocks when a step of an ensemble fails while the step beside it is
# still being scheduled.
_ERROR_DELAY_S = 0.03


class _Refused(Exception):  # noqa: N818 - a message to a client, no fault of the step
    """What is wrong with a request."""


class TritonPythonModel:
    """What Triton's python backend runs."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the settings, and the condition's code."""
        config = json.loads(args["model_config"])
        settings = json.loads(config["parameters"][PARAMETER]["string_value"])
        self._rest: dict[str, Any] = settings["inputs"]["rest"]
        self._when: str = settings["when"]
        self._answers: dict[str, str] = settings["answers"]
        self._left_early: str = settings["left_early"]
        self._takes = [one["name"] for one in config["input"]]
        self._condition = _condition_code()

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch, in order."""
        import triton_python_backend_utils as pb_utils

        read = [self._read(request) for request in requests]
        await self._ask([one for one in read if one.further.any() and not one.wrong])
        responses: list[Any] = []
        for request, one in zip(requests, read, strict=True):
            tensors = {} if one.wrong else self._outputs(one)
            if one.wrong:
                _fail_later(request, one.wrong)
                responses.append(None)  # answered through its own response sender
            else:
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in tensors.items()]))
        return responses

    def _read(self, request: Any) -> Request:
        import triton_python_backend_utils as pb_utils

        arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._takes}
        try:
            return Request(arrays, self._condition.asks_further(self._when, arrays))
        except self._condition.ConditionError as error:
            one = Request(arrays, np.zeros(len(next(iter(arrays.values()))), dtype=bool))
            one.wrong = f"the condition `{self._when}` {error}"
            return one

    async def _ask(self, waiting: Sequence[Request]) -> None:
        """Ask the rest for rows, those of several requests together where they fit."""
        if not waiting:
            return
        pieces = [one.unsure(self._rest["inputs"].values()) for one in waiting]
        alike = all(len({piece[tensor].shape[1:] for piece in pieces}) == 1 for tensor in pieces[0])
        ends = np.cumsum([one.further.sum() for one in waiting])
        if len(pieces) > 1 and self._rest["joins"] and alike and ends[-1] <= self._rest["max_batch_size"]:
            joined = {tensor: np.concatenate([piece[tensor] for piece in pieces]) for tensor in pieces[0]}
            try:
                answers = await self._infer(joined)
            except _Refused:
                pass  # each alone, so that the error goes to its cause only
            else:
                parts = {tensor: np.split(array, ends[:-1]) for tensor, array in answers.items()}
                for index, one in enumerate(waiting):
                    one.answers = {tensor: split[index] for tensor, split in parts.items()}
                return
        await asyncio.gather(*(self._ask_alone(one, piece) for one, piece in zip(waiting, pieces, strict=True)))

    async def _ask_alone(self, one: Request, rows: Mapping[str, Array]) -> None:
        try:
            one.answers = await self._infer(rows)
        except _Refused as refused:
            one.wrong = one.told(str(refused))

    async def _infer(self, rows: Mapping[str, Array]) -> dict[str, Array]:
        """Ask the rest; return its outputs by ensemble tensor."""
        import triton_python_backend_utils as pb_utils

        request = pb_utils.InferenceRequest(
            model_name=self._rest["model"],
            model_version=self._rest["version"],
            requested_output_names=list(self._rest["outputs"].values()),
            inputs=[pb_utils.Tensor(own, rows[tensor]) for own, tensor in self._rest["inputs"].items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = await request.async_exec()
        if response.has_error():
            raise _Refused(response.error().message())
        return {
            tensor: pb_utils.get_output_tensor_by_name(response, output).as_numpy()
            for tensor, output in self._rest["outputs"].items()
        }

    def _outputs(self, one: Request) -> dict[str, Array]:
        """Return what is written for a request: the rest's answer in the rows it was asked for, the cheap one else."""
        written: dict[str, Array] = {}
        for output, early in self._answers.items():
            cheap = one.arrays[early]
            if not one.further.any():
                written[output] = cheap
            elif one.further.all():
                written[output] = one.answers[output]
            elif one.answers[output].shape[1:] != cheap.shape[1:]:
                ours, theirs = list(cheap.shape[1:]), list(one.answers[output].shape[1:])
                one.wrong = f"{early!r} answers {ours} a row for {output!r} where the rest answers {theirs}"
            else:
                written[output] = cheap.copy()
                written[output][one.further] = one.answers[output]
        written[self._left_early] = ~one.further[:, None]
        return written


class Request:
    """A request in the making: what the step was given, which rows are asked further, what was answered."""

    def __init__(self, arrays: Mapping[str, Array], further: Mask) -> None:
        self.arrays, self.further = arrays, further
        self.answers: dict[str, Array] = {}
        self.wrong = ""

    def unsure(self, tensors: Sequence[str]) -> dict[str, Array]:
        """Return the rows that are asked further, of some tensors."""
        whole = self.further.all()
        return {name: self.arrays[name] if whole else self.arrays[name][self.further] for name in tensors}

    def told(self, wrong: str) -> str:
        """Return what the rest said of rows that it was asked for, by the rows of the request."""
        found = np.flatnonzero(self.further).tolist()
        numbers = re.compile(r"(?<=\brow )\d+|(?<=\brows )\d+|(?<=\d and )\d+(?= give)")
        return numbers.sub(lambda hit: str(found[int(hit[0])]) if int(hit[0]) < len(found) else hit[0], wrong)


def _condition_code() -> Any:
    """Import what lies beside this file: its folder may be no place that Python looks in."""
    import importlib.util

    place = importlib.util.spec_from_file_location("mmdeploy_condition", Path(__file__).with_name(CONDITION))
    assert place is not None and place.loader is not None
    found = importlib.util.module_from_spec(place)
    place.loader.exec_module(found)
    return found


def _fail_later(request: Any, message: str) -> None:
    """Answer a request with an error after the ensemble has been scheduled."""
    import triton_python_backend_utils as pb_utils

    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
    arguments = (response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    timer = threading.Timer(_ERROR_DELAY_S, request.get_response_sender().send, arguments)
    timer.daemon = True
    timer.start()
