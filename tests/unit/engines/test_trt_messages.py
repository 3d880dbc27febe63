"""What TensorRT says, met where a message cannot be provoked without a GPU: its words as its releases print them."""

import pytest

from mmdeploy.engines.trt_messages import Messages, builder_error


def test_repetition_and_the_missing_driver_are_left_out() -> None:
    messages = Messages()
    for _ in range(3):
        messages.add("ERROR", "Error Code 4: bad shape\n[catchCudaError] (cudaError 35: CUDA driver version ...)")
        messages.add("WARNING", "slow path")
    messages.add("ERROR", "(cudaError 35: CUDA driver version is insufficient)")
    assert messages.errors == ["Error Code 4: bad shape"]
    assert messages.warnings == ["slow path"]


@pytest.mark.parametrize(
    ("said", "meaning", "todo"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for"
            " node {ForeignNode[conv1...]}.)",
            "no kernel fits",
            "precision: fp32",
        ),
        (
            "Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)",
            "memory ran out",
            "engine.workspace_bytes",
        ),
        (
            "Error Code 4: API Usage Error (Dynamic input tensor x is missing dimensions in profile 0.)",
            "optimization profile does not fit",
            "engine.optimization_profile",
        ),
        ("Error Code 9: something new", "something new", "engine.method: onnxruntime"),
    ],
)
def test_builder_errors_are_said_in_the_recipe_s_words(said: str, meaning: str, todo: str) -> None:
    messages = Messages()
    messages.add("ERROR", said)
    error = builder_error(messages, component="fusion")
    assert error.message.startswith("fusion: TensorRT could not build the engine")
    assert meaning in error.message
    assert said.splitlines()[0] in error.message
    assert todo in str(error.hint)
