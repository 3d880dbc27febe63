"""The ``original/answers`` step: what the FP32 exports write on the validation split.

Whatever is judged at the fused output is held against it, and fed with it where nothing that ships differs: it is
computed once for all components, beside other steps. Tensors that are large, or not alike from sample to sample, are
left out; who needs one of them computes it.
"""

from __future__ import annotations

from pathlib import Path

from mmdeploy.core.artifact import Array, Artifact
from mmdeploy.core.contracts import Progress
from mmdeploy.core.samples import Samples, is_ragged, is_text
from mmdeploy.data.columns import save_column
from mmdeploy.engines.built_from import graph_path
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.worker.answer_index import indexed
from mmdeploy.worker.feeds import sample_set
from mmdeploy.worker.graph_chain import IN_MEMORY_BYTES, GraphChain
from mmdeploy.worker.modalities import Modalities
from mmdeploy.worker.task import Task


def record_answers(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Write down what the FP32 exports write: one ``.npy`` a tensor, and an index."""
    recipe, samples = task.recipe, sample_set(task, "validation")
    assert samples is not None
    progress(0, samples.count, "validation samples through the FP32 graphs")
    chain = GraphChain(recipe, Modalities.of(task), threads=task.threads)
    exported = task.step.uses["original"]
    runners = {
        name: chain.opened(graph_path(task.artifacts[exported[name]])) for name in topological_order(recipe.components)
    }
    feeds = Samples.of(samples.feeds())
    written = [wire.tensor for part in recipe.components.values() for wire in part.outputs.values()]
    first = chain.through(runners, feeds.select(slice(0, 1)), keep=written) if samples.count else {}
    small = [name for name, column in first.items() if _is_small(column, samples.count)]
    columns = chain.through(runners, feeds, keep=small)
    index = {
        name: save_column(workdir, f"tensor-{number}", column)
        for number, (name, column) in enumerate(columns.items())
        if not is_ragged(column)
    }
    progress(samples.count, samples.count, "validation samples through the FP32 graphs")
    return indexed(index, workdir, task, "validation", count=samples.count, by="onnxruntime")


def _is_small(first: Array, samples: int) -> bool:
    return not is_text(first) and not is_ragged(first) and first.nbytes * samples <= IN_MEMORY_BYTES
