"""Writes what NVIDIA's tools need to measure the same model with the same samples.

``perf_analyzer.json`` is for ``perf_analyzer --input-data``: the several samples, without the batch where the model
batches. ``model_analyzer.yaml`` is for ``model-analyzer profile -f``: it searches batch sizes, delays and instances in
copies of the repository, in the mode *quick*, the only one that takes ensembles
(https://github.com/triton-inference-server/model_analyzer/blob/main/docs/config.md).
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.contracts import Array
from mmdeploy.core.strings import packed
from mmdeploy.performance.samples import Asked
from mmdeploy.performance.target import Target
from mmdeploy.triton.known_samples import PERF_SAMPLES

ANALYZER = "model_analyzer.yaml"


def write_perf_files(folder: Path, target: Target, asked: Asked, *, release: Path | None) -> tuple[Path, ...]:
    """Write both files into a folder, which is made; return their paths.

    Args:
        folder: Where.
        target: The served model.
        asked: Samples, one a request.
        release: The model repository, for Model Analyzer; a place to fill in stands where it is not known.
    """
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    data, analyzer = folder / PERF_SAMPLES, folder / ANALYZER
    data.write_text(json.dumps({"data": _rows(target, asked)}), encoding="utf-8")
    told = _analyzer(target, data.resolve(), "PATH OF THE MODEL REPOSITORY" if release is None else release.resolve())
    head = "# model-analyzer profile -f model_analyzer.yaml, in the SDK container of the Triton that serves\n"
    analyzer.write_text(head + yaml.safe_dump(told, sort_keys=False, width=110), encoding="utf-8")
    return data, analyzer


def commands(target: Target, folder: Path, concurrencies: Sequence[int]) -> str:
    """Return the command line of perf_analyzer that puts the same load."""
    least, most = min(concurrencies), max(concurrencies)
    step = min((later - one for one, later in itertools.pairwise(concurrencies)), default=1)
    return (
        f"perf_analyzer -m {target.model} -u {target.address} -i {target.protocol} "
        f"--input-data {folder / PERF_SAMPLES} --concurrency-range {least}:{most}:{max(step, 1)}"
    )


def _rows(target: Target, asked: Asked) -> list[dict[str, Any]]:
    def tensor(array: Array) -> dict[str, Any]:
        one = array[0] if target.max_batch_size else array
        raw = packed(one) if one.dtype == object else one.tobytes()
        return {"b64": base64.b64encode(raw).decode(), "shape": list(one.shape)}

    return [{name: tensor(array) for name, array in feed.items()} for feed in asked.feeds]


def _analyzer(target: Target, data: Path, repository: Path | str) -> dict[str, Any]:
    steps = target.steps()
    on_cpu = sorted(name for name, config in steps.items() if _is_on_cpu(config))
    profiled: dict[str, Any] = {"perf_analyzer_flags": {"input-data": [str(data)]}}
    if len(on_cpu) == len(steps):
        profiled["cpu_only"] = True
    told: dict[str, Any] = {
        "model_repository": str(repository),
        "profile_models": {target.model: profiled},
        "run_config_search_mode": "quick",
        "client_protocol": target.protocol,
        "triton_launch_mode": "local",
        "override_output_model_repository": True,
    }
    if on_cpu and target.model not in on_cpu:
        told["cpu_only_composing_models"] = on_cpu
    return told


def _is_on_cpu(config: Mapping[str, Any]) -> bool:
    groups = config.get("instance_group", [])
    return bool(groups) and all(group.get("kind") == "KIND_CPU" for group in groups)
