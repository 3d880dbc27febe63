"""Forms in a model that will not deploy, or not on every engine: found while it answers real samples, by their line.

The model answers batches of two and of four samples, and each of its samples alone. Every function of torch that is
called meanwhile is looked at, with the line of the user's code that calls it; what the answers say (rows, chance,
batches) is asked of the answers.

What PyTorch's exporter does with a form is asked again by ``tests/unit/scaffold/test_forms.py``; that TensorRT's parser
takes no NonZero is a row of docs/zoo.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.building.diagnosis import Finding, State
from mmdeploy.core.errors import ModelError
from mmdeploy.model.sources import importing_from
from mmdeploy.scaffold import watch
from mmdeploy.scaffold.failed import failed
from mmdeploy.scaffold.look import answered, called_with
from mmdeploy.scaffold.seen import Seen, batches
from mmdeploy.scaffold.watch import Watched

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmdeploy.core.artifact import Array

#: Samples that are asked at first, together.
_PAIR = 2
#: Of answers that count as the same: float32 sums in another order.
_RTOL, _ATOL = 1e-3, 1e-4


@dataclass(frozen=True)
class _Form:
    """A form that is told of: what it means for deployment, and the form that deploys."""

    state: State
    means: str
    instead: str


_FORMS = {
    "decision": _Form(
        "missing",
        "goes on by what a sample holds; a graph runs the same for all",
        "compute both and choose with torch.where(condition, a, b)",
    ),
    "value": _Form(
        "limited",
        "makes a Python number of a tensor, one for the whole batch; a graph keeps the example's, or is refused where "
        "a decision hangs on it",
        "keep it a tensor with a row a sample, such as amax(1, keepdim=True)",
    ),
    "expert loop": _Form(
        "limited",
        "picks rows for one expert after the other; TensorRT's parser knows no NonZero",
        "let every expert answer and weigh by a mask, or gather the chosen experts' weights (torch.bmm)",
    ),
    "rows by value": _Form(
        "limited",
        "makes a tensor as long as its values say; TensorRT's parser knows no NonZero",
        "keep all rows: torch.where(mask, a, b), masked_fill, or a sum weighted by the mask",
    ),
    "row loop": _Form(
        "missing",
        "runs once for each sample of the batch in Python; the graph would know the example's batch only",
        "let the operation take the batch axis, or torch.vmap",
    ),
    "length loop": _Form(
        "missing",
        "runs as often as a sample is long; the graph would know one length only",
        "use a whole-sequence operation (cumsum, nn.GRU, attention), or pad to one length",
    ),
    "chance": _Form(
        "missing",
        "draws a number in every call: no answer can be given twice, and none of the gates could judge",
        "draw once in __init__ and keep it (register_buffer); F.dropout needs training=self.training",
    ),
    "state": _Form(
        "missing",
        "keeps what one call leaves, and later answers follow from it; a server's calls are of strangers",
        "compute it from the inputs, or make it an input and an output of the component",
    ),
    "kept": _Form(
        "limited",
        "keeps something of a call; the answers to these samples did not follow from it",
        "keep nothing in forward: a local variable, or a buffer made in __init__",
    ),
    "three-axis attention": _Form(
        "missing",
        "attention over three axes, which PyTorch's ONNX exporter refuses",
        "give it four axes: [batch, heads, length, size], heads may be 1 (unsqueeze(1))",
    ),
    "mean by scatter": _Form(
        "missing",
        "scatter_reduce(mean), which PyTorch's ONNX exporter writes as a plain scatter: wrong numbers, no error",
        "scatter_add of the values and of ones, then divide",
    ),
    "extreme of all": _Form(
        "missing",
        "amax or amin without dim, over the whole batch, which PyTorch's ONNX exporter refuses",
        "name the axes of one sample: amax(dim=(1, 2))",
    ),
    "Fourier transform": _Form(
        "limited",
        "TensorRT's parser knows no DFT",
        "a product with the transform's matrix, as mmdeploy.zoo.LogMel does",
    ),
    "no tensor": _Form(
        "missing",
        "is no answer that a server gives",
        "return a tensor, or a tuple or a dict of tensors, with a row a sample",
    ),
    "no batch axis": _Form(
        "missing",
        "has no row a sample",
        "return what each sample has of its own, batch first; a mean over the batch is for training",
    ),
    "batch in the answer": _Form(
        "missing",
        "depends on the other samples of its batch; a server batches whatever requests come together",
        "normalise over a sample's own axes, or with statistics kept from training",
    ),
}


def forms_of(
    model: nn.Module, seen: Seen, *, root: Path, call: Callable[..., object] | None = None
) -> tuple[Finding, ...]:
    """Let a model answer samples, and name the forms in it that will not deploy, or not everywhere.

    Args:
        model: In eval mode.
        seen: Samples of its data callables.
        root: Folder of the code, for messages.
        call: Answers for the model where its forward does not: takes it, and the inputs by name.

    Returns:
        What was found, of topic ``model``: ``missing`` where nothing of that form is served, ``limited`` where some
        engines or samples refuse it. Empty where every form that is known here deploys.

    Raises:
        ModelError: When it cannot be called with the samples, or fails.
    """
    given = {} if call is not None else called_with(model, tuple(seen.inputs))

    def answer(feed: Mapping[str, Tensor]) -> Callable[[], object]:
        return answered(model, feed, given, call)

    found = dict[tuple[str, str], str]()
    lengths, grown = list[Watched](), set[str]()
    with importing_from(root):
        for batch in batches(seen.kept):
            pair = _Asked(model, answer, batch, root)
            first = pair.watched(1, keeping=True)  # the first call of all: it may leave what others find
            lengths.append(pair.watched(1))
            for form, line, more in pair.forms(first, lengths[-1]):
                found.setdefault((form, line), more)
            grown |= pair.grown
    for line in (line for line in _uneven(lengths) if line not in grown):
        found.setdefault(("length loop", line), "")
    return tuple(_finding(form, line, more) for (form, line), more in found.items())


def _finding(form: str, line: str, more: str) -> Finding:
    told = _FORMS[form]
    return Finding("model", form, told.state, f"{line or more}\n  {told.means}", f"instead: {told.instead}")


class _Asked:
    """A pair of samples of one shape, and what a model does with them."""

    def __init__(
        self,
        model: nn.Module,
        answer: Callable[[Mapping[str, Tensor]], Callable[[], object]],
        batch: Mapping[str, Array],
        root: Path,
    ) -> None:
        import torch

        self.feed = {name: torch.from_numpy(array) for name, array in batch.items()}
        self.grown = set[str]()  #: Lines that run more or less often by what calls before left.
        self._model, self._answer, self._root = model, answer, root

    def watched(self, times: int, *, keeping: bool = False) -> Watched:
        """Ask the pair so many times over in one batch; with ``keeping``, what the model keeps of it is seen, too.

        Raises:
            ModelError: When the model fails.
        """
        feed = {name: tensor.repeat(times, *[1] * (tensor.ndim - 1)) for name, tensor in self.feed.items()}
        return self._ask(feed, keeping=keeping)

    def alone(self) -> Watched:
        """Ask the first of the pair alone."""
        return self._ask({name: tensor[:1].clone() for name, tensor in self.feed.items()})

    def _ask(self, feed: Mapping[str, Tensor], *, keeping: bool = False) -> Watched:
        try:
            return watch.watched(self._answer(feed), self._model if keeping else None)
        except ModelError:
            raise
        except Exception as cause:
            batch = {name: tensor.numpy() for name, tensor in feed.items()}
            error = failed(self._model, cause, batch, lambda one: self._answer(one)(), self._root)
            if error.hint is None and len(next(iter(feed.values()))) != _PAIR:
                error.hint = "it must take batches of any number of samples, given by --data without a batch dimension"
            raise error from cause

    def forms(self, first: Watched, again: Watched) -> Iterator[tuple[str, str, str]]:
        """Give what was found: form, line, and where there is no line what it is.

        Args:
            first: What the pair was answered before.
            again: What it was answered when asked once more.
        """
        more, alone, last = self.watched(2), self.alone(), self.watched(1)
        for form, line in first.events | again.events:
            yield form, line, ""
        self.grown = {*_uneven([again, last])}
        yield from (("row loop", line, "") for line in _uneven([again, more]) if line not in self.grown)
        chance = any(form == "chance" for form, _ in first.events)
        same = _same(first.outputs, again.outputs)
        for line, what in first.kept:
            yield ("kept" if same else "state"), line, what
        if not same and not first.kept and not chance:
            yield "state", "", "the same samples were answered in another way when asked again"
        yield from self._of_answers(first, more, alone, steady=same and not chance)

    def _of_answers(self, two: Watched, four: Watched, one: Watched, *, steady: bool) -> Iterator[tuple[str, str, str]]:
        if not two.outputs:
            yield "no tensor", "", "forward returns no tensor"
        for name, tensor in two.outputs.items():
            rows = [list(asked.outputs[name].shape[:1]) for asked in (one, two, four)]
            if rows != [[1], [2], [4]]:
                yield "no batch axis", "", f"output {name!r} is {list(tensor.shape)} for a batch of 2"
            elif steady and not _same({name: tensor[:1]}, one.outputs):
                yield "batch in the answer", "", f"output {name!r} of a sample alone is not what it is beside another"


def _same(expected: Mapping[str, Tensor], answered: Mapping[str, Tensor]) -> bool:
    import torch

    for name, tensor in expected.items():
        other = answered[name]
        if tensor.shape != other.shape:
            return False
        if not torch.allclose(tensor.double(), other.double(), _RTOL, _ATOL, equal_nan=True):
            return False
    return True


def _uneven(asked: list[Watched]) -> Iterator[str]:
    """Give lines that called torch more often for one batch than for another."""
    counts: list[Counter[str]] = [one.calls for one in asked]
    for line in dict.fromkeys(line for count in counts for line in count):
        if len({count[line] for count in counts}) > 1:
            yield line
