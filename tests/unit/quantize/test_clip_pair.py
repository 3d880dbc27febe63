"""The CLIP pair of `benchmarks/clip_towers.py` at test size: export, quantize, and both CPU engines."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exported import context_for, export

pytest.importorskip("transformers", reason="the extra dev brings it")
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

from mmdeploy.core.contracts import Encoding  # noqa: E402
from mmdeploy.engines import onnxruntime, openvino  # noqa: E402
from mmdeploy.quantize import fidelity, static  # noqa: E402

SOURCE = f"import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nfrom clip_pair import build_tiny as build\n"
EMBEDDINGS = {"image": "embedding", "text": "embedding"}  # a name that the exporter gives to a tensor inside, too


@pytest.fixture(params=EMBEDDINGS, scope="module")
def tower(request, tmp_path_factory):
    sys.path.insert(0, str(BENCHMARKS))
    import clip_pair

    feed = clip_pair.feed(request.param, 24, seed=0, sizes=clip_pair.TINY)
    artifact = export(tmp_path_factory.mktemp(request.param), SOURCE, request.param, feed, EMBEDDINGS[request.param])
    return artifact, feed


@pytest.mark.parametrize("equalize", [None, 0.5])
@pytest.mark.parametrize(
    ("engine", "options"),
    [
        *((onnxruntime, onnxruntime.Options(encoding=encoding)) for encoding in Encoding),
        (openvino, openvino.Options()),
        (openvino, openvino.Options(encoding=Encoding.UINT8_ASYMMETRIC)),
    ],
    ids=lambda value: getattr(value, "encoding", None) if not hasattr(value, "BACKEND") else value.BACKEND,
)
def test_int8_towers_answer_like_the_float_ones(tower, tmp_path, engine, options, equalize):
    artifact, feed = tower
    context = context_for(tmp_path / "q", feed, engine.encoding(options))
    quantized = static.run(artifact, static.Options(equalize=equalize), context)
    assert len(quantized.metadata["quantized_nodes"]) >= 2 * 6 + 1
    runners = []
    for name, graph in (("float", artifact), ("int8", quantized)):
        work = tmp_path / name
        work.mkdir()
        runners.append(engine.load(engine.run(graph, options, replace(context, workdir=work)), options))
    answers = [runner.infer(feed)["embedding"] for runner in runners]
    assert fidelity.cosine(*answers) > 0.998
    for one, other in zip(*answers, strict=True):  # each sample, not only all of them together
        assert fidelity.cosine(one, other) > 0.99
    assert np.isfinite(answers[1]).all()
