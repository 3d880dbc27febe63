"""OpenVINO's INT8 answers as its graph does, whatever lies between convolutions, or says what it did about it."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from mmdeploy.core.agreement import Noise
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.sessions import AS_WRITTEN, SessionRunner, open_session
from mmdeploy.engines import openvino as engine

pytest.importorskip("openvino", reason="needs openvino (the extra cpu brings it)")

SCALES = "float i = {0.02}, float j = {0.03}, float k = {0.02}, int8 z = {0}"


def rounded(source: str, result: str, scale: str) -> str:
    return f"{result}q = QuantizeLinear ({source}, {scale}, z) {result} = DequantizeLinear ({result}q, {scale}, z)"


def conv(source: str, result: str, name: str) -> str:
    product = f"{result} = Conv <pads = [1, 1, 1, 1]> ({source}, {name}v, {name}b)"
    return f"{name}v = DequantizeLinear <axis = 0> ({name}, {name}s, {name}z) {product}"


#: What lies between two convolutions in INT8; the first has 8 channels.
BETWEEN = {
    "relu": f"{rounded('a', 'ar', 'j')} m = Relu (ar) {rounded('m', 'mr', 'k')} {conv('mr', 'y', 'two')}",
    "clamp": f"{rounded('a', 'ar', 'j')} m = Clip (ar, low, high) {rounded('m', 'mr', 'k')} {conv('mr', 'y', 'two')}",
    "pad": f"{rounded('a', 'ar', 'j')} m = Pad (ar, around) {rounded('m', 'mr', 'k')} {conv('mr', 'y', 'two')}",
    "padded pool": f"""{rounded('a', 'ar', 'j')} n = Relu (ar)
        m = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (n)
        {rounded('m', 'mr', 'k')} {conv('mr', 'y', 'two')}""",
    "concat": f"""{rounded('a', 'ar', 'j')} n = Relu (ar) {conv('xr', 'b', 'other')} {rounded('b', 'br', 'k')}
        o = Relu (br) m = Concat <axis = 1> (n, o) {rounded('m', 'mr', 'k')} {conv('mr', 'y', 'wide')}""",
    "residual": f"""{rounded('a', 'ar', 'j')} n = Relu (ar) {rounded('n', 'nr', 'k')} {conv('nr', 'b', 'two')}
        {rounded('b', 'br', 'j')} y = Add (br, nr)""",
}  # fmt: skip
WIDTHS = {"one": 3, "other": 3, "two": 8, "wide": 16}


def graph(make_onnx, between: str):
    text = f"""g (float[N, 3, 10, 10] x) => (float[N, 8, height, width] y)
        <{SCALES}, float low = {{-0.3}}, float high = {{0.6}}, int64[8] around = {{0, 0, 2, 2, 0, 0, 2, 2}}> {{
        {rounded("x", "xr", "i")} {conv("xr", "a", "one")} {between} }}"""
    random = np.random.default_rng(1)
    weights: dict[str, np.ndarray] = {}
    for name, width in WIDTHS.items():
        if f"{name}v" in text:
            weights[name] = random.integers(-127, 128, (8, width, 3, 3), np.int8)
            weights[f"{name}s"] = (random.uniform(0.5, 1.5, 8) * 0.3 / np.sqrt(9 * width) / 74).astype(np.float32)
            weights[f"{name}z"] = np.zeros(8, np.int8)
            weights[f"{name}b"] = (random.standard_normal(8) * 0.1).astype(np.float32)
    return replace(make_onnx(text, weights=weights), metadata=as_metadata(Noise({"y": 36.0})))


@pytest.mark.parametrize("between", BETWEEN)
def test_what_ships_answers_as_its_graph(make_onnx, make_context, between):
    source = graph(make_onnx, BETWEEN[between])
    context, options = make_context(source), engine.Options()
    built = engine.run(source, options, context)
    feed = {"x": np.random.default_rng(5).standard_normal((8, 3, 10, 10)).astype(np.float32)}
    answer = engine.load(built, options).infer(feed)["y"]
    kept = context.workdir / built.metadata["graph"]
    onnx.checker.check_model(kept, full_check=True)
    own = SessionRunner(open_session(kept, {}, graph_level=AS_WRITTEN)).infer(feed)["y"]
    given = SessionRunner(open_session(source.path, {}, graph_level=AS_WRITTEN)).infer(feed)["y"]
    for wanted, least_db in ((own, 28), (given, 20)):  # where nodes are in float it is nearer to the float graph
        assert 10 * np.log10(np.square(wanted).sum() / np.square(wanted - answer).sum().clip(1e-9)) > least_db
    changed = built.metadata["reencoded"] or bool(built.metadata["float_nodes"])
    assert bool(built.metadata["warnings"]) is changed
