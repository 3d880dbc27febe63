"""What candidates are called, and the options of the two ways to choose."""

import pytest
from pydantic import ValidationError

from mmdeploy.choice.candidates import label, slug
from mmdeploy.choice.options import AutoEngine, MustPay
from mmdeploy.core.contracts import Encoding, Variant
from mmdeploy.core.target import Target
from mmdeploy.engines import METHODS, onnxruntime, openvino


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (Variant(onnxruntime.Options()), "onnxruntime FP32"),
        (Variant(onnxruntime.Options(), "quantized"), "onnxruntime INT8 uint8_asymmetric"),
        (Variant(onnxruntime.Options(intra_op_threads=4)), "onnxruntime FP32, 4 threads"),
        (Variant(openvino.Options(precision="bf16")), "openvino BF16"),
        (
            Variant(openvino.Options(precision="bf16", encoding=Encoding.UINT8_ASYMMETRIC), "quantized"),
            "openvino INT8 uint8_asymmetric, BF16",
        ),
        (Variant(onnxruntime.Options(graph_level="extended")), "onnxruntime FP32, graph_level extended"),
    ],
)
def test_labels(variant: Variant, words: str):
    assert label(variant) == words
    assert label(variant, "pruned") == f"{words}, pruned"


def test_labels_and_slugs_tell_all_candidates_apart():
    for target in Target:
        found = [variant for engine in METHODS.values() for variant in engine.candidates(target, threads=8)]
        labels = [label(variant) for variant in found]
        assert len(set(labels)) == len(labels)
        slugs = [slug(text) for text in labels]
        assert len(set(slugs)) == len(slugs)
        assert all(text.replace("-", "").replace("_", "").replace(".", "").isalnum() for text in slugs)


def test_an_unknown_engine_is_named_with_the_nearest():
    with pytest.raises(ValidationError, match="did you mean 'openvino'"):
        AutoEngine(engines=("openvin",))


@pytest.mark.parametrize("wrong", [{"max_drop": -0.1}, {"threads": 0}, {"engines": ()}, {"confidence": 1.0}, {"x": 1}])
def test_options_outside_their_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        AutoEngine(**wrong)


def test_defaults():
    assert AutoEngine().max_drop is None  # the plan puts the accuracy gate's budget there
    assert MustPay().max_drop is None
