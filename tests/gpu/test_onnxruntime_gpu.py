"""The onnxruntime engine with the CUDA provider, run on this machine's GPU; skipped visibly where there is none."""

import subprocess
import sys

import numpy as np
import pytest

from mmdeploy.core.contracts import StepContext
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.sessions import CUDA, SessionRunner, open_session
from mmdeploy.engines import onnxruntime as engine
from mmdeploy.testing import steps

pytestmark = pytest.mark.gpu

OPTIONS = engine.Options(provider="cuda")


@pytest.fixture(autouse=True)
def gpu() -> None:
    if reason := engine.unavailable(OPTIONS):
        pytest.skip(f"the CUDA provider cannot run here: {reason}")


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_the_engine_answers_on_the_gpu_as_on_the_cpu(tmp_path, quantized: bool) -> None:
    source = steps.source(tmp_path / "source", "onnx", quantized=quantized)
    context: StepContext = steps.context(tmp_path / "work", calibration=None, calibration_batches=0)
    built = engine.run(source, OPTIONS, context)
    assert built.metadata["verified_with"] == CUDA[0]
    runner, original = engine.load(built, OPTIONS), SessionRunner(open_session(source.path, {}))
    for batch in (1, 3):
        feed = context.examples(batch)
        wanted, found = original.infer(feed), runner.infer(feed)
        for name, array in wanted.items():  # TF32 products: 11 significant bits
            assert np.linalg.norm(found[name] - array) <= 2e-3 * np.linalg.norm(array) + 1e-6
    with pytest.raises(InferenceError, match="is missing"):
        runner.infer({})


def test_the_provider_starts_in_a_process_without_pytorch(tmp_path) -> None:
    source = steps.source(tmp_path / "source", "onnx", quantized=False)
    program = (
        "import sys; from mmdeploy.core.sessions import CUDA, open_session\n"
        "session = open_session(sys.argv[1], {}, providers=CUDA)\n"
        "print(session.get_providers()[0], 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(source.path)], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == [CUDA[0], "False"], ran.stderr
