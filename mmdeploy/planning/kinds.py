"""The kinds of step: one record says everything about each.

A kind is what a step *is* in a build (an export, an engine, the choice between engines); a method is which of the
kind's entries does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy import engines, export, prune, quantize, recover
from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import Contract
from mmdeploy.plugins.loading import Plugin
from mmdeploy.plugins.registry import Registry

_METHOD_STEP = "mmdeploy.worker.run_step:run_method"
#: Modules that run around every step, those that give it a data set, and those that time graphs for it.
_AROUND = (
    "mmdeploy.worker.run_step",
    "mmdeploy.worker.context",
    "mmdeploy.worker.examples",
    "mmdeploy.worker.feeds",
    "mmdeploy.worker.refusal",
    "mmdeploy.engines.graph_files",
    "mmdeploy.engines.conformance",
    "mmdeploy.engines.own_graph",
)
_GIVING: Mapping[str, str] = {
    "training": "mmdeploy.worker.training_setup",
    "validation": "mmdeploy.worker.fused_output",
}
_TIMING = ("mmdeploy.choice.graphs",)
#: What the first export in a process would import lazily, 0.8 s a step, lies below ``torch`` and ``onnxscript``.
_EXPORTING = (
    "torch", "scipy.linalg", "torch._dynamo", "torch._functorch.aot_autograd", "torch._functorch.partitioners",
    "torch.onnx._internal.exporter._core", "torch.onnx._internal.exporter._torchlib.ops", "onnx",
    "onnxscript.function_libs.torch_lib.ops", "onnxscript.rewriter.onnx_fusions", "onnxruntime",
    "safetensors.torch",
)  # fmt: skip
#: Of a BLAS that is loaded before a fork the fork has no threads; models import it, through ``transformers`` for one.
_WITH_MODEL = ("torch", "scipy.linalg")
_TRAINING = (*_WITH_MODEL, "safetensors.torch")
_RUNNING = ("onnx", "onnx.reference", "onnxruntime")
_QUANTIZING = (*_RUNNING, "onnxruntime.quantization")


@dataclass(frozen=True, eq=False)
class StepKind:
    """Everything about a kind of step.

    Attributes:
        name: Of the kind; part of a step's id.
        methods: What can do it, by method; None where one module does.
        preload: What the fork server imports for it; a name that is missing is passed over by multiprocessing.
        runs: The function of the step's process that does it, ``package.module:function``; it takes task, folder,
            progress and gives the artifact.
        code: Module whose code decides the result where no method's does.
        requires: Imports that it needs where no method says so.
        on_module: Whether it works on a component's PyTorch module.
        trains: Whether it may run on several processes.
    """

    name: str
    methods: Registry[Any] | None = None
    preload: tuple[str, ...] = _RUNNING
    runs: str = _METHOD_STEP
    code: str = ""
    requires: tuple[str, ...] = ()
    on_module: bool = False
    trains: bool = False

    def module(self, method: str, root: Path) -> Pass | None:
        """Return what does it by a method; None where that is always the same.

        Args:
            method: As the recipe writes it.
            root: Folder of the recipe.
        """
        if self.methods is None or self.code:
            return None
        module: Pass = self.methods.find(method, root)
        return module

    def code_of(self, module: Pass | None) -> str:
        """Return the name of what decides by its code what a step gives: a dotted name, or a plug-in's."""
        return module.__name__ if module is not None else self.code

    def starts_in(self, module: Pass | None, needs: Iterable[str] = (), *, measures: bool = False) -> tuple[str, ...]:
        """Return the modules of mmdeploy that the code of a step starts in, as dotted names.

        Args:
            module: What does it, where there are several.
            needs: Data sets that it reads.
            measures: Whether it times graphs.
        """
        given = tuple(_GIVING[need] for need in sorted(needs) if need in _GIVING)
        own = () if isinstance(module, Plugin) else (self.code_of(module),)
        return (*_AROUND, self.runs.partition(":")[0], *given, *(_TIMING if measures else ()), *own)

    def requires_of(self, module: Pass | None) -> tuple[str, ...]:
        """Return the imports that a step needs."""
        return module.REQUIRES if module is not None else self.requires


#: One of the recipe's sets of samples. What its data code imports, the step imports by itself.
SAMPLES = StepKind(
    "samples", preload=("numpy",), runs="mmdeploy.worker.sample_steps:record_samples",
    code="mmdeploy.data.recording", requires=("numpy",),
)  # fmt: skip
#: What stands in for the embeddings of inputs that may be missing.
STAND_IN = StepKind(
    "stand_ins", preload=_WITH_MODEL, runs="mmdeploy.worker.stand_ins:record_stand_ins",
    code="mmdeploy.model.torch_model", requires=("torch", "numpy"),
)  # fmt: skip
PRUNE = StepKind("prune", prune.METHODS, _TRAINING, on_module=True)
RECOVER = StepKind("recover", recover.METHODS, _TRAINING, on_module=True, trains=True)
#: Quantization-aware training: a quantization that consumes a PyTorch module.
TRAIN = StepKind("train", quantize.METHODS, _TRAINING, on_module=True, trains=True)
EXPORT = StepKind("export", export.METHODS, _EXPORTING, runs="mmdeploy.worker.run_step:run_export")
QUANTIZE = StepKind("quantize", quantize.METHODS, _QUANTIZING)
SENSITIVITY = StepKind(
    "sensitivity", Registry(quantize.__name__, Contract("measurement", ""), {"sensitivity": "sensitivity"}), _QUANTIZING
)
#: What the PyTorch model answers on the evaluation data.
OUTPUTS = StepKind(
    "outputs", preload=_WITH_MODEL, runs="mmdeploy.worker.original_outputs:record_original",
    code="mmdeploy.model.torch_model", requires=("torch", "numpy"),
)  # fmt: skip
#: What the FP32 exports write on the validation data.
ANSWERS = StepKind(
    "answers", runs="mmdeploy.worker.original_answers:record_answers", code="mmdeploy.worker.graph_chain",
    requires=("onnxruntime", "numpy"),
)  # fmt: skip
ENGINE = StepKind("engine", engines.METHODS)
#: The same engine from the FP32 original, to measure against.
REFERENCE = StepKind("reference", engines.METHODS)
#: The choice between candidates by measuring.
SELECT = StepKind(
    "select", runs="mmdeploy.worker.selection:select", code="mmdeploy.choice.choose", requires=("numpy", "scipy")
)
#: All components' graphs as one, in the engine of all.
COMPOSE = StepKind(
    "compose", runs="mmdeploy.worker.composition:compose_components", code="mmdeploy.engines.composing",
    requires=("onnx", "onnx_ir", "numpy"),
)  # fmt: skip

#: By name, in the order in which steps are started when there is a choice: what the longest chains wait for first.
KINDS: Mapping[str, StepKind] = {
    kind.name: kind
    for kind in (
        SAMPLES,
        STAND_IN,
        PRUNE,
        RECOVER,
        TRAIN,
        EXPORT,
        QUANTIZE,
        SENSITIVITY,
        OUTPUTS,
        ANSWERS,
        ENGINE,
        REFERENCE,
        SELECT,
        COMPOSE,
    )
}
STARTING_ORDER: Mapping[str, int] = {name: place for place, name in enumerate(KINDS)}
#: The modules that steps start in, whatever their method.
STARTING_MODULES = frozenset(
    {*_AROUND, *_GIVING.values(), *_TIMING, f"{quantize.__name__}.sensitivity"}
    | {kind.runs.partition(":")[0] for kind in KINDS.values()}
    | {kind.code for kind in KINDS.values() if kind.code}
)
