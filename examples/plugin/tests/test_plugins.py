"""The contract tests that mmdeploy offers, and one of each plug-in's own numbers."""

import numpy as np
import pytest
from mmdeploy_example import calibration_error, near_zero, torchscript

from mmdeploy import testing


def test_calibration_error_is_a_gate() -> None:
    testing.check_gate(calibration_error, {"max_error": 0.9})


def test_near_zero_is_a_pass_on_the_module() -> None:
    assert testing.check_pass(near_zero, "prune", {"share": 0.1}) is None


def test_torchscript_is_an_engine() -> None:
    assert testing.check_engine(torchscript, {}) is None


def test_a_model_that_is_sure_and_half_right_is_half_wrong_about_itself() -> None:
    logits = np.array([[50.0, 0.0]] * 4)
    assert calibration_error.expected_error(logits, np.array([0, 0, 1, 1]), bins=10) == pytest.approx(0.5)
    assert calibration_error.expected_error(logits, np.array([0, 0, 0, 0]), bins=10) == pytest.approx(0.0)


def test_a_candidate_that_is_too_sure_fails() -> None:
    unsure = testing.evidence(
        original={"scores": testing.evidence().original["scores"] * 0.0},
        candidate=testing.deployment(lambda logits: -50 * logits),
    )
    options = calibration_error.Options(max_increase=0.1)
    result = calibration_error.check(options, unsure)
    assert result.verdict == "fail"
    assert result.details["candidate"] > 0.9
    assert "temperature" in calibration_error.advice(options, result)


def test_small_weights_and_no_others_become_zero(tmp_path) -> None:
    from mmdeploy.model.torch_component import load_component

    before = load_component(testing.module(tmp_path / "source"))
    made = near_zero.run(
        testing.module(tmp_path / "again"), near_zero.Options(share=0.5), testing.context(tmp_path / "work")
    )
    for name, weight in load_component(made).named_parameters():
        old = dict(before.named_parameters())[name]
        small = old.abs() < 0.5 * old.std()
        assert bool((weight[small] == 0).all())
        assert bool((weight[~small] == old[~small]).all())
    assert 0 < made.metadata["zeros"] < made.metadata["weights_in_all"]


def test_entry_points_name_what_is_there() -> None:
    from importlib.metadata import entry_points

    found = {
        point.name: point.load() for group in ("gates", "passes", "engines") for point in _ours(entry_points, group)
    }
    assert found == {
        "calibration_error": calibration_error, "prune.near_zero": near_zero, "torchscript": torchscript,
    }  # fmt: skip


def _ours(entry_points, group):
    return [point for point in entry_points(group=f"mmdeploy.{group}") if point.value.startswith("mmdeploy_example")]
