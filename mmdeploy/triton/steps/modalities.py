"""The python step ``<ensemble>_modalities``: optional inputs in, what their branches make of them or a stand-in out.

It is copied into a release as ``1/model.py``, so it imports nothing of mmdeploy: numpy, and Triton's own module inside
the server. Its settings are the parameter ``mmdeploy.options`` of config.pbtxt::

    {"inputs": {"audio": {"model": "digits.audio_encoder", "version": 1, "max_batch_size": 32,
                          "joins": true, "outputs": {"audio_tokens": "tokens"}, "inputs": ["waveform"],
                          "presence": "heard", "detect": {"min_rms": 0.001}}},
     "required": ["image"], "ensemble": "digits"}

``outputs`` names the branch's tensors by those of the ensemble, and ``inputs`` lists what it calls the input (or says
what it calls the tensors that it reads); ``joins`` says whether rows of several requests may be asked together.
Stand-ins lie beside this file in ``stand_ins.npz``, by ensemble tensor. A row is missing where its input was not sent,
where ``<input>_present`` says so, or where ``detect`` finds nothing in it. Only rows that are there are asked of the
branch (business logic scripting): a request without the input runs no encoder.

Where that is told by what steps of ``preprocess`` make of an input, ``steps`` beside ``model`` says how they are asked,
before the rest of the branch is: their ``tensor`` is held against ``detect``, and with ``invalid`` a row counts as
missing that they refuse.
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
#: How the words begin by which a step of ``preprocess`` refuses a row: with the tensor. Any other failure, such as an
#: exception or a server's, is no word about a row.
REFUSED_ROW = re.compile(r"(in ensemble '[^']*', )*'")
_EMPTY = "there is nothing in it"


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
            wrong = one if isinstance(one, str) else one.wrong or self._nothing(one)
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
        one = Request(arrays, rows, there)
        if wrong := self._nothing(one):
            raise _Refused(wrong)
        return one

    def _nothing(self, one: Request) -> str:
        """Say which row of a request nothing is left of; an empty string where there is none."""
        nothing = ~np.logical_or.reduce([*one.there.values()])
        if self._required or not nothing.any():
            return ""
        row = int(np.flatnonzero(nothing)[0])
        whom = f"row {row} of the request" if one.rows > 1 else "the request"
        told = "".join(f"; {name!r} counts as missing: {why}" for name, why in one.why.items())
        return f"{whom} has none of the inputs {', '.join(self._branches)}: {self._ensemble} needs at least one{told}"

    async def _ask(self, name: str, asked: Sequence[Request]) -> None:
        """Ask a branch for the rows that are there, its steps first where they tell which are."""
        branch = self._branches[name]
        waiting = [one for one in asked if one.there[name].any()]
        if "steps" in branch:
            await asyncio.gather(*(self._look(name, branch["steps"], one) for one in waiting))
            waiting = [one for one in waiting if one.there[name].any() and not one.wrong]
        if waiting:
            await self._encode(name, branch, waiting)

    async def _look(self, name: str, steps: Mapping[str, Any], one: Request) -> None:
        """Keep of an input what steps make of the rows that hold something; the others are missing."""
        sent, rows = one.present(name)[name], np.flatnonzero(one.there[name])
        whole = await self._tried(steps, {name: sent})
        if isinstance(whole, str) and not (steps["invalid"] and REFUSED_ROW.match(whole)):
            one.wrong = one.told(name, whole)
            return
        if isinstance(whole, str) and len(rows) > 1:  # one row is enough to refuse all, so each is asked alone
            each = await asyncio.gather(*(self._tried(steps, {name: sent[at : at + 1]}) for at in range(len(rows))))
        elif isinstance(whole, str):
            each = [whole]
        else:
            each = [{tensor: array[at : at + 1] for tensor, array in whole.items()} for at in range(len(rows))]
        kept: list[dict[str, Array]] = []
        for row, made in zip(rows.tolist(), each, strict=True):
            if isinstance(made, str) and not REFUSED_ROW.match(made):
                one.wrong = one.told(name, made, [row])
                return
            if isinstance(made, dict) and _holds(made, steps):
                kept.append(made)
                continue
            one.there[name][row] = False
            one.why.setdefault(name, one.told(name, made, [row]) if isinstance(made, str) else _EMPTY)
        if unlike := _unlike(kept):
            one.wrong = f"{name!r}: {unlike}"
            return
        tensors = kept[0] if kept else {}
        one.made[name] = {tensor: np.concatenate([piece[tensor] for piece in kept]) for tensor in tensors}

    async def _encode(self, name: str, branch: Mapping[str, Any], waiting: Sequence[Request]) -> None:
        """Ask a branch for rows, those of several requests together where they fit."""
        pieces = [one.present(name) for one in waiting]
        alike = all(len({piece[tensor].shape[1:] for piece in pieces}) == 1 for tensor in pieces[0])
        ends = np.cumsum([one.there[name].sum() for one in waiting])
        if len(pieces) > 1 and branch["joins"] and alike and ends[-1] <= branch["max_batch_size"]:
            joined = {tensor: np.concatenate([piece[tensor] for piece in pieces]) for tensor in pieces[0]}
            try:
                answers = await self._infer(branch, joined)
            except _Refused:
                pass  # each alone, so that the error goes to its cause only
            else:
                parts = {tensor: np.split(array, ends[:-1]) for tensor, array in answers.items()}
                for index, one in enumerate(waiting):
                    one.answers |= {tensor: split[index] for tensor, split in parts.items()}
                return
        await asyncio.gather(*(self._ask_alone(name, one, piece) for one, piece in zip(waiting, pieces, strict=True)))

    async def _ask_alone(self, name: str, one: Request, rows: Mapping[str, Array]) -> None:
        answers = await self._tried(self._branches[name], rows)
        if isinstance(answers, str):
            one.wrong = one.told(name, answers)
        else:
            one.answers |= answers

    async def _tried(self, asked: Mapping[str, Any], rows: Mapping[str, Array]) -> dict[str, Array] | str:
        try:
            return await self._infer(asked, rows)
        except _Refused as refused:
            return str(refused)

    async def _infer(self, asked: Mapping[str, Any], rows: Mapping[str, Array]) -> dict[str, Array]:
        """Ask a model; return its outputs by ensemble tensor."""
        import triton_python_backend_utils as pb_utils

        inputs = asked["inputs"]
        reads = inputs if isinstance(inputs, dict) else dict.fromkeys(inputs, next(iter(rows)))
        request = pb_utils.InferenceRequest(
            model_name=asked["model"],
            model_version=asked["version"],
            requested_output_names=list(asked["outputs"].values()),
            inputs=[pb_utils.Tensor(own, rows[tensor]) for own, tensor in reads.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = await request.async_exec()
        if response.has_error():
            raise _Refused(response.error().message())
        return {
            tensor: pb_utils.get_output_tensor_by_name(response, output).as_numpy()
            for tensor, output in asked["outputs"].items()
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
    """A request in the making: what was sent, which rows hold what, what was made of them and answered."""

    def __init__(self, arrays: Mapping[str, Array], rows: int, there: Mapping[str, Mask]) -> None:
        self._arrays, self.rows, self.there = arrays, rows, there
        #: Tensors that steps made of the rows of an input that are there, by input.
        self.made: dict[str, dict[str, Array]] = {}
        self.answers: dict[str, Array] = {}
        #: Why a row of an input counts as missing, by input.
        self.why: dict[str, str] = {}
        self.wrong = ""

    def present(self, name: str) -> dict[str, Array]:
        """Return the rows of an input that are there, with what steps made of them."""
        there = self.there[name]
        sent = self._arrays[name] if there.all() else self._arrays[name][there]
        return {name: sent, **self.made.get(name, {})}

    def told(self, name: str, wrong: str, rows: Sequence[int] | None = None) -> str:
        """Return what is wrong with rows that a model was asked for, by the rows of the request.

        Args:
            name: The input.
            wrong: What the model said.
            rows: Those that it was asked for; those that are there by default.
        """
        found = np.flatnonzero(self.there[name]).tolist() if rows is None else rows
        if len(found) == self.rows:
            return wrong
        numbers = re.compile(r"(?<=\brow )\d+|(?<=\brows )\d+|(?<=\d and )\d+(?= give)")
        return numbers.sub(lambda hit: str(found[int(hit[0])]) if int(hit[0]) < len(found) else hit[0], wrong)


def _unlike(rows: Sequence[Mapping[str, Array]]) -> str:
    """Say which tensor of rows is not of one shape; an empty string where all are."""
    for tensor in rows[0] if rows else ():
        shapes = sorted({row[tensor].shape[1:] for row in rows})
        if len(shapes) > 1:
            shown = f"{list(shapes[0])} and {list(shapes[1])}"
            return f"rows give {tensor!r} of {shown}: send rows of one size, or one row a request"
    return ""


def _holds(made: Mapping[str, Array], steps: Mapping[str, Any]) -> bool:
    tensor = steps["tensor"]
    return tensor is None or bool(holds_something(made[tensor], steps["detect"]).all())


def _fail_later(request: Any, message: str) -> None:
    import triton_python_backend_utils as pb_utils

    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
    arguments = (response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    timer = threading.Timer(_ERROR_DELAY_S, request.get_response_sender().send, arguments)
    timer.daemon = True
    timer.start()
