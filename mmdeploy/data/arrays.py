"""What a data callable gives as an array of NumPy's, or a clear word why it is none."""

from __future__ import annotations

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError, kind_of


def array_of(value: object, where: str, expected: str = "") -> Array:
    """Return a value of a sample as an array: an array of NumPy's, or what gives one of itself, such as a tensor.

    Args:
        value: What a data callable gave under an input's name.
        where: Sample and input, for messages.
        expected: What the recipe says of the input, for messages.

    Raises:
        DataError: When it is no array, or a tensor that NumPy cannot hold: on a GPU, with a gradient, BF16, sparse.
    """
    wanted = f", expected a NumPy array ({expected})" if expected else ""
    if not hasattr(value, "__array__"):
        raise DataError(f"{where} is {kind_of(value)}{wanted}", hint=_hint_of_no_array(value))
    try:
        return np.asarray(value)
    except Exception as cause:
        text = " ".join(str(cause).split())
        raise DataError(
            f"{where} is {kind_of(value)} that is no NumPy array{wanted}: {text}",
            hint="give a NumPy array: of a tensor that is tensor.detach().cpu().numpy(), of a BF16 one "
            "tensor.detach().cpu().float().numpy(), of a sparse one that of tensor.to_dense()",
        ) from cause


def _hint_of_no_array(value: object) -> str:
    if value is None:
        return "a sample that lacks an input does not hold its name at all (docs/missing_modalities.md)"
    return "give a NumPy array, such as np.asarray(value)"
