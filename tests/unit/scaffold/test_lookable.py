"""What init and doctor cannot look at is refused with what to do, by both; what init can is never refused."""

from pathlib import Path

import pytest

from mmdeploy.core.errors import ModelError
from mmdeploy.scaffold.own_model import Sources, examined, find

DATA = """
import numpy as np

def samples():
    random = np.random.default_rng(0)
    for _ in range(6):
        yield {"a": random.random(6, np.float32), "b": random.random(6, np.float32)}
"""
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, a, b):
        return self.left(a) + self.right(b)


def build():
    return Net()
"""
WRITTEN, BUILT = "return self.left(a) + self.right(b)", "return Net()"


def sources(folder: Path, *changed: tuple[str, str]) -> Sources:
    text = MODEL
    for before, after in changed:
        assert before in text
        text = text.replace(before, after)
    (folder / "model.py").write_text(text)
    (folder / "data.py").write_text(DATA)
    return Sources(str(folder / "model.py:build"), str(folder / "data.py:samples"))


@pytest.mark.parametrize(
    ("before", "after", "message", "hint"),
    [
        (BUILT, "return torch.jit.script(Net())", "the model is TorchScript", "the nn.Module that it was made of"),
        (BUILT, "net = Net(); net.left = torch.jit.script(net.left); return net",
         "the part 'left' of the model is TorchScript", "the nn.Module"),
        (BUILT, "return nn.DataParallel(Net())", "returned a DataParallel, which wraps", "the module itself, .module"),
        (BUILT, "return Net().to('meta')", "left.weight holds no values: it is on the device meta", "--weights"),
        ("nn.Linear(6, 6), nn", "nn.LazyLinear(6), nn", "left.weight holds no values: it is lazy", "--weights"),
        (WRITTEN, "return self.left(a).to_sparse()", "output 'output' is sparse", ".to_dense()"),
        (WRITTEN, "return self.left(a).bfloat16()", "output 'output' is bfloat16", "return .float()"),
        (WRITTEN, "return torch.fft.fft(self.left(a))", "output 'output' is complex64", "torch.view_as_real"),
        ("forward(self, a, b)", "forward(self, a, b, /)", "its inputs without names (a, b, /)", "--call model"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_refused_by_both_with_what_to_do(
    tmp_path: Path, before: str, after: str, message: str, hint: str
) -> None:
    for look in (find, examined):
        with pytest.raises(ModelError) as told:
            look(sources(tmp_path, (before, after)))
        assert message in told.value.message
        assert hint in str(told.value.hint)


@pytest.mark.parametrize(
    ("answer", "what"),
    [("float(a.sum())", "a float"), ("None", "None"), ("()", "a tuple with nothing in it"),
     ("{'x': [self.left(a)]}", "a dict with a list in it")],
)  # fmt: skip
def test_an_answer_that_is_no_tensor_is_marked_as_what_it_is(tmp_path: Path, answer: str, what: str) -> None:
    (gap,) = find(sources(tmp_path, (WRITTEN, f"return {answer}"))).choose().proposal.wiring.gaps
    assert f"(what forward returns) is {what}, not a tensor" in str(gap)


def test_doctor_says_of_a_model_without_an_answer_that_there_is_none(tmp_path: Path) -> None:
    (found,) = examined(sources(tmp_path, (WRITTEN, "return None")))
    assert (found.name, found.state) == ("no tensor", "missing")


def test_a_model_that_fails_on_every_batch_is_no_matter_of_batches(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="train only") as told:
        examined(sources(tmp_path, (WRITTEN, "raise ValueError('train only')")))
    assert told.value.hint is None


def test_a_module_that_stays_and_is_called_inside_of_a_new_one_is_marked(tmp_path: Path) -> None:
    choice = find(sources(tmp_path, (WRITTEN, "return self.left(self.left(a)) + self.left(b)"))).choose()
    assert choice.code is None and len(choice.proposal.wiring.gaps) == 1
