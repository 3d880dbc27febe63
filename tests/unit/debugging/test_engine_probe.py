"""A fault that only the engine has is found in it, reduced, and shown again by the command that is written down.

ONNX Runtime makes an INT32 bias at the product of the scales of input and weight when it loads a symmetric INT8 graph.
Where a channel's weights are almost nothing and its bias is not, that overflows.
"""

import subprocess

import numpy as np
import onnx
import pytest
from debug_graphs import float_chain, int8_chain, samples

from mmdeploy.core.contracts import StepContext
from mmdeploy.core.target import Target
from mmdeploy.debugging import reduction
from mmdeploy.debugging.engine_probe import EngineProbe
from mmdeploy.debugging.figures import Tolerance
from mmdeploy.debugging.reduction import Fault
from mmdeploy.debugging.tensors import TensorGraph
from mmdeploy.debugging.unoptimized import Unoptimized
from mmdeploy.engines import onnxruntime

AS_SERVED = ("--onnxrt", "--graph-optimization-level", "ORT_ENABLE_ALL")
AS_WRITTEN = ("--onnxrt", "--graph-optimization-level", "ORT_DISABLE_ALL")


def _probe(model, folder) -> tuple[EngineProbe, list[dict[str, np.ndarray]], list[str]]:
    graph = TensorGraph(model)
    context = StepContext(
        component="c", workdir=folder, target=Target.CPU, encoding=onnxruntime.encoding(onnxruntime.Options()),
        max_batch_size=8, seed=0, threads=1, examples=lambda size: samples(count=size),
    )  # fmt: skip
    probe = EngineProbe(graph, onnxruntime.Options(), context, {"": Tolerance(30.0)})
    values = samples() | Unoptimized(graph.watched(graph.computed)).run(samples())
    return probe, [values], [name for name in graph.computed if values[name].dtype == np.float32]


@pytest.mark.parametrize(("layers", "dead"), [(2, 0), (4, 0), (4, 2), (6, 4)])
def test_the_layer_that_overflows_in_the_engine_is_found(tmp_path, layers, dead):
    probe, wanted, cuts = _probe(int8_chain(layers, dead=dead), tmp_path)
    found = probe.first_bad(f"t{layers - 1}", cuts, wanted)
    # The bias is made where the layer runs in INT8: with the Q/DQ pair behind it, and not before.
    assert found == f"t{dead}_DequantizeLinear_Output"
    figures = probe.findings()[found]
    assert not figures.within and figures.sqnr_db < 20
    for name in probe.graph.before(found, set(cuts)):
        assert name not in cuts or probe.findings()[name].within


def test_the_written_command_fails_while_the_fault_is_there(tmp_path):
    probe, wanted, cuts = _probe(int8_chain(5, dead=2), tmp_path)
    found = probe.first_bad("t4", cuts, wanted)
    fault = Fault(probe.graph, found, wanted[0], cuts, probe.tolerance(found))
    folder = tmp_path / "a folder"
    made = reduction.write(fault, lambda model, feed: probe.answers(model, [feed])[0], folder, AS_SERVED)
    assert made.reproduces
    assert made.nodes == 7 < len(probe.graph.model.graph.node)
    onnx.checker.check_model(str(folder / reduction.MODEL), full_check=True)
    done = subprocess.run(["sh", "-c", made.command], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in done.stdout + done.stderr and f"Mismatched outputs: ['{found}']" in done.stdout + done.stderr
    # As it is written, the same piece is right: the fault is the engine's.
    healthy = made.command.replace("ORT_ENABLE_ALL", "ORT_DISABLE_ALL")
    assert subprocess.run(["sh", "-c", healthy], capture_output=True, check=False).returncode == 0


def test_a_fault_of_the_graph_is_reduced_to_the_node_that_has_it(tmp_path):
    right, wrong = TensorGraph(float_chain(6)), TensorGraph(float_chain(6, wrong=3))
    values = samples() | Unoptimized(right.watched(right.computed)).run(samples())
    fault = Fault(wrong, "g3", values, right.computed, Tolerance(60.0))
    made = reduction.write(fault, lambda model, feed: Unoptimized(model).run(feed), tmp_path / "found", AS_WRITTEN)
    assert (made.nodes, made.inputs, made.reproduces) == (1, ("t2",), True)


def test_a_piece_grows_until_it_shows_the_fault(tmp_path):
    """The engine is wrong only when it sees two layers at once: here, a run that judges by the number of nodes."""
    graph = TensorGraph(float_chain(6))
    values = samples() | Unoptimized(graph.watched(graph.computed)).run(samples())

    def run(model, feed):
        answers = Unoptimized(model).run(feed)
        return {name: value * (1 if len(model.graph.node) < 4 else -1) for name, value in answers.items()}

    piece = reduction.reduced(Fault(graph, "t4", values, graph.computed, Tolerance(20.0)), run)
    assert len(piece.graph.node) == 4 and [value.name for value in piece.graph.input] == ["t2"]
