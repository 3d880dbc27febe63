"""Whether a server lets itself be controlled, as far as its command line tells."""

import pytest

from mmdeploy.rollout.control import is_without_control

TRITON = "/opt/tritonserver/bin/tritonserver"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--model-repository=/r", True),
        ("--model-repository=/r --model-control-mode=none", True),
        ("--model-control-mode=poll --log-verbose=1", True),
        ("--model-control-mode=explicit --load-model=*", False),
        ("--model-control-mode explicit", False),
        ("--model-control-mode=explicit --model-control-mode=none", True),
    ],
)
def test_what_a_command_line_says(words: str, expected: bool) -> None:
    assert is_without_control([TRITON, *words.split()]) is expected


@pytest.mark.parametrize("command", [[], ["docker-proxy", "-host-port", "8000"], ["python", "tritonserver.py"]])
def test_of_other_processes_it_says_nothing(command: list[str]) -> None:
    assert not is_without_control(command)
