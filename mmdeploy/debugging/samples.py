"""What the forms of a component are compared on: the recipe's own samples, as the component receives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array
from mmdeploy.core.samples import Samples as Columns
from mmdeploy.core.samples import column_of
from mmdeploy.data.samples import stream
from mmdeploy.debugging.work import DebugWork
from mmdeploy.recipe.wiring import upstream
from mmdeploy.worker.examples import Examples
from mmdeploy.worker.feeds import client_inputs, sample_set, shipped_upstream, torch_chain
from mmdeploy.worker.media import preparation
from mmdeploy.worker.modalities import Modalities

if TYPE_CHECKING:
    from mmdeploy.worker.feeds import Upstream

_BATCH = 8
#: In this order: what ranges were found on first.
_SETS = ("calibration", "validation", "evaluation")


@dataclass(frozen=True)
class Samples:
    """Feed dicts of a component.

    Attributes:
        batches: Arrays by input, batch on axis 0.
        source: Where they came from, in words.
    """

    batches: list[dict[str, Array]]
    source: str

    @property
    def count(self) -> int:
        """Number of samples."""
        return sum(len(next(iter(batch.values()))) for batch in self.batches)


def samples(work: DebugWork) -> Samples:
    """Take the first samples of the recipe's calibration data, else validation, else evaluation, else draw some.

    Raises:
        DataError: If the data is bad.
    """
    recipe, component = work.recipe, work.recipe.components[work.component]
    largest = min(_BATCH, component.serving.max_batch_size or _BATCH)
    named = next((key for key in _SETS if getattr(recipe.data, key) is not None), None)
    if named is None:
        examples = Examples(work.task(work.steps[0]))
        sizes = [min(largest, work.samples - start) for start in range(0, work.samples, largest)]
        return Samples([examples(size) for size in sizes], "random values, for the recipe names no data")
    reference = str(getattr(recipe.data, named))
    through = _through(work)
    fed = []
    modalities = Modalities(recipe, {})
    for feeds in _batches(work, named, largest):
        tensors = through(modalities.complete(feeds), ())
        fed.append({key: tensors[wire.tensor] for key, wire in component.inputs.items()})
    found = Samples(fed, f"data.{named} ({reference})")
    return found if found.count >= work.samples else Samples(fed, f"{found.source}, which gives no more")


def _batches(work: DebugWork, named: str, size: int) -> Iterator[dict[str, Array]]:
    """Yield the first samples of a set: as recorded or, where no step needed so many, as its callable gives them."""
    recorded = sample_set(work.task(work.steps[0]), named)
    if recorded is not None and recorded.count >= work.samples:
        yield from recorded.first(work.samples).batches(size)
        return
    recipe = work.recipe
    reference = str(getattr(recipe.data, named))
    specs, ranges = client_inputs(recipe)
    prepare = preparation(recipe)
    found = stream(reference, root=recipe.root, specs=specs, ranges=ranges, limit=work.samples, prepare=prepare)
    specs = recipe.source_specs
    feeds = [feed for feed, _ in found]
    samples = Columns({spec.name: column_of([feed[spec.name] for feed in feeds]) for spec in specs})
    for rows in samples.batches(size):
        yield samples.take(rows)


def _through(work: DebugWork) -> Upstream:
    """Return what computes the inputs that upstream components give: by what ships of them where it was built."""
    before = upstream(work.recipe.components, work.component)
    if not before:
        return lambda feeds, _: dict(feeds)
    for step in reversed(work.steps):
        shipped = step.uses.get("shipped", {})
        if shipped and all(work.artifacts.get(step_id) for step_id in shipped.values()):
            return shipped_upstream(work.task(step))
    chain = torch_chain(work.task(work.steps[0]), before)
    return lambda feeds, _: dict(feeds) | chain.run(feeds)
