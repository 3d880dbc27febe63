"""What no graph could mend is refused in PyTorch: state, chance, answers that depend on the batch, no batch axis."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmdeploy.core.errors import ExportError
from mmdeploy.export import demands


def feeds(batch: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {"x": random.standard_normal((batch, 4)).astype(np.float32), "t": random.standard_normal((batch, 4))}


class Part(nn.Module):
    """Answers by a function of itself and its two inputs."""

    def __init__(self, answer: Callable[[Any, Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.answer = nn.Linear(4, 4), answer
        self.register_buffer("seen", torch.zeros(4))
        self.kept: Any = None
        self.by_name: dict[str, Tensor] = {}
        self.recent: deque[Tensor] = deque(maxlen=2)

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.answer(self, x, t)


def run(answer: Callable[[Any, Tensor, Tensor], Any], *outputs: str) -> None:
    subject = demands.Subject("part", Part(answer), lambda: Part(answer), ("x", "t"), outputs or ("y",), 1e-4, 1e-3)
    demands.require_own_answers(subject, demands.require_no_memory(subject, feeds))


def in_an_attribute(part: Part, x: Tensor, t: Tensor) -> Tensor:
    if part.kept is None:
        part.kept = part.linear(x[:1])
    return t.float() * part.kept


def in_a_buffer(part: Part, x: Tensor, t: Tensor) -> Tensor:
    part.seen += x.sum(0)
    return part.linear(x) + part.seen


def in_a_dictionary(part: Part, x: Tensor, t: Tensor) -> Tensor:
    return x * part.by_name.setdefault("first", part.linear(x[:1]))


def in_a_queue(part: Part, x: Tensor, t: Tensor) -> Tensor:
    part.recent.append(x.mean(0))
    return x - torch.stack(list(part.recent)).mean(0)


def in_a_count(part: Part, x: Tensor, t: Tensor) -> Tensor:
    part.kept = (part.kept or 0) + 1
    return x * part.kept


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (in_an_attribute, "kept"), (in_a_buffer, "seen"), (in_a_dictionary, "by_name"), (in_a_queue, "recent"),
        (in_a_count, "kept"),
    ],
)  # fmt: skip
def test_state_of_the_first_call_is_refused_and_named(answer: Any, left: str) -> None:
    with pytest.raises(ExportError, match=f"its first call left '{left}.*' behind"):
        run(answer)


def test_a_constant_that_is_made_when_it_is_first_needed_is_no_state() -> None:
    def cached(part: Part, x: Tensor, t: Tensor) -> Tensor:
        if part.kept is None:
            part.kept = torch.arange(4.0) / 4
            part.by_name["cos"] = part.kept.cos()
        return part.linear(x) + part.kept * part.by_name["cos"]

    run(cached)


@pytest.mark.parametrize(
    "answer",
    [
        lambda part, x, t: x - x.mean(0, keepdim=True),
        lambda part, x, t: torch.softmax(part.linear(x), dim=0),
        lambda part, x, t: part.linear(x) + t[:1].float(),
        lambda part, x, t: torch.argsort(x[:, 0]),
    ],
    ids=["centred", "softmax over the batch", "the first sample's", "rank"],
)
def test_an_answer_that_depends_on_the_batch_is_refused(answer: Any) -> None:
    with pytest.raises(ExportError, match="'y' of a sample depends on the other samples of its batch"):
        run(answer)


def test_chance_is_told_from_the_batch() -> None:
    with pytest.raises(ExportError, match="differs when the module is asked the same again"):
        run(lambda part, x, t: x + torch.rand_like(x))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda part, x, t: (x, x.softmax(-1).mean(0).var()), r"'b' is \[\] .* no batch axis"),
        (lambda part, x, t: (x, x.sum(0)), r"'b' is \[4\] .* no batch axis"),
        (lambda part, x, t: (x, torch.ones(3)), r"'b' is \[3\] .* no batch axis"),
        (lambda part, x, t: (x, x.flatten()), r"'b' is \[12\] .* no batch axis"),
        (lambda part, x, t: (x, x @ t.float().t()), r"'b' is \[3, 3\] .* \[1, 1\] .* how many others"),
    ],
    ids=["a number", "a row", "a constant of the batch's size", "rows run together", "batch by batch"],
)
def test_an_output_without_a_row_a_sample_is_refused(answer: Any, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        run(answer, "a", "b")


def test_one_value_a_sample_and_values_that_are_no_numbers_are_fine() -> None:
    run(lambda part, x, t: (x[:, 0], x.argmax(1), x > 0, x / 0 * 0), "score", "best", "positive", "undefined")


def test_inputs_that_a_module_writes_into_are_its_own() -> None:
    run(lambda part, x, t: part.linear(x.mul_(2)) + t.add_(1).float())
