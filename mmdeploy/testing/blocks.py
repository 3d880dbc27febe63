"""The contract of a block: a PyTorch module that is to be deployable in every form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mmdeploy.core.artifact import Array, Artifact
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.errors import MmdeployError
from mmdeploy.core.target import Target
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.testing.block_figures import EXACT, BlockRow, Figure, alike, apart, cosine, exact
from mmdeploy.testing.block_steps import Likeness, Provable, Subject, answered
from mmdeploy.testing.expectations import expect

#: Forms in the order of a table's columns, and what each is.
FORMS: Mapping[str, str] = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt_rtx": "TensorRT for RTX",
    "dynamic": "INT8 dynamic, ONNX Runtime",
    "static": "INT8 static, ONNX Runtime",
    "static_openvino": "INT8 static, OpenVINO",
    "static_tensorrt_rtx": "INT8 static, TensorRT for RTX",
    "pruned": "pruned",
    "qat": "INT8 trained, ONNX Runtime",
}
_INT8 = ("dynamic", "static", "static_openvino", "static_tensorrt_rtx", "qat")
#: The first of what a block is asked is of usual lengths.
_USUAL = 2
_Answers = Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]]


def check_block(block: Provable) -> BlockRow:
    """Take a block through every form in which it can be deployed, by mmdeploy's own passes and engines.

    It is exported with a batch, and sizes that vary, of any length, and compared with PyTorch at several; run by ONNX
    Runtime and OpenVINO, and built by TensorRT for RTX, which needs no GPU for that, in FP32 and in static INT8; run in
    dynamic INT8; pruned by half, then trained for a few steps with INT8 in mind, exported and run again.

    Args:
        block: A `mmdeploy.zoo.block.Block`, or anything else with these attributes.

    Returns:
        A figure for each form: the largest relative difference in FP32, the cosine in INT8, the share of the parameters
        that pruning leaves; or why there is none.

    Raises:
        AssertionError: If two makes of the block differ, a figure is beyond its limit, an engine refuses what the block
            does not name among its ``refusals``, or takes what it names there.
    """
    unknown = sorted(set(block.refusals) - set(FORMS))
    expect(not unknown, f"{block.name}: refusals name {unknown}; forms are {', '.join(FORMS)}")
    with temporary_folder("testing") as folder:
        proof = _Proof(Subject(block, folder.resolve()))
        return BlockRow(block.name, proof.figures())


class _Proof:
    """One block on its way through the forms."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.block = subject, subject.block
        self.source = subject.source()
        asked = [subject.examples(3, 41), subject.examples(1, 42)]
        asked += [feed for _, feed in subject.at_lengths(2)]
        module = self.block.make()
        expect(not module.training, f"{self.block.name}: make gives a module in training mode: call eval()")
        self.answers = [(feed, answered(module, feed, self.block.outputs)) for feed in asked]
        again = answered(self.block.make(), asked[0], self.block.outputs)
        same = all((again[name] == array).all() for name, array in self.answers[0][1].items())
        expect(same, f"{self.block.name}: make gives another module each time: seed PyTorch in it")

    def figures(self) -> dict[str, Figure]:
        """Return the figure of each form."""
        graph = self._exported(self.source, "export")
        found = {
            "onnxruntime": self._form("onnxruntime", lambda: self._exact("onnxruntime", graph)),
            "openvino": self._form("openvino", lambda: self._exact("openvino", graph)),
            "tensorrt_rtx": self._form("tensorrt_rtx", lambda: self._built(graph)),
        }
        if self.block.not_quantized:
            found |= {form: Figure(None, "-", self.block.not_quantized) for form in _INT8}
        else:
            found |= self._quantized(graph)
        pruned, found["pruned"] = self._pruned()
        if not self.block.not_quantized:
            found["qat"] = self._form("qat", lambda: self._trained(pruned))
        return {form: found[form] for form in FORMS}

    def _exported(self, source: Artifact, step: str) -> Artifact:
        from mmdeploy.export import onnx_dynamo

        return onnx_dynamo.run(source, onnx_dynamo.Options(), self.subject.context(step))

    def _exported_at_one_length(self, source: Artifact, step: str) -> Artifact:
        """Export what was pruned or trained: that lengths vary was shown, and costs half of an export."""
        from mmdeploy.export import onnx_dynamo

        feed = self.subject.examples(1)
        inputs = tuple(replace(spec, shape=feed[spec.name].shape[1:], sizes=()) for spec in source.inputs)
        context = self._at_one_length(step)
        return onnx_dynamo.run(replace(source, inputs=inputs), onnx_dynamo.Options(), context)

    def _at_one_length(self, step: str) -> StepContext:
        return replace(self.subject.context(step), at_lengths=lambda batch: iter(()))

    def _form(self, form: str, made: Callable[[], Figure]) -> Figure:
        """Make a form; what refuses it must be known, and what is known must refuse."""
        known = self.block.refusals.get(form)
        try:
            figure = made()
        except MmdeployError as refusal:
            expect(known is not None, f"{self.block.name} as {form}: {refusal}")
            expect(known and known in str(refusal), f"{self.block.name} as {form}: {known!r} is not in: {refusal}")
            return Figure(None, "refused", str(known))
        expect(known is None, f"{self.block.name} as {form} is no longer refused: take it out of refusals")
        return figure

    def _quantized(self, graph: Artifact) -> dict[str, Figure]:
        from mmdeploy.quantize import dynamic, static

        scheme = {"exclude": self.block.float_nodes}
        options = static.Options(**scheme, samples=16, calibrator="percentile", equalize=None, embeddings="float")
        held: dict[str, Artifact] = {}

        def dynamically() -> Figure:
            only = dynamic.Options(**scheme, embeddings="float")
            return self._alike("onnxruntime", dynamic.run(graph, only, self.subject.context("dynamic")))

        def statically() -> Figure:
            held["static"] = static.run(graph, options, self.subject.context("static"))
            return self._alike("onnxruntime", held["static"])

        def symmetric() -> Artifact:
            if "symmetric" not in held:
                context = self.subject.context("symmetric", encoding=Encoding.INT8_SYMMETRIC)
                held["symmetric"] = static.write(graph, held["static"], options, context)
            return held["symmetric"]

        found = {"dynamic": self._form("dynamic", dynamically), "static": self._form("static", statically)}
        if "static" not in held:
            return found | dict.fromkeys(("static_openvino", "static_tensorrt_rtx"), found["static"])
        return found | {
            "static_openvino": self._form("static_openvino", lambda: self._alike("openvino", symmetric())),
            "static_tensorrt_rtx": self._form("static_tensorrt_rtx", lambda: self._built(symmetric(), "static")),
        }

    def _pruned(self) -> tuple[Artifact, Figure]:
        """Return the block with half of its units, and how much that leaves; as it was where nothing can go."""
        from mmdeploy.model.torch_component import load_component
        from mmdeploy.prune import structured

        if self.block.not_pruned:
            return self.source, Figure(None, "-", self.block.not_pruned)
        context = self.subject.context("pruned")
        held = [self.source]

        def pruned() -> Figure:
            options = structured.Options(ratio=0.5, round_to=4)
            held[0] = structured.run(self.source, options, context)
            before, after = (
                sum(one.numel() for one in load_component(each).parameters()) for each in (self.source, held[0])
            )
            expect(after < before, f"{self.block.name}: pruning left all {before} parameters")
            if self.block.not_quantized:
                self._exported_at_one_length(held[0], "pruned_export")
            return Figure(after / before, f"{after / before:.0%}")

        figure = self._form("pruned", pruned)
        return held[0], figure

    def _trained(self, source: Artifact) -> Figure:
        """Train with INT8 in mind, export, write the trained scales, and compare with what was trained."""
        from mmdeploy.model.torch_component import load_component
        from mmdeploy.quantize import qat

        options = qat.Options(
            epochs=1, batch_size=8, learning_rate=1e-3, loss="distill", samples=16, exclude=self.block.float_nodes,
            embeddings="float",
        )  # fmt: skip
        trained = qat.run(source, options, self.subject.context("qat", training=Likeness(self.subject)))
        graph = self._exported_at_one_length(trained, "qat_export")
        written = qat.write(graph, trained, options, self._at_one_length("qat_graph"))
        module = load_component(trained)
        wanted = [(feed, answered(module, feed, self.block.outputs)) for feed, _ in self.answers[:_USUAL]]
        return self._alike("onnxruntime", written, wanted)

    def _run(self, engine: str, graph: Artifact, wanted: _Answers, like: Callable[..., float]) -> list[float]:
        from mmdeploy import engines

        method = engines.METHODS[engine]
        options = method.Options()
        built = method.run(graph, options, self._context_of(engine, graph))
        runner = method.load(built, options)
        try:
            asked = [(runner.infer(feed), answers) for feed, answers in wanted]
        finally:
            runner.close()
        return [like(array, found[name]) for found, answers in asked for name, array in answers.items()]

    def _exact(self, engine: str, graph: Artifact) -> Figure:
        worst = max(self._run(engine, graph, self.answers, apart))
        expect(worst <= EXACT, f"{self.block.name} in {engine} differs by {worst:.2g}, and may by {EXACT:g}")
        return exact(worst)

    def _alike(self, engine: str, graph: Artifact, wanted: _Answers | None = None) -> Figure:
        worst = min(self._run(engine, graph, wanted or self.answers, cosine))
        least, form = self.block.int8_cosine, f"{graph.produced_by} INT8 in {engine}"
        expect(worst >= least, f"{self.block.name} in {form} has a cosine of {worst:.4f}, and must have {least:g}")
        return alike(worst)

    def _built(self, graph: Artifact, of: str = "float") -> Figure:
        from mmdeploy.engines import tensorrt_rtx

        options = tensorrt_rtx.Options(compute_capabilities=("SM86",))
        context = self.subject.context(
            f"tensorrt_rtx_{of}", encoding=Encoding.INT8_SYMMETRIC, target=Target.TENSORRT_RTX
        )
        built = tensorrt_rtx.run(graph, options, context)
        expect(built.size_bytes > 0, f"{self.block.name}: tensorrt_rtx built an empty engine")
        return Figure(None, "built")

    def _context_of(self, engine: str, graph: Artifact) -> StepContext:
        step = f"{engine}_{graph.produced_by}_{graph.sha256[:8]}"
        if any(-1 in spec.shape for spec in graph.inputs):
            return self.subject.context(step)
        return self._at_one_length(step)
