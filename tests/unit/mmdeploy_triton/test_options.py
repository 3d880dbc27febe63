"""The serving section: what it takes, and what it refuses with a message that helps."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from mmdeploy.triton.options import Serving


def test_a_missing_section_is_not_done():
    serving = Serving()
    assert serving.max_batch_size == 8
    assert not any(
        (
            serving.dynamic_batching,
            serving.instance_group,
            serving.warmup,
            serving.response_cache,
            serving.version_policy,
        )
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_batch_size": -1}, "greater than or equal to 0"),
        ({"max_batchsize": 4}, "Extra inputs"),
        ({"max_batch_size": 0, "dynamic_batching": {}}, "max_batch_size is 0"),
        (
            {"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [2, 8]}},
            "8 is above max_batch_size 4",
        ),
        ({"dynamic_batching": {"preferred_batch_size": [0]}}, "greater than or equal to 1"),
        ({"dynamic_batching": {"timeout_action": "drop"}}, "'reject' or 'delay'"),
        ({"instance_group": {"kind": "cpu", "gpus": [0]}}, "kind is cpu"),
        ({"instance_group": {"gpus": [1, 1]}}, "listed twice"),
        ({"max_batch_size": 4, "warmup": {"batch_sizes": [8]}}, "8 is above max_batch_size 4"),
        ({"max_batch_size": 0, "warmup": {"batch_sizes": [2]}}, "2 is above max_batch_size 0"),
        ({"version_policy": {"latest": 0}}, "greater than or equal to 1"),
        ({"version_policy": {"specific": []}}, "at least 1 item"),
    ],
)
def test_what_triton_would_refuse_is_refused_here(fields, says):
    with pytest.raises(ValidationError, match=says):
        Serving.model_validate(fields)


def test_the_error_is_located_at_the_key_that_is_wrong():
    with pytest.raises(ValidationError) as caught:
        Serving.model_validate({"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [8]}})
    assert caught.value.errors()[0]["loc"] == ("dynamic_batching",)


@pytest.mark.parametrize("policy", ["all", {"latest": 2}, {"specific": [1, 3]}])
def test_version_policies_round_trip(policy):
    serving = Serving.model_validate({"version_policy": policy})
    assert Serving.model_validate(serving.model_dump(mode="json")) == serving


def test_importing_the_options_loads_no_protobuf_and_no_client():
    code = (
        "import sys\n"
        "from mmdeploy.triton import config, lint, options, repository\n"
        "heavy = ('tritonclient', 'grpc', 'google.protobuf')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
