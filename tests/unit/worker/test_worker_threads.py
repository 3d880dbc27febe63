"""A recipe's data code runs PyTorch on the threads that its step may use, whenever it imports it."""

import os
import subprocess
import sys

import pytest
import torch
from recorded_sets import set_artifact

from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.library_threads import library_threads


@pytest.mark.parametrize("first", ["import torch", ""], ids=["loaded before", "loaded inside"])
def test_libraries_take_as_many_threads_as_they_are_given(first):
    code = (
        f"{first}\n"
        "import os\n"
        "from mmdeploy.worker.library_threads import library_threads\n"
        "with library_threads(1):\n"
        "    import torch\n"
        "    print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])\n"
        "print('OMP_NUM_THREADS' in os.environ)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1", "1", "False"]


def test_what_was_before_is_so_again(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    before = torch.get_num_threads()
    with pytest.raises(KeyError), library_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (before, "5")


def test_data_code_runs_on_the_threads_of_its_step(tiny_recipe, tmp_path):
    tiny_recipe.with_name("data.py").write_text(
        "import numpy as np, torch\n"
        "def calibration():\n"
        "    for number in range(4):\n"
        "        a, b = np.random.default_rng(number).standard_normal((2, 8)).astype(np.float32)\n"
        "        a[0] = torch.get_num_threads()\n"
        "        yield {'a': a, 'b': b}\n"
        "evaluation = calibration\n"
    )
    with library_threads(3):
        artifact = set_artifact(load_recipe(tiny_recipe), "calibration", tmp_path)
    samples = SampleSet.open(artifact.path.parent, "data.py:calibration")
    assert samples.batch(0, 4)["a"][:, 0].tolist() == [1, 1, 1, 1]
