"""The python step ``<ensemble>_modalities``: optional inputs in, what their branches make of them or a stand-in out.

It is copied into a release as ``1/model.py``, so it imports nothing of mmdeploy: numpy, and Triton's own module inside
the server. Its settings are the parameter ``mmdeploy.options`` of config.pbtxt::

    {"inputs": {"audio": {"model": "digits.audio_encoder", "version": 1, "max_batch_size": 32,
                          "joins": true, "outputs": {"audio_tokens": "tokens"}, "inputs": ["waveform"],
                          "presence": "heard", "detect": {"min_rms": 0.001}}},
     "required": ["image"], "ensemble": "digits"}

``outputs`` names the branch's tensors by those of the ensemble; ``joins`` says whether rows of several requests may be
asked together. Stand-ins lie beside this file in ``stand_ins.npz``, by
ensemble tensor. A row is missing where its input was not sent, where ``<input>_present`` says so, or where ``detect``
finds nothing in it. Only rows that are there are asked of the branch (business logic scripting): a request without the
input runs no encoder.
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
#: The stand-ins, beside the model file.
STAND_INS = "stand_ins.npz"
# See mmdeploy.triton.backends.batch: Triton 2.51 deadlocks when a step of an ensemble fails while the step beside it is
# still being scheduled.
_ERROR_DELAY_S = 0.03


def marker(name: str) -> str:
    """Return the name of the input by which a client marks the rows of an optional input that are there."""
    return f"{name}_present"


def holds_something(array: Array, detect: Mapping[str, Any]) -> Mask:
    """Say of each row whether it holds something, by the thresholds of a recipe.

    Args:
        array: Rows along axis 0.
        detect: ``min_std``: least standard deviation of a row's values; ``min_rms``: least root of their mean square;
            ``empty``: whether a row without a value, or an empty string, holds nothing. What is NaN or infinite is no
            silence: it is there, and its encoder refuses it.
    """
    rows = len(array)
    there = np.ones(rows, dtype=bool)
    if detect.get("empty"):
        if array.dtype.kind in "OSU":
            flat = array.reshape(rows, -1)
            there &= np.array([any(len(value) > 0 for value in row) for row in flat.tolist()], dtype=bool)
        elif rows and array[0].size == 0:
            there[:] = False
    if ("min_std" in detect or "min_rms" in detect) and array.size:
        values = array.reshape(rows, -1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            if "min_std" in detect:
                there &= ~(values.std(axis=1) < detect["min_std"])
            if "min_rms" in detect:
                there &= ~(np.sqrt(np.square(values).mean(axis=1)) < detect["min_rms"])
    return there


class _Refused(Exception):  # noqa: N818 - a message to a client, no fault of the step
    """What is wrong with a request."""


class TritonPythonModel:
    """What Triton's python backend runs."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the settings and the stand-ins."""
        config = json.loads(args["model_config"])
        settings = json.loads(config["parameters"][PARAMETER]["string_value"])
        self._branches: dict[str, dict[str, Any]] = settings["inputs"]
        self._required: list[str] = settings["required"]
        self._ensemble: str = settings["ensemble"]
        with np.load(Path(__file__).with_name(STAND_INS), allow_pickle=False) as arrays:
            self._stand_ins = {name: arrays[name] for name in arrays.files}
        self._dtypes = {one["name"]: one["data_type"] for one in config["output"]}

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch, in order."""
        import triton_python_backend_utils as pb_utils

        read: list[Request | str] = []
        for request in requests:
            try:
                read.append(self._read(request))
            except _Refused as refused:
                read.append(str(refused))
        asked = [one for one in read if isinstance(one, Request)]
        await asyncio.gather(*(self._ask(name, asked) for name in self._branches))
        responses: list[Any] = []
        for request, one in zip(requests, read, strict=True):
            wrong = one if isinstance(one, str) else one.wrong
            if isinstance(one, str) or wrong:
                _fail_later(request, str(wrong))
                responses.append(None)  # answered through its own response sender
            else:
                tensors = [pb_utils.Tensor(name, array) for name, array in self._outputs(one).items()]
                responses.append(pb_utils.InferenceResponse(tensors))
        return responses

    def _read(self, request: Any) -> Request:
        """Take a request's inputs apart; a row that is missing keeps nothing."""
        import triton_python_backend_utils as pb_utils

        names = [*self._branches, *map(marker, self._branches), *self._required]
        given = [(name, pb_utils.get_input_tensor_by_name(request, name)) for name in names]
        arrays: dict[str, Array] = {name: tensor.as_numpy() for name, tensor in given if tensor is not None}
        rows = len(next(iter(arrays.values())))
        there: dict[str, Mask] = {}
        for name, branch in self._branches.items():
            mark = arrays.get(marker(name))
            marked = np.ones(rows, dtype=bool) if mark is None else mark.reshape(rows, -1).any(axis=1)
            if name not in arrays:
                if mark is not None and marked.any():
                    raise _Refused(f"{marker(name)} says that {name!r} is there, but the request has no such input")
                there[name] = np.zeros(rows, dtype=bool)
                continue
            there[name] = marked & holds_something(arrays[name], branch["detect"])
        if not self._required:
            nothing = ~np.logical_or.reduce([*there.values()])
            if nothing.any():
                whom = f"row {int(np.flatnonzero(nothing)[0])} of the request" if rows > 1 else "the request"
                names_shown = ", ".join(self._branches)
                raise _Refused(f"{whom} has none of the inputs {names_shown}: {self._ensemble} needs at least one")
        return Request(arrays, rows, there)

    async def _ask(self, name: str, asked: Sequence[Request]) -> None:
        """Ask a branch for the rows that are there, those of several requests together where they fit."""
        waiting = [one for one in asked if one.there[name].any()]
        if not waiting:
            return
        pieces = [one.present(name) for one in waiting]
        branch = self._branches[name]
        alike = branch["joins"] and len({piece.shape[1:] for piece in pieces}) == 1
        if len(pieces) > 1 and alike and sum(map(len, pieces)) <= branch["max_batch_size"]:
            try:
                answers = await self._infer(name, np.concatenate(pieces))
            except _Refused:
                pass  # each alone, so that the error goes to its cause only
            else:
                ends = np.cumsum([len(piece) for piece in pieces[:-1]])
                parts = {tensor: np.split(array, ends) for tensor, array in answers.items()}
                for index, one in enumerate(waiting):
                    one.answers |= {tensor: split[index] for tensor, split in parts.items()}
                return
        await asyncio.gather(*(self._ask_alone(name, one, piece) for one, piece in zip(waiting, pieces, strict=True)))

    async def _ask_alone(self, name: str, one: Request, rows: Array) -> None:
        try:
            one.answers |= await self._infer(name, rows)
        except _Refused as refused:
            one.wrong = one.told(name, str(refused))

    async def _infer(self, name: str, rows: Array) -> dict[str, Array]:
        """Ask a branch; return its outputs by ensemble tensor."""
        import triton_python_backend_utils as pb_utils

        branch = self._branches[name]
        request = pb_utils.InferenceRequest(
            model_name=branch["model"],
            model_version=branch["version"],
            requested_output_names=list(branch["outputs"].values()),
            inputs=[pb_utils.Tensor(own, rows) for own in branch["inputs"]],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = await request.async_exec()
        if response.has_error():
            raise _Refused(response.error().message())
        return {
            tensor: pb_utils.get_output_tensor_by_name(response, output).as_numpy()
            for tensor, output in branch["outputs"].items()
        }

    def _outputs(self, one: Request) -> dict[str, Array]:
        """Return what is written for a request: answers of the branches, stand-ins in the rows without, presence."""
        written: dict[str, Array] = {}
        for name, branch in self._branches.items():
            there = one.there[name]
            for tensor in branch["outputs"]:
                stand_in = self._stand_ins[tensor]
                if there.all():
                    written[tensor] = one.answers[tensor]
                    continue
                answered = one.answers.get(tensor)
                shape = stand_in.shape if answered is None else answered.shape[1:]
                written[tensor] = np.broadcast_to(stand_in, (one.rows, *shape)).copy()
                if answered is not None:
                    written[tensor][there] = answered
            if branch["presence"]:
                written[branch["presence"]] = there[:, None]
        return written


class Request:
    """A request in the making: what was sent, which rows hold what, what the branches answered."""

    def __init__(self, arrays: Mapping[str, Array], rows: int, there: Mapping[str, Mask]) -> None:
        self._arrays, self.rows, self.there = arrays, rows, there
        self.answers: dict[str, Array] = {}
        self.wrong = ""

    def present(self, name: str) -> Array:
        """Return the rows of an input that are there."""
        there = self.there[name]
        return self._arrays[name] if there.all() else self._arrays[name][there]

    def told(self, name: str, wrong: str) -> str:
        """Return what is wrong with a branch's rows, which are those that are there, by the rows of the request."""
        rows = np.flatnonzero(self.there[name]).tolist()
        if len(rows) == self.rows:
            return wrong
        numbers = re.compile(r"(?<=\brow )\d+|(?<=\brows )\d+|(?<=\d and )\d+(?= give)")
        return numbers.sub(lambda found: str(rows[int(found[0])]) if int(found[0]) < len(rows) else found[0], wrong)


def _fail_later(request: Any, message: str) -> None:
    import triton_python_backend_utils as pb_utils

    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
    arguments = (response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    timer = threading.Timer(_ERROR_DELAY_S, request.get_response_sender().send, arguments)
    timer.daemon = True
    timer.start()
