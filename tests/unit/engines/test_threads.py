"""The words for threads in `mmdeploy.engines.threads` are those that the engines read and write."""

import pytest

from mmdeploy.core.target import usable_cores
from mmdeploy.engines import aot_inductor, onnxruntime, openvino
from mmdeploy.engines.threads import THREADS, threads_told

ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "aot_inductor": aot_inductor}


@pytest.mark.parametrize("method", sorted(THREADS))
def test_what_a_recipe_says_is_what_is_told_of_its_model(method: str) -> None:
    engine = ENGINES[method]
    for said, told in ((1, 1), (3, 3), ("cores", usable_cores())):
        options = engine.Options.model_validate({"method": method, THREADS[method].option: said})
        parameters = engine.serving(options)
        assert parameters[THREADS[method].parameter] == str(told)
        assert threads_told(parameters) == told


@pytest.mark.parametrize("text", ["", "0", "-1", "many", None])
def test_what_does_not_say_a_number_is_one_thread(text: str | None) -> None:
    assert threads_told({} if text is None else {"INFERENCE_NUM_THREADS": text}) == 1
