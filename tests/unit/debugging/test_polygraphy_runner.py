"""``polygraphy run --mmdeploy``: engines of mmdeploy beside Polygraphy's own runners."""

import json
import subprocess
import sys

import onnx
import pytest
from debug_graphs import float_chain, int8_chain


def _run(folder, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = "import sys; from polygraphy.tools import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, "run", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("section", [{"method": "openvino"}, {"method": "onnxruntime", "graph_level": "basic"}])
def test_an_engine_agrees_with_onnx_runtime(tmp_path, section):
    onnx.save(float_chain(3), tmp_path / "g.onnx")
    arguments = [
        "g.onnx",
        "--onnxrt",
        "--mmdeploy",
        "--mmdeploy-engine",
        json.dumps(section),
        "--input-shapes",
        "x:[4,8]",
    ]
    done = _run(tmp_path, *arguments, "--compare", "snr", "--snr-threshold", "80")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"mmdeploy-{section['method']}" in done.stdout


def test_an_engine_that_differs_fails(tmp_path):
    onnx.save(int8_chain(3, dead=0), tmp_path / "g.onnx")
    arguments = ["g.onnx", "--onnxrt", "--graph-optimization-level", "ORT_DISABLE_ALL", "--mmdeploy"]
    done = _run(tmp_path, *arguments, "--input-shapes", "x:[4,8]", "--compare", "snr", "--snr-threshold", "30")
    assert done.returncode == 1 and "Mismatched outputs: ['t2']" in done.stdout + done.stderr


def test_an_unknown_engine_is_named_with_the_nearest(tmp_path):
    onnx.save(float_chain(1), tmp_path / "g.onnx")
    done = _run(tmp_path, "g.onnx", "--mmdeploy", "--mmdeploy-engine", '{"method": "openvin"}')
    assert done.returncode != 0
    assert "did you mean 'openvino'?" in done.stdout + done.stderr
