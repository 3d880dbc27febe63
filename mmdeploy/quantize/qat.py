"""Quantization-aware training: the component learns with its weights and activations rounded to 8 bits.

What it does to the numbers: NVIDIA's Model Optimizer (modelopt) rounds, in every forward pass of a training, the
inputs of linear layers and convolutions (one scale a tensor), their weights (one scale an output channel) and the
outputs of convolutions, as static quantization does; gradients pass the rounding as if it were not there and stop
where a value is clipped (straight-through). Weights end up where rounding harms least. Scales are found on
calibration data before the first step and stay fixed, or are trained with the weights (``learn_scales``). The
trained weights are exported as ever; the graph is then written with exactly the scales that were trained, in the
encoding that the engine wants: symmetric INT8, or the same numbers as UINT8 with zero point 128. Where all engines of
the component take asymmetric UINT8 (ONNX Runtime on a CPU), ranges are asymmetric in training too, found as static
quantization finds them: no code is spent on values that do not occur, such as those below the zero of a ReLU, and
epoch 0 has the ranges of static quantization.

When to choose it: where static quantization costs too much accuracy and leaving layers out costs too much speed; and
after pruning, where it is recovery and quantization in one. It rarely gains where static quantization loses less
than the metric's own noise. Two to five epochs at a tenth of the learning rate that trained the model are usual.
``learn_scales`` pays where ranges are wide and few values fill them.

What it needs: ``data.training`` and ``data.validation``, and calibration data; without the latter, one epoch of the
training split calibrates. The weights kept are those of the best epoch by the validation metric, the calibrated but
untrained ones included.

Limits: trained are `nn.Linear`, `nn.Conv1d` to `nn.Conv3d` and `nn.MultiheadAttention` (also inside
`nn.TransformerEncoder`), where they are called as modules. A product written with functions, a ConvTranspose, and,
with ``quantize_attention``, products of two activations are quantized as static quantization does, with ranges from
calibration data, and named in the report. A batch normalization behind a layer is folded into it before training.
A weight under weight normalization, or under a parametrization that takes back any weight, is trained as a plain one
and decomposed again afterwards; under others (spectral normalization, masks of `torch.nn.utils.prune`) the layer is
trained in floating point, and its node gets static ranges.
``calibrator: mse`` is modelopt's search over 41 candidates; entropy is not offered. modelopt's own learned step size is
for NVFP4 only, so INT8's (LSQ, Esser et al., 2020) is a backend registered with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Array, Encoding, StepContext, TrainingSetup
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.facts import as_metadata
from mmdeploy.model.torch_component import component_facts, load_component, save_component
from mmdeploy.model.torch_model import call_module, torch_threads
from mmdeploy.quantize import qat_layers, qat_modelopt, qat_selection, qat_weights
from mmdeploy.quantize.qat_options import Options as Options
from mmdeploy.quantize.qat_scales import SCALES, LayerScales, QatScales
from mmdeploy.quantize.qat_write import write as write
from mmdeploy.training.loop import fit, required_setup
from mmdeploy.training.record import TRAINING

if TYPE_CHECKING:
    from torch import Tensor, nn

CONSUMES = "torch"
PRODUCES = "torch"
#: By the names they are imported under; modelopt imports the two before it without declaring them.
REQUIRES: tuple[str, ...] = (
    "accelerate", "huggingface_hub", "requests", "modelopt", "onnx", "onnxruntime", "safetensors", "torch",
)  # fmt: skip
MEASURES = False
SCALES_FILENAME = "scales.safetensors"


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that the pass reads."""
    return frozenset({"calibration", "training", "validation"})


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Train one component under quantization.

    Args:
        artifact: The component as the pass before left it.
        options: Of this pass.
        context: Of the step, with ``training``, and with ``calibration`` for ranges.

    Returns:
        The component with trained weights in floating point, and `SCALES_FILENAME` beside it with the scales of its
        weights; metadata: ``training``, the course of it, and ``scales``: where the file is, the layers with their
        activations' ranges, and what stays float and why.

    Raises:
        DataError: If a split is missing, unlabelled where labels are needed, bad, or shares a sample with the
            evaluation split.
        QuantizeError: If nothing is to be quantized, a glob matches nothing, or modelopt refuses.
        TrainingError: If the loss is no longer finite.
    """
    setup = required_setup(context)
    with torch_threads(context.threads), _no_fused_attention():
        network = _Network(artifact, options, context, setup)
        prepared = qat_layers.prepare(lambda: load_component(artifact), network.first)
        chosen = qat_selection.choose(prepared, options, context.component)
        asymmetric = context.encoding is Encoding.UINT8_ASYMMETRIC
        _quantize(prepared.module, chosen, options, network, asymmetric=asymmetric)
        zeroed = component_facts(artifact).sparse_parameters
        sparse = [own for name in zeroed for own in qat_layers.parameters_of(prepared, name)]
        record = fit(prepared.module, options, context, sparse=sparse)
        scales = [qat_modelopt.scales(module) for module in chosen.modules]
        plain = _plain(prepared, chosen, scales, load_component(artifact))
    _save_scales(context, chosen, scales, plain)
    facts = QatScales(
        file=SCALES_FILENAME,
        layers=_layers(plain, chosen, scales),
        calibrator=options.calibrator,
        samples=network.samples,
        learned=options.learn_scales,
        asymmetric=asymmetric,
        left_float={**prepared.notes, **chosen.excluded},
    )
    metadata = {TRAINING: record.to_metadata(), SCALES: as_metadata(facts)}
    saved = save_component(plain, before=artifact, folder=context.workdir, produced_by="qat", metadata=metadata)
    return replace(saved, beside=(SCALES_FILENAME,))


def _layers(
    plain: nn.Module, chosen: qat_selection.Chosen, scales: Sequence[qat_modelopt.Scales]
) -> tuple[LayerScales, ...]:
    """Return what `write` must know of each layer; a tied weight is named as it is saved."""
    saved = {id(parameter): name for name, parameter in plain.named_parameters()}
    every = dict(plain.named_parameters(remove_duplicate=False))
    return tuple(
        LayerScales(
            name=layer.name,
            parameter=saved[id(every[layer.parameter])] if layer.parameter in every else layer.parameter,
            rows=layer.rows,
            node_paths=tuple(layer.node_paths),
            input_low=found.input_low,
            input_amax=found.input_amax,
            output_low=found.output_low,
            output_amax=found.output_amax,
        )
        for layer, found in zip(chosen.layers, scales, strict=True)
    )


class _Network:
    """Passes calibration data through the component: its own inputs, or the training split through the network."""

    def __init__(self, artifact: Artifact, options: Options, context: StepContext, setup: TrainingSetup) -> None:
        self._artifact, self._options, self._context, self._setup = artifact, options, context, setup
        self.samples = 0

    def first(self, module: nn.Module) -> dict[str, Tensor]:
        """Answer the first batch.

        Raises:
            QuantizeError: When there is no sample.
        """
        for answer in self._answers(module):
            return answer
        raise QuantizeError(f"{self._context.component}: the calibration set is empty")

    def all(self, module: nn.Module) -> None:
        """Answer every batch, for whoever watches inside the module."""
        self.samples = 0
        for answer in self._answers(module):
            self.samples += len(next(iter(answer.values())))
            self._context.progress(self.samples, self._options.samples, "calibration samples: ranges before training")

    def _answers(self, module: nn.Module) -> Iterator[dict[str, Tensor]]:
        import torch

        network, left = self._setup.network(module), self._options.samples
        outputs = component_facts(self._artifact).outputs
        for feed in self._feeds():
            given = {name: torch.as_tensor(array[:left]) for name, array in feed.items()}
            left -= len(next(iter(given.values())))
            with torch.no_grad():
                if self._context.calibration is None:
                    answers = network(given)
                    yield {name: answers[name] for name in self._setup.component_outputs}
                else:
                    yield call_module(module, given, outputs, name=self._context.component)
            if left <= 0:
                return

    def _feeds(self) -> Iterator[Mapping[str, Array]]:
        if self._context.calibration is not None:
            yield from self._context.calibration()
        else:
            for feed, _ in self._setup.training(0, self._options.batch_size):
                yield feed


def _quantize(
    module: nn.Module, chosen: qat_selection.Chosen, options: Options, network: _Network, *, asymmetric: bool
) -> None:
    def calibrate() -> None:
        network.all(module)

    rounded = [layer.operators == ("Conv",) for layer in chosen.layers]
    qat_modelopt.insert(chosen.modules, per_channel=options.per_channel, rounded=rounded, run=calibrate)
    find = qat_modelopt.spread if asymmetric else qat_modelopt.calibrate
    find(chosen.modules, calibrator=options.calibrator, percentile=options.percentile, run=calibrate)
    packed = () if options.per_channel else chosen.packed
    qat_modelopt.tie_weights(chosen.modules, packed)
    if options.learn_scales:
        qat_modelopt.learn(chosen.modules, inputs=chosen.shared, weights=packed)


def _plain(
    prepared: qat_layers.Prepared,
    chosen: qat_selection.Chosen,
    scales: Sequence[qat_modelopt.Scales],
    untouched: nn.Module,
) -> nn.Module:
    """Return the component's own module with the trained weights.

    A weight beyond the largest code was that code in training, and one whose scale is zero was zero: they are made so.
    """
    import torch

    for module, found in zip(chosen.modules, scales, strict=True):
        with torch.no_grad():
            weight = module.get_parameter("weight")
            limit = torch.from_numpy(found.weight_amax).reshape(-1, *[1] * (weight.dim() - 1))
            limit = torch.where(limit > qat_modelopt.SMALLEST_AMAX, limit, 0.0)
            weight.copy_(weight.clamp(-limit, limit))
    return qat_layers.write_back(prepared, untouched)


def _save_scales(
    context: StepContext, chosen: qat_selection.Chosen, scales: Sequence[qat_modelopt.Scales], plain: nn.Module
) -> None:
    from safetensors.numpy import save_file

    arrays = {layer.name: found.weight_amax for layer, found in zip(chosen.layers, scales, strict=True)}
    held = dict(plain.named_parameters(remove_duplicate=False))
    for layer in chosen.layers:
        if layer.parameter not in held:
            computed = qat_weights.read(plain.get_submodule(layer.name)).cpu().numpy()
            arrays[layer.parameter] = computed
    save_file(arrays, context.workdir / SCALES_FILENAME)


@contextlib.contextmanager
def _no_fused_attention() -> Iterator[None]:
    """Keep `nn.TransformerEncoder` from its fused inference path, which passes by its layers, and so by quantizers."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
