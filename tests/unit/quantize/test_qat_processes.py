"""Quantization-aware training on two processes gives what one gives."""

import os
from pathlib import Path

import numpy as np
import pytest
import qat_launched

from mmdeploy.training.launch import run_launched


@pytest.mark.parametrize("learn", [False, True])
def test_two_processes_get_the_weights_and_scales_of_one(tmp_path, monkeypatch, learn):
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    options = {"epochs": 1, "learn_scales": learn, "optimizer": "sgd", "learning_rate": 0.01, "loss": "task"}
    one = qat_launched.trained(options, lambda *_: None)
    two = run_launched("qat_launched:trained", options, processes=2, threads=1, log=tmp_path / "log")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["best_epoch"] == two["best_epoch"] == 1  # so the weights compared are trained ones
    assert two["amax"] == pytest.approx(one["amax"], rel=1e-3)
    for name, weights in one["weights"].items():
        np.testing.assert_allclose(two["weights"][name], weights, atol=1e-4, err_msg=name)
