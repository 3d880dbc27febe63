from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from mmdeploy.core.errors import EngineError, EnvironmentUnfitError, InferenceError
from mmdeploy.core.sessions import CUDA, GRAPH_LEVEL, SessionRunner, misfit, open_session

DOUBLE = '<ir_version: 10, opset_import: ["": 20]> g (float[N,3] x) => (float[N,3] y) { y = Add(x, x) }'


def graph(text: str = DOUBLE) -> bytes:
    return onnx.parser.parse_model(text).SerializeToString()


def test_parameters_reach_the_session() -> None:
    parameters = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "false",
        "session.intra_op.allow_spinning": "0",
        "unknown_key": "is left to others",
    }
    options = open_session(graph(), parameters).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("-1", "ORT_ENABLE_BASIC"),
        ("0", "ORT_ENABLE_ALL"),
        ("1", "ORT_ENABLE_EXTENDED"),
        ("2", "ORT_DISABLE_ALL"),
        ("7", "ORT_ENABLE_ALL"),
    ],
)
def test_graph_levels_are_those_of_triton_s_backend(level: str, expected: str) -> None:
    wanted = getattr(ort.GraphOptimizationLevel, expected)
    by_parameter = open_session(graph(), {GRAPH_LEVEL: level})
    by_argument = open_session(graph(), {}, graph_level=level)
    assert by_parameter.get_session_options().graph_optimization_level == wanted
    assert by_argument.get_session_options().graph_optimization_level == wanted


def test_a_missing_provider_is_an_error_and_no_silent_fall_back() -> None:
    if CUDA[0] in ort.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    with pytest.raises(EnvironmentUnfitError, match="CUDAExecutionProvider is not in this onnxruntime") as caught:
        open_session(graph(), {}, providers=CUDA)
    assert "multimodal-deploy[gpu]" in str(caught.value.hint)


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(graph()[:-9])
    with pytest.raises(EngineError, match=r"cannot load .*damaged.onnx") as caught:
        open_session(path, {})
    assert "\n" not in caught.value.message
    assert caught.value.__cause__ is not None


def test_string_tensors_cannot_be_served() -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g (string[N] s) => (string[N] t) { t = Identity(s) }'
    with pytest.raises(EngineError, match=r"'s' has the type tensor\(string\)"):
        SessionRunner(open_session(graph(text), {}))


def test_runner_names_what_does_not_fit() -> None:
    runner = SessionRunner(open_session(graph(), {}))
    good = np.ones((2, 3), np.float32)
    assert runner.infer({"x": good})["y"].tolist() == [[2.0] * 3] * 2
    for feed, message in [
        ({"z": good}, "unknown input 'z'"),
        ({}, "input 'x' is missing"),
        ({"x": good.astype(np.float64)}, "dtype is FP64, expected FP32"),
        ({"x": good[:, :2]}, r"shape is \[2\], expected \[3\]"),
        ({"x": np.float32(1)}, "axis 0"),
    ]:
        with pytest.raises(InferenceError, match=message):
            runner.infer(feed)


def test_a_closed_runner_says_so() -> None:
    runner = SessionRunner(open_session(graph(), {}))
    runner.close()
    runner.close()
    with pytest.raises(InferenceError, match="closed"):
        runner.infer({"x": np.ones((1, 3), np.float32)})


def test_misfit_compares_batch_sizes() -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[N,1] a, float[N,1] b) => (float[N,1] c) { c = Add(a, b) }'
    inputs = SessionRunner(open_session(graph(text), {})).inputs
    two, three = np.ones((2, 1), np.float32), np.ones((3, 1), np.float32)
    assert misfit(inputs, {"a": two, "b": two}) is None
    assert "differ in batch size" in str(misfit(inputs, {"a": two, "b": three}))
