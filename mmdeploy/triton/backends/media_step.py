"""``model.py`` of a step of ``preprocess`` or ``postprocess`` in a release.

Beside it lie copies of ``mmdeploy/preprocess``, as ``mmdeploy_preprocess``, and of ``batch.py``, as
``mmdeploy_requests.py``: nothing else of mmdeploy is imported. What the step is, its parameter ``mmdeploy.options``
says. A sample that is refused refuses its request alone, in the words of the method.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
#: Samples of a request that are decoded at once: the libraries let go of Python's lock.
_THREADS = 4


class TritonPythonModel:
    """One instance of a step."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Make the method and load its files."""
        sys.path.insert(0, str(_HERE))
        requests = importlib.import_module("mmdeploy_requests")
        media = importlib.import_module("mmdeploy_preprocess")
        config = json.loads(args["model_config"])
        described = json.loads(requests.string_parameters(config)["mmdeploy.options"])
        wired = media.WiredMethod.from_json(described)
        wired.method.open(_HERE)
        pool = ThreadPoolExecutor(_THREADS)

        def run(feed: Mapping[str, Any]) -> list[Any]:
            try:
                answers = wired.batch({tensor: feed[own] for own, tensor in wired.inputs.items()}, pool)
            except media.RefusedError as error:
                raise requests.RefusalError(str(error)) from error
            return [answers[wired.outputs[name]] for name in model.outputs]

        # each request alone: its rows are of one size, and those of another need not be
        model = requests.BatchedModel(config, run, joins=False)
        self.model = model

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch."""
        answers: list[Any] = self.model.execute(requests)
        return answers
