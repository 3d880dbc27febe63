"""The example of a metric in docs/extending.md runs, and its numbers are right."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmdeploy.data.labels import stacked_labels
from mmdeploy.gates import accuracy

DOCS = Path(__file__).parents[3] / "docs" / "extending.md"


def example(language: str, holds: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return next(block for block in blocks if holds in block)


def test_the_example_scores_with_the_gates_beside_it(tmp_path):
    (tmp_path / "metrics.py").write_text(example("python", "def phone_error_rate"))
    gates = [accuracy.Options(**gate) for gate in yaml.safe_load(example("yaml", "phone_error_rate"))["gates"]]
    outputs = ("phones", "speaker")
    rate, found = (accuracy.opened(gate, outputs, tmp_path) for gate in gates)
    phones = np.zeros((3, 6, 5))
    said = [[1, 1, 0, 1, 2, 0], [3, 0, 3, 3, 0, 0], [4, 2, 0, 0, 0, 0]]  # 1 1 2; 3 3; 4 2
    for row, frames in enumerate(said):
        phones[row, range(6), frames] = 1.0
    answers = {"phones": phones, "speaker": np.eye(3)}
    labels = stacked_labels(
        [{"phones": [1, 1, 2], "speaker": 0}, {"phones": [3], "speaker": 1}, {"phones": [2, 4, 2], "speaker": 0}], "f"
    )
    assert rate.scored(answers, labels).score == pytest.approx((0 + 1 + 1) / 7)
    assert not rate.larger_is_better and rate.name == "phone_error_rate(blank=0)"
    assert found.scored(answers, labels).per_unit.tolist() == [1.0, 1.0, 0.0]
