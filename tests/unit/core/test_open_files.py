"""Limits on open files, in processes of their own: a hard limit cannot be raised again."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.open_files import require_open_files
try:
    require_open_files()
except EnvironmentUnfitError as error:
    print(error.message, error.hint)
else:
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "said"),
    [
        (64, 64, "a process may open 64 files here (ulimit -n), and builds and servers need 256 ulimit -n 4096, or"),
        (64, 300, "(300, 300)"),
        (64, 9000, "(4096, 9000)"),
        (5000, 9000, "(5000, 9000)"),
    ],
)
def test_a_small_limit_is_raised_or_told(soft, hard, said):
    command = [sys.executable, "-c", PROGRAM, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(said)
