"""Writes a real sample as requests that lie beside a release: for curl, and for perf_analyzer.

``sample_request.json`` is a KServe v2 request, ``sample_request.headers`` what curl must send with it; a client
that sends it as a form, as curl does when it is not told otherwise, can crash Triton. Types that JSON cannot carry
(FP16, files) go as bytes, in ``sample_request.bin``. ``perf_analyzer.json`` holds several samples for ``perf_analyzer
--input-data``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from mmdeploy.core.artifact import Array, Artifact
from mmdeploy.core.strings import packed
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.data.samples import Feed
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.recipe.schema import Recipe
from mmdeploy.triton.client import binary_request, request_json, text_only
from mmdeploy.triton.known_samples import PERF_SAMPLES
from mmdeploy.triton.sequences import ALONE

_SAMPLES = 8


def write_sample_request(folder: Path, recipe: Recipe, artifacts: Mapping[str, Artifact]) -> dict[str, Path]:
    """Write the files; return them by the name that they have beside a release, none where the build took no samples.

    Args:
        folder: An existing folder.
        recipe: With the inputs.
        artifacts: What the build made, by step id, its recorded sets of samples among them.
    """
    recorded = [key for key in ("evaluation", "validation", "calibration") if DATA_SETS[key] in artifacts]
    if not recorded:
        return {}
    recording, reference = artifacts[DATA_SETS[recorded[0]]].path.parent, str(getattr(recipe.data, recorded[0]))
    samples = SampleSet.open(recording, reference, tuple(recipe.inputs))
    written = {
        PERF_SAMPLES: _perf_analyzer(recipe, samples).encode(),
        **_request(recipe, samples.batch(0, 1)),
    }
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in written}


def _request(recipe: Recipe, feed: Feed) -> dict[str, bytes]:
    sequence = {} if recipe.stream is None else ALONE
    if not text_only(feed):
        header, body = binary_request(feed, (), recipe.name, sequence)
        headers = "".join(f"{name}: {value}\n" for name, value in header.items())
        return {"sample_request.bin": body, "sample_request.headers": headers.encode()}
    body = json.dumps(request_json(feed, model=recipe.name, sequence=sequence)).encode()
    return {"sample_request.json": body, "sample_request.headers": b"Content-Type: application/json\n"}


def _perf_analyzer(recipe: Recipe, samples: SampleSet) -> str:
    """Write samples as perf_analyzer reads them: without the batch, unless the model takes it as any other axis."""
    lead = [] if recipe.max_batch_size else [1]
    rows = []
    for index in range(min(samples.count, _SAMPLES)):
        feed = samples.batch(index, index + 1)
        rows.append(
            {
                name: {"b64": _base64(array), "shape": [*lead, *(array.shape[1:] or (1,))]}
                for name, array in feed.items()
            }
        )
    return json.dumps({"data": rows})


def _base64(array: Array) -> str:
    return base64.b64encode(packed(array) if array.dtype == object else array.tobytes()).decode()
