"""An engine against its own graph, run by another implementation: ONNX Runtime, which changes nothing in it.

Engines rewrite graphs, and some rewrite them wrongly: OpenVINO has answered INT8 convolutions behind a Concat with a
fifth of noise, without a word. So each engine is asked the same as its graph as it is written, a few samples, one at a
time and together. One that answers something else, on a graph in INT8, gets the same numbers in another encoding, then
a graph with some nodes in float, as few as a search by halving finds in a bounded number of builds. Where nothing
helps, or the graph is in float, it is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from mmdeploy.core import facts
from mmdeploy.core.agreement import EXACT_DB, Apart, Expected, Noise, first_apart, power
from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.contracts import Runner, StepContext
from mmdeploy.core.errors import EngineError, InferenceError
from mmdeploy.engines import own_answers
from mmdeploy.engines.built_from import graph_path
from mmdeploy.engines.graph_files import load_graph, save_graph
from mmdeploy.engines.int8_forms import is_quantized, leave_in_float, products, quantized_nodes, uint8_from_int8

logger = logging.getLogger(__name__)

#: Builds that the search for nodes to leave in float may take.
_MOST_BUILDS = 24
#: Nodes that a message names.
_MOST_NAMED = 6

RunnerT = TypeVar("RunnerT", bound=Runner)


@dataclass(frozen=True)
class OwnGraph:
    """What an engine's artifact says of its graph.

    Attributes:
        compared: What it was compared with, or why it was not.
        float_nodes: Nodes that are quantized in the graph that it was given, and are not in its own.
        reencoded: Whether its INT8 activations are written otherwise than in the graph that it was given.
        warnings: The same for people.
    """

    compared: str
    float_nodes: tuple[str, ...] = ()
    reencoded: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """What is asked of an engine, and how near it must come.

    Attributes:
        feeds: Batches of the component's inputs.
        threads: Threads for ONNX Runtime.
        quantized: Whether the graph is in INT8.
        noise_db: What quantization did to it, by output.
        exact_db: SQNR that is wanted of a graph in floating point.
        lengths: Lengths of sizes that vary among the batches, in words.
    """

    feeds: Sequence[Mapping[str, Array]]
    threads: int
    quantized: bool
    noise_db: Mapping[str, float | None] = field(default_factory=dict)
    exact_db: float = EXACT_DB
    lengths: str = ""

    @property
    def said(self) -> str:
        """What an engine is compared with, in words."""
        sizes = " and ".join(dict.fromkeys(str(_size(feed)) for feed in self.feeds))
        return f"its graph as written, in ONNX Runtime, at batch {sizes}{self.lengths}"

    def expected(self, graph: Path) -> Expectation:
        """Ask a graph as it is written."""
        return self.expectation(own_answers.answers_of(graph, self.feeds, threads=self.threads))

    def expectation(self, answers: Sequence[Mapping[str, Array]]) -> Expectation:
        """Return what an engine should answer, from what its graph does."""
        powers = {name: power(array) for name, array in answers[0].items() if array.dtype.kind == "f"}
        return Expectation(self, answers, Expected(self.exact_db, self.quantized, self.noise_db, powers))


@dataclass(frozen=True)
class Expectation:
    """What an engine should answer."""

    question: Question
    answers: Sequence[Mapping[str, Array]]
    expected: Expected

    def apart(self, runner: Runner) -> Apart | None:
        """Ask an engine; return the first output that is not what it should be, None where all are.

        Raises:
            EngineError: If it fails.
        """
        for feed, wanted in zip(self.question.feeds, self.answers, strict=True):
            try:
                found = first_apart(wanted, runner.infer(feed), self.expected)
            except InferenceError as error:
                size = len(next(iter(feed.values())))
                raise EngineError(f"the engine fails at batch {size}: {error.message}", hint=error.hint) from error
            if found is not None:
                return found
        return None


def question(
    artifact: Artifact,
    graph: Path,
    context: StepContext,
    *,
    exact_db: float = EXACT_DB,
    largest: int | None = None,
    is_same: bool,
) -> tuple[Question, Expectation]:
    """Return what is asked of an engine that is built from an artifact, and what it should answer.

    Args:
        artifact: The graph, with what quantization says of it.
        graph: The engine's own, which it should answer as.
        context: Of the step.
        exact_db: SQNR that is wanted of a graph in floating point.
        largest: Largest batch that the engine takes; that of the context where it is not given.
        is_same: Whether that is a copy of the artifact's: what is kept beside that one need not be asked.
    """
    asked, noise = own_answers.asked_of(context, largest), facts.find(Noise, artifact.metadata)
    known = own_answers.kept(artifact.path, asked.feeds) if is_same else None
    quantized = is_quantized(load_graph(graph, weights=False)) if known is None else known.quantized
    noise_db = noise.sqnr_db if noise else {}
    found = Question(asked.feeds, context.threads, quantized, noise_db, exact_db, asked.lengths)
    if known is None:
        return found, found.expected(graph)
    logger.info("what the graph answers as it is written is known from the step that wrote it")
    return found, found.expectation(known.answers)


def settle(
    artifact: Artifact,
    graph: Path,
    context: StepContext,
    build: Callable[[Path], RunnerT],
    *,
    whose: str,
    exact_db: float = EXACT_DB,
) -> tuple[RunnerT, OwnGraph]:
    """Build an engine that answers as its graph does; the graph is changed where nothing else helps.

    Args:
        artifact: What the engine is built from.
        graph: The copy of its graph, as yet unchanged, that goes with the engine; rewritten where another form is
            found.
        context: Of the step; where it does not settle the engine is taken as it is.
        build: Builds and loads the engine.
        whose: The engine and its version, for messages.
        exact_db: SQNR that is wanted of a graph in floating point.

    Raises:
        EngineError: If no form of the graph is answered as it is written.
    """
    runner = build(graph)
    if not context.settles:
        return runner, OwnGraph("not compared: it was to be taken as it is")
    asked, wanted = question(artifact, graph, context, exact_db=exact_db, is_same=True)
    apart = wanted.apart(runner)
    if apart is None:
        return runner, OwnGraph(asked.said)
    refusal = EngineError(
        f"{context.component}: {whose} answers something else than its own graph: {apart}",
        hint="choose another encoding (engine.encoding) or engine.method for this component, or leave the nodes in"
        " float (quantize.exclude); `mmdeploy debug` finds the first tensor that is wrong",
    )
    if not asked.quantized:
        raise refusal
    runner.close()
    logger.info("%s: %s: %s; looking for a form that it answers", context.component, whose, apart)
    search = _Search(asked, graph, build, load_graph(graph))
    found = search.reencoded()
    found = search.fewest_in_float() if found is None else found
    if found is None:
        raise refusal
    warning = f"{whose} answers something else than the INT8 graph ({apart}): {_changes(search.total, found)}"
    logger.warning("%s: %s", context.component, warning)
    return search.runner(found), OwnGraph(asked.said, tuple(found), not found, (warning,))


def judge(
    built: Artifact,
    source: Artifact,
    context: StepContext,
    load: Callable[[], Runner],
    *,
    exact_db: float = EXACT_DB,
    largest: int | None = None,
) -> Artifact:
    """Return a built engine, with the note that it answers as its graph does; one that does not is refused.

    Args:
        built: The engine, with its graph beside it.
        source: What it was built from.
        context: Of the step.
        load: Loads it.
        exact_db: SQNR that is wanted of a graph in floating point.
        largest: Largest batch that it takes; that of the context where it is not given.

    Raises:
        EngineError: Naming the output.
    """
    if not context.settles:
        return built
    graph = graph_path(built)
    is_same = file_sha256(graph) == source.sha256  # some engines change theirs
    asked, wanted = question(source, graph, context, exact_db=exact_db, largest=largest, is_same=is_same)
    runner = load()
    try:
        apart = wanted.apart(runner)
    finally:
        runner.close()
    if apart is not None:
        raise EngineError(
            f"{context.component}: the engine answers something else than its own graph: {apart}",
            hint="leave the nodes in float (quantize.exclude), or choose another engine.method for this component",
        )
    return replace(built, metadata={**built.metadata, "compared": asked.said})


def _changes(total: int, float_nodes: Sequence[str]) -> str:
    if not float_nodes:
        return "the same numbers are written as UINT8 around 128"
    more = f" and {len(float_nodes) - _MOST_NAMED} more" if len(float_nodes) > _MOST_NAMED else ""
    return f"{len(float_nodes)} of {total} nodes are left in float: {', '.join(float_nodes[:_MOST_NAMED])}{more}"


def _size(feed: Mapping[str, Array]) -> int:
    return len(next(iter(feed.values()), ()))


class _Search(Generic[RunnerT]):
    """Other forms of a quantized graph, built and asked one after the other."""

    def __init__(self, asked: Question, graph: Path, build: Callable[[Path], RunnerT], model: Any) -> None:
        self._asked, self._graph, self._build, self._model = asked, graph, build, model
        self._nodes = quantized_nodes(model)
        self._last: tuple[list[str], RunnerT] | None = None
        self._builds = 0

    @property
    def total(self) -> int:
        """Number of quantized nodes."""
        return len(self._nodes)

    def reencoded(self) -> list[str] | None:
        """Try the same numbers in UINT8; return no node where they are answered, None where they are not."""
        return [] if self._is_answered([]) else None

    def fewest_in_float(self) -> list[str] | None:
        """Return a small set of nodes without which the graph is answered; None where only all of them would do.

        By delta debugging: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002.
        """
        between = [name for name in self._nodes if name not in products(self._model)]
        # What lies between products costs nothing to leave in float: it is tried first.
        kept, parts = between if between and self._is_answered(between) else self._nodes, 2
        while len(kept) > 1 and self._builds < _MOST_BUILDS:
            chunks = list(_split(kept, parts))
            rests = [[name for name in kept if name not in chunk] for chunk in chunks] if parts > 2 else []
            smaller = next((names for names in (*chunks, *rests) if self._is_answered(names)), None)
            if smaller is not None:
                kept, parts = smaller, 2 if smaller in chunks else max(parts - 1, 2)
            elif parts >= len(kept):
                break
            else:
                parts = min(2 * parts, len(kept))
        return kept if len(kept) < len(self._nodes) else None

    def runner(self, names: list[str]) -> RunnerT:
        """Return the engine of a form that was found, its files in place."""
        if self._last is None or self._last[0] != names:
            self._built(names)
        assert self._last is not None
        return self._last[1]

    def _is_answered(self, names: list[str]) -> bool:
        """Build a form and ask it: some nodes in float, or, where none are named, all in UINT8."""
        if self._builds >= _MOST_BUILDS or not (names or uint8_from_int8(_copied(self._model))):
            return False
        self._builds += 1
        try:
            self._built(names)
            assert self._last is not None
            return self._asked.expected(self._graph).apart(self._last[1]) is None
        except EngineError as error:
            logger.info("refused with %s in float: %s", names or "UINT8", error.message)
            return False

    def _built(self, names: list[str]) -> None:
        if self._last is not None:
            self._last[1].close()
            self._last = None
        changed = _copied(self._model)
        if names:
            leave_in_float(changed, names)
        else:
            uint8_from_int8(changed)
        save_graph(changed, self._graph)
        self._last = (names, self._build(self._graph))


def _copied(model: Any) -> Any:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _split(names: Sequence[str], parts: int) -> Iterator[list[str]]:
    """Give a list in so many parts of nearly equal length."""
    for index in range(parts):
        yield list(names[index * len(names) // parts : (index + 1) * len(names) // parts])
