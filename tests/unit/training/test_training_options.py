"""What a recipe may say about training, and the learning rate that follows from it."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdeploy.recover.finetune import Options
from mmdeploy.training.optimizer import learning_rate
from mmdeploy.training.options import TrainingOptions

positive = st.floats(1e-6, 1.0)
valid = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 50),
        "batch_size": st.integers(1, 512),
        "learning_rate": positive,
        "weight_decay": st.floats(0, 0.5),
        "warmup": st.floats(0, 0.99),
        "schedule": st.sampled_from(["cosine", "constant"]),
        "gradient_clip": st.none() | positive,
        "loss": st.sampled_from(["task", "distill", "both"]),
        "temperature": st.floats(0.1, 20),
        "logits_weight": positive,
        "embedding_weight": st.floats(0, 10),
        "patience": st.none() | st.integers(1, 10),
    }
)


@given(valid, st.sampled_from([("adamw", None), ("sgd", None), ("sgd", 0.0), ("sgd", 0.95)]))
def test_options_come_back_from_the_json_that_a_step_carries(fields, kind):
    options = Options(**fields, optimizer=kind[0], momentum=kind[1])
    assert Options.model_validate_json(json.dumps(options.model_dump(mode="json"))) == options


@given(valid, st.integers(1, 300))
def test_the_learning_rate_rises_to_its_peak_and_never_leaves_its_bounds(fields, steps):
    options = TrainingOptions(**fields)
    rates = [learning_rate(options, step, steps) for step in range(steps)]
    assert all(0 <= rate <= options.learning_rate * (1 + 1e-9) for rate in rates)
    assert all(rate > 0 for rate in rates[:-1])
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_the_cosine_is_half_way_down_half_way_through():
    options = TrainingOptions(learning_rate=0.2, warmup=0.0)
    assert learning_rate(options, 50, 100) == pytest.approx(0.1)
    assert learning_rate(options, 0, 100) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"momentum": 0.9}, "adamw takes no momentum"),
        ({"logits_weight": 0, "embedding_weight": 0}, "compares nothing with the original"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": float("nan")}, "finite number"),
        ({"warmup": 1.0}, "less than 1"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"patience": 0}, "greater than or equal to 1"),
        ({"temperature": 0}, "greater than 0"),
        ({"loss": "kd"}, "'task', 'distill' or 'both'"),
        ({"learningrate": 0.1}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        TrainingOptions(**fields)


def test_options_load_no_heavy_library():
    code = (
        "import sys, mmdeploy.recover.finetune, mmdeploy.training.launch; "
        "print([name for name in ('torch', 'accelerate', 'onnx') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
