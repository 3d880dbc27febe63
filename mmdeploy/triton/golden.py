"""Golden requests of a release: some of the evaluation samples, with what was served for them in the build.

``golden.npz`` lies beside the models and is in the manifest. Before a release takes over on a server that runs, and
after that, it is asked these; where another answer comes, it is not the release that was judged, or not on a machine
that it runs on as it did.

How far an answer may be away follows from the build. The distance of two answers is the norm of their difference by
that of the answer in the build (never less than a tenth of what is usual for that output). Allowed is the largest of

- `SPREAD` times what the build itself saw: the same request asked again, and in a batch with others;
- `SHARE` of the distance between the served release and its FP32 reference: what quantization has changed, another
  machine may round otherwise, but not as much as to be another release;
- `FLOOR`, for what sums of floats in another order come to.

Whole numbers and strings are equal or wrong, unless the build saw them change: then they are not compared.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.contracts import FeedDict
from mmdeploy.core.errors import InferenceError, StoreError
from mmdeploy.core.strings import packed, unpacked

#: Beside the models of a release.
GOLDEN = "golden.npz"
SPREAD, SHARE, FLOOR = 4.0, 0.25, 1e-3
_LEAST_SHARE = 0.1
_TEXT, _SHAPE, _ABOUT = "strings:", "shape:", "about"

Answer = Mapping[str, Array]


@dataclass(frozen=True)
class GoldenRequest:
    """One request and what was served for it, both as a client of the ensemble sees them.

    Attributes:
        about: What it is, such as ``sample 3 without audio``.
        inputs: By name, the batch as axis 0.
        outputs: By name.
    """

    about: str
    inputs: FeedDict
    outputs: Answer


@dataclass(frozen=True)
class Golden:
    """The golden requests of a release.

    Attributes:
        model: Name of the ensemble.
        requests: At least one.
        tolerances: Distance allowed, by output; infinite for one that is not compared.
    """

    model: str
    requests: tuple[GoldenRequest, ...]
    tolerances: Mapping[str, float]


def distance(answer: Array, expected: Array, usual: float = 0.0) -> float:
    """Return how far an answer is from another; infinite where it is of another shape, type or kind.

    Args:
        answer: Of one request.
        expected: What it is held against.
        usual: Norm of what is usually answered.
    """
    if answer.shape != expected.shape or answer.dtype != expected.dtype:
        return math.inf
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(answer, expected) else math.inf
    left, right = answer.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(finite, np.isfinite(left)) or not np.array_equal(
        left[~finite], right[~finite], equal_nan=True
    ):
        return math.inf
    apart = float(np.linalg.norm(left[finite] - right[finite]))
    return apart / max(float(np.linalg.norm(right[finite])), _LEAST_SHARE * usual, 1e-12)


def usual_norms(answers: Iterable[Answer]) -> dict[str, float]:
    """Return the mean norm of each output that is a float."""
    norms: dict[str, list[float]] = {}
    for answer in answers:
        for name, array in answer.items():
            if array.dtype.kind == "f":
                norm = float(np.linalg.norm(np.nan_to_num(array.astype(np.float64), posinf=0.0, neginf=0.0)))
                norms.setdefault(name, []).append(norm)
    return {name: sum(found) / len(found) for name, found in norms.items()}


def disagreements(golden: Golden, infer: Callable[[FeedDict], Answer]) -> tuple[str, ...]:
    """Ask golden requests; return what is wrong with the answers, a sentence each, nothing if all are as in the build.

    Raises:
        ServerError: If nobody answers.
    """
    usual, wrong = usual_norms(one.outputs for one in golden.requests), []
    for request in golden.requests:
        try:
            answer = infer(request.inputs)
        except InferenceError as error:
            wrong.append(f"{request.about}: refused: {error.message}")
            continue
        for name, expected in request.outputs.items():
            allowed = golden.tolerances.get(name, FLOOR)
            if name not in answer:
                wrong.append(f"{request.about}: the answer has no output {name!r}")
            elif (apart := distance(answer[name], expected, usual.get(name, 0.0))) > allowed:
                far = "is of another shape or type" if math.isinf(apart) else f"is {apart:.3g} away"
                wrong.append(
                    f"{request.about}: output {name!r} {far} from what was served in the build ({allowed:.3g})"
                )
    return tuple(wrong)


def write_golden(path: Path, golden: Golden) -> None:
    """Write golden requests."""
    arrays: dict[str, Array] = {}
    for index, request in enumerate(golden.requests):
        for side, tensors in (("in", request.inputs), ("out", request.outputs)):
            for name, array in tensors.items():
                key = f"{index}/{side}/{name}"
                if array.dtype == object:
                    arrays[f"{_TEXT}{key}"] = np.frombuffer(packed(array), np.uint8)
                    arrays[f"{_SHAPE}{key}"] = np.array(array.shape, np.int64)
                else:
                    arrays[key] = array
    about = {
        "schema_version": 1,
        "model": golden.model,
        "requests": [request.about for request in golden.requests],
        "tolerances": {name: None if math.isinf(allowed) else allowed for name, allowed in golden.tolerances.items()},
    }
    arrays[_ABOUT] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    np.savez_compressed(path, **arrays)


def read_golden(path: Path) -> Golden:
    """Read golden requests.

    Raises:
        StoreError: If they cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(arrays[_ABOUT].tobytes())
            if about["schema_version"] != 1:
                raise StoreError(f"{path} is of another version of mmdeploy", hint="build the release again")
            found: list[tuple[dict[str, Array], dict[str, Array]]] = [({}, {}) for _ in about["requests"]]
            for key in arrays.files:
                own = key.removeprefix(_TEXT)
                if key != _ABOUT and not key.startswith(_SHAPE):
                    index, side, name = own.split("/", 2)
                    found[int(index)][side == "out"][name] = _read(arrays, key, own)
            requests = tuple(
                GoldenRequest(str(one), *tensors) for one, tensors in zip(about["requests"], found, strict=True)
            )
            allowed = {name: math.inf if one is None else float(one) for name, one in about["tolerances"].items()}
            return Golden(str(about["model"]), requests, allowed)
    except (OSError, EOFError, KeyError, IndexError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path}: golden requests cannot be read: {error}", hint="build the release again") from error


def _read(arrays: Any, key: str, own: str) -> Array:
    array: Array = unpacked(arrays[key].tobytes(), arrays[f"{_SHAPE}{own}"]) if key != own else arrays[key]
    return array
