"""A training that is killed goes on from its checkpoint and ends in the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_setup
import torch

from mmdeploy.training import checkpoint
from mmdeploy.training.loop import fit
from mmdeploy.training.options import TrainingOptions

PROGRAM = Path(__file__).with_name("train_until_killed.py")
STEPS_PER_EPOCH = 5


def run(folder: Path, last_step: int) -> int:
    """Run the program on one thread and return its exit status; negative for a signal."""
    folder.mkdir(exist_ok=True)
    source = str(Path(__file__).parents[3])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{source}{os.pathsep}{PROGRAM.parent}"}
    command = [sys.executable, str(PROGRAM), str(folder), str(last_step)]
    return subprocess.run(command, env=environment, check=False, capture_output=True, timeout=300).returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(folder, 0) == 0
    return folder


# In the middle of an epoch; at an epoch's last step, before it is judged; twice.
@pytest.mark.parametrize("kills", [(8,), (10,), (3, 17)])
def test_a_killed_training_ends_in_the_same_bits(uninterrupted, tmp_path, kills):
    for step in kills:
        assert run(tmp_path, step) == -signal.SIGKILL
        assert (tmp_path / "scratch" / checkpoint.FILENAME).exists()
    assert run(tmp_path, 0) == 0
    assert int((tmp_path / "first_step.txt").read_text()) == kills[-1]  # what the kill kept from being saved
    for name in ("weights.safetensors", "epochs.txt"):
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def train(scratch: Path, **fields):
    steps = []
    module = tiny_setup.module()
    context = tiny_setup.context(tiny_setup.TinySetup(), scratch, scratch=scratch)
    options = TrainingOptions(**{"epochs": 2, "batch_size": 16} | fields)
    fit(module, options, context, after_step=steps.append)
    return module, steps


def test_a_training_that_was_done_is_not_done_again(tmp_path):
    first, steps = train(tmp_path)
    again, none = train(tmp_path)
    assert len(steps) == 2 * STEPS_PER_EPOCH and none == []
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_a_checkpoint_of_other_options_is_not_taken_up(tmp_path, caplog):
    train(tmp_path)
    _, steps = train(tmp_path, learning_rate=0.5)
    assert len(steps) == 2 * STEPS_PER_EPOCH
    assert "is of another training" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_means_starting_over(tmp_path, caplog, damage):
    train(tmp_path)
    path = tmp_path / checkpoint.FILENAME
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    _, steps = train(tmp_path)
    assert len(steps) == 2 * STEPS_PER_EPOCH
    assert "cannot be read" in caplog.text


def test_a_checkpoint_that_would_run_code_is_not_read(tmp_path, caplog):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"identity": "", "trap": Trap()}, tmp_path / checkpoint.FILENAME)
    train(tmp_path)
    assert not (tmp_path / "sprung").exists()
    assert "cannot be read" in caplog.text
