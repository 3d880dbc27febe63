"""A calibrated graph written with as much in INT8 as leaves enough of its answers."""

from __future__ import annotations

import glob
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmdeploy.core import facts
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Array, StepContext
from mmdeploy.engines.own_answers import asked_of
from mmdeploy.quantize import (
    embeddings,
    encode,
    equalize,
    fidelity,
    giving_back,
    gptq,
    graphs,
    held_out,
    ranges,
    selection,
    settle,
)
from mmdeploy.quantize.found import Found
from mmdeploy.quantize.set_aside import SetAside, hand_back
from mmdeploy.quantize.static_options import Options

logger = logging.getLogger(__name__)

#: Batches that the quantized graph is compared with the float graph on.
COMPARED_BATCHES = 4
#: Batches that weights are rounded on, unless they are rounded to the nearest.
_ROUNDED_BATCHES = 8


@dataclass(frozen=True)
class Calibrated:
    """A float graph with all that its quantization needs.

    Attributes:
        model: The float graph, equalized where that was asked for, set aside.
        chosen: What is quantized in it.
        ranges: Smallest and largest value by tensor.
        samples: Number of samples that the ranges were found on.
        equalized: What was equalized in the graph: see `mmdeploy.quantize.equalize.apply`.
        how: How ranges were found, and what else was tried.
        kept: What is kept for other encodings.
        made: What was made of it in the first encoding, where this is another.
    """

    model: SetAside
    chosen: selection.Selection
    ranges: Mapping[str, tuple[float, float]]
    samples: int
    equalized: Sequence[equalize.Equalized]
    how: settle.Choice
    kept: Found
    made: Artifact | None = None


@dataclass(frozen=True)
class Written:
    """A quantized graph that is good enough.

    Attributes:
        quantized: It.
        chosen: What is quantized in it.
        noise_db: How like its answers are to those of the float graph, by output.
        given_back: Why nodes that were to be quantized stay in float, by name.
        warnings: The same for people.
    """

    quantized: Any
    chosen: selection.Selection
    noise_db: Mapping[str, float | None]
    given_back: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Writing:
    """Writes a calibrated graph, with as many nodes in INT8 as leave enough of its answers.

    Attributes:
        rounded: Weights that are written instead of the nearest codes.
        tables: Embedding tables that are INT8 in the first encoding, and so in this one.
    """

    def __init__(
        self,
        held: held_out.HeldOut,
        found: Calibrated,
        options: Options,
        context: StepContext,
        fitted: Sequence[dict[str, Array]],
    ) -> None:
        self.held, self.found, self.options, self.context = held, found, options, context
        self._fitted, self.rounded = fitted, found.kept.rounded
        before = facts.find(embeddings.Embeddings, found.made.metadata) if found.made else None
        self.tables = before or embeddings.Embeddings()

    def write(self, path: Path) -> Written:
        """Write the graph."""
        asked = self.options.min_sqnr_db is not None
        if self.options.rounding == "gptq" and not self.rounded.codes:
            self.rounded = self._rounded()
        written = self._attempt(path, ())
        if self.tables.int8_tables and not self._enough(written):
            self.tables = embeddings.Embeddings()
            written = self._attempt(path, ())
        if asked and self.options.rounding == "auto" and not self.rounded.codes and not self._enough(written):
            self.rounded = self._rounded()
            written = self._better(path, written)
        return written if self._enough(written) else self._given_back(path, written)

    def with_tables(self, path: Path, written: Written) -> tuple[Any, embeddings.Embeddings]:
        """Settle embedding tables of the graph that was written, unless the first encoding did; return what ships."""
        if self.tables.int8_tables:
            return written.quantized, self.tables
        options, context, judge = self.options, self.context, self.held.judge
        quantized, tables = embeddings.settle(written.quantized, options, context, judge, least_db=options.least_db)
        if tables.int8_tables:
            graphs.save(quantized, path)
        return quantized, tables

    def worst_nodes(self, written: Written) -> giving_back.WorstNodes:
        """Return the worst nodes of the graph that was written, or, where there was one before, of that."""
        made, model, nodes = self.found.made, self.found.model, written.chosen.nodes
        known = facts.find(giving_back.WorstNodes, made.metadata) if made else None
        if known is not None:
            return known
        few, threads = self.held.batches[0], self.context.threads
        return giving_back.worst_nodes(model, written.quantized, nodes, few, threads=threads)

    def _enough(self, written: Written) -> bool:
        worst = fidelity.worst_of(written.noise_db)
        return worst is None or worst[1] >= self.options.least_db

    def _rounded(self) -> gptq.Rounded:
        """Round the weights on samples that graphs are not compared on."""
        found, options, context = self.found, self.options, self.context
        every = ranges.first_samples(context, options.samples, options.batch_size)

        def beyond() -> Iterator[dict[str, Array]]:
            yield from itertools.islice(every(), COMPARED_BATCHES, COMPARED_BATCHES + _ROUNDED_BATCHES)

        return gptq.rounded(
            found.model,
            found.chosen,
            (lambda: iter(self._fitted)) if self._fitted else beyond,
            per_channel=options.per_channel,
            threads=context.threads,
            progress=context.progress,
        )

    def _better(self, path: Path, nearest: Written) -> Written:
        """Write the graph with rounded weights, and keep the nearest codes where those are as good."""
        written = self._attempt(path, ())
        before, after = fidelity.worst_of(nearest.noise_db), fidelity.worst_of(written.noise_db)
        if before is not None and after is not None and after[1] <= before[1]:
            self.rounded = gptq.Rounded()
            graphs.save(nearest.quantized, path)
            return nearest
        logger.info("%s: weights are rounded by GPTQ for %g dB", self.context.component, self.options.least_db)
        return written

    def _given_back(self, path: Path, everything: Written) -> Written:
        """Write the graph with some of its nodes in float."""
        worst, least = fidelity.worst_of(everything.noise_db), self.options.least_db
        assert worst is not None
        fidelity.compare(self.held, path, asked_of(self.context).feeds, everything.quantized)  # is it the optimizer?
        alone = giving_back.own_noise_db(
            self.found.model,
            everything.quantized,
            everything.chosen.nodes,
            self.held.batches[0],
            threads=self.context.threads,
        )
        ranked = (
            list(alone) if self.options.min_sqnr_db is None else giving_back.for_their_size(alone, self.found.model)
        )
        for nodes in giving_back.portions(ranked, len(everything.chosen.nodes)):
            written = self._attempt(path, nodes)
            if self._enough(written):
                why = {node: f"{alone[node]:.1f} dB alone, and {worst[0]} came to {worst[1]:.1f} dB" for node in nodes}
                told = f"left in float, since INT8 takes too much there: {', '.join(nodes)}"
                if self.options.min_sqnr_db is not None:
                    logger.info("%s: left in float for %g dB: %s", self.context.component, least, ", ".join(nodes))
                    return replace(written, given_back=why)
                logger.warning("%s: %s", self.context.component, told)
                return replace(written, given_back=why, warnings=(told,))
        raise fidelity.too_little_left(worst, self.context.component, list(alone.items())[:3], least=least)

    def _attempt(self, path: Path, without: Sequence[str]) -> Written:
        """Write the graph without some nodes, and compare it."""
        found, scheme = self.found, self.options
        if without:
            out = (*scheme.exclude, *map(glob.escape, without))
            scheme = scheme.model_copy(update={"exclude": out})
        chosen = selection.choose(found.model, scheme) if without else found.chosen
        limits = {name: found.ranges[name] for name in chosen.tensors}
        quantized = encode.write(
            found.model, chosen, limits, encoding=self.context.encoding, scheme=scheme, weights=self.rounded
        )
        if self.tables.int8_tables:
            quantized = embeddings.with_int8(quantized, list(self.tables.int8_tables))
        hand_back()
        graphs.save(quantized, path)
        noise = fidelity.noise_db(self.held, path, quantized)
        hand_back()
        return Written(quantized, chosen, noise)
