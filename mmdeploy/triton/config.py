"""Triton's config.pbtxt: from a served component or ensemble to text, through the protobuf and back.

Everything here is a pure function of its arguments. Field meanings: Triton's model_config.proto and
docs/user_guide/model_configuration.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Array, Artifact, TensorSpec
from mmdeploy.core.contracts import INSTANCE_KIND
from mmdeploy.core.errors import UsageError
from mmdeploy.core.strings import BYTES
from mmdeploy.triton.kept_state import KeptState
from mmdeploy.triton.options import (
    SAMPLE_HINT,
    InstanceGroup,
    LatestVersions,
    Serving,
    SpecificVersions,
    Warmup,
    unfit_warmup,
)
from mmdeploy.triton.sequences import STREAM_PARAMETER, Cut
from mmdeploy.triton.served_step import OPTIONS_PARAMETER, STEP_FILENAME, ServedStep

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

#: Number of the version folder that a build writes.
PUBLISHED_VERSION = 1
#: Key of ``parameters`` under which the embedded backends find the rules that requests must keep.
INPUT_RULES_PARAMETER = "mmdeploy.inputs"
#: Folder of a model in which Triton looks for the files of its warm-up (core: constants.h).
WARMUP_FOLDER = "warmup"
#: Where an engine puts the graph level among its parameters; in config.pbtxt it is a field of its own.
GRAPH_LEVEL_PARAMETER = "optimization.graph.level"
#: Key of an ensemble's ``parameters`` under which ``mmdeploy serve`` finds the size of the response cache.
CACHE_BYTES_PARAMETER = "mmdeploy.response_cache_bytes"


@dataclass(frozen=True)
class ServedComponent:
    """One engine as Triton serves it.

    Attributes:
        name: Name of the component and of its model.
        backend: Triton's backend.
        filename: Name of the model file in the version folder.
        artifact: The engine; its specs leave the batch dimension out.
        inputs: Ensemble tensor by the component's input name.
        outputs: Ensemble tensor by the component's output name.
        serving: The recipe's serving section.
        parameters: Strings for the backend, as `Engine.serving` gives them; ``optimization.graph.level`` and
            ``instance_group.kind`` among them become the fields of those names.
        input_rules: What a request must keep, by input name; JSON-able, read by the embedded backends.
        labels: Label file by output name; line n names class n.
        sample: One sample of the inputs, by name, without a batch axis; empty where none is known.
        version: Number of the version folder.
        kept: What Triton keeps of it between the requests of a sequence; None where it keeps nothing.
        cut: How its samples are cut into chunks; None where they are sent whole.
    """

    name: str
    backend: str
    filename: str
    artifact: Artifact
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    serving: Serving = field(default_factory=Serving)
    parameters: Mapping[str, str] = field(default_factory=dict)
    input_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    labels: Mapping[str, Path] = field(default_factory=dict)
    sample: Mapping[str, Array] = field(default_factory=dict)
    version: int = PUBLISHED_VERSION
    kept: KeptState | None = None
    cut: Cut | None = None


@dataclass(frozen=True)
class ServedEnsemble:
    """The components, wired into one model.

    Attributes:
        name: Name of the ensemble's model.
        inputs: What a client sends, named by ensemble tensor.
        outputs: What a client gets, named by ensemble tensor.
        components: In any order; Triton follows the tensors.
        response_cache: Answer a repeated request as a whole from Triton's response cache.
        cache_bytes: Size of the response cache that a server should have; 0 where the recipe does not say.
        version: Number of the ensemble's (empty) version folder.
        steps: Python steps beside the components, in any order too.
        branches: Ensembles of some of the parts that a step asks for by itself. They are served beside this one, and
            their parts are no steps of it.
        asked: Names of parts that a step asks for by itself without such an ensemble.
        cut: How clients cut samples into chunks; None where they send them whole.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    components: tuple[ServedComponent, ...]
    response_cache: bool = False
    cache_bytes: int = 0
    version: int = PUBLISHED_VERSION
    steps: tuple[ServedStep, ...] = ()
    branches: tuple[ServedEnsemble, ...] = ()
    asked: frozenset[str] = frozenset()
    cut: Cut | None = None

    @property
    def parts(self) -> tuple[ServedComponent | ServedStep, ...]:
        """Everything that is served for it, the ensembles left out."""
        return (*self.components, *self.steps)

    @property
    def wired(self) -> tuple[ServedComponent | ServedStep, ...]:
        """What becomes a step of the ensemble: all parts but those that another step asks."""
        elsewhere = self.asked.union(part.name for branch in self.branches for part in branch.parts)
        return tuple(part for part in self.parts if part.name not in elsewhere)

    @property
    def max_batch_size(self) -> int:
        """The smallest ``max_batch_size`` of the parts: 0 as soon as one of them does not batch."""
        return min(part.serving.max_batch_size for part in self.parts)

    @property
    def optional(self) -> frozenset[str]:
        """The inputs that a request may leave out: all that read them are steps that go on without."""
        read = {spec.name: list[bool]() for spec in self.inputs}
        for part in self.wired:
            for name, tensor in part.inputs.items():
                if tensor in read:
                    read[tensor].append(isinstance(part, ServedStep) and name in part.optional)
        return frozenset(name for name, optional in read.items() if optional and all(optional))


@dataclass(frozen=True)
class SyntaxProblem:
    """Why a text is not a ModelConfig, and in which line (from 1)."""

    line: int
    message: str


def component_config(component: ServedComponent) -> ModelConfig:
    """Describe a component's model."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    serving, artifact = component.serving, component.artifact
    config = ModelConfig(name=component.name, backend=component.backend, max_batch_size=serving.max_batch_size)
    # Written out because "model.py" is Triton's idea of a file name for backends that it does not know.
    config.default_model_filename = component.filename
    _add_tensors(config.input, artifact.inputs, serving.max_batch_size)
    _add_tensors(config.output, artifact.outputs, serving.max_batch_size)
    specs = (*artifact.inputs, *artifact.outputs)
    for tensor, spec in zip((*config.input, *config.output), specs, strict=True):
        if not spec.shape:
            # Triton has no scalars: one value a sample travels as [1] and is reshaped to [] for the engine.
            tensor.reshape.shape.extend([] if serving.max_batch_size else [-1])
            tensor.reshape.SetInParent()
    _add_labels(config, component.labels)
    parameters = dict(component.parameters)
    _add_serving(config, serving, kind=parameters.pop(INSTANCE_KIND, "KIND_AUTO"))
    if serving.warmup:
        warmup = serving.warmup if isinstance(serving.warmup, Warmup) else Warmup()
        _add_warmup(config, warmup, component)
    if graph_level := parameters.pop(GRAPH_LEVEL_PARAMETER, ""):
        config.optimization.graph.level = int(graph_level)
    if component.kept is not None:
        component.kept.write(config)
    _add_cut(config, component.cut)
    _add_parameters(config, parameters, component.input_rules)
    return config


def step_config(step: ServedStep) -> ModelConfig:
    """Describe a Python step's model."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    largest = step.serving.max_batch_size
    config = ModelConfig(name=step.name, backend="python", max_batch_size=largest)
    config.default_model_filename = STEP_FILENAME
    _add_tensors(config.input, step.takes, largest, step.optional)
    _add_tensors(config.output, step.gives, largest)
    _add_labels(config, step.labels)
    _add_serving(config, step.serving, kind="KIND_CPU")
    options = {OPTIONS_PARAMETER: json.dumps(dict(step.options), sort_keys=True)} if step.options else {}
    _add_parameters(config, options, step.input_rules)
    return config


def _add_cut(config: ModelConfig, cut: Cut | None) -> None:
    if cut is not None:
        config.parameters[STREAM_PARAMETER].string_value = cut.to_parameter()


def _add_parameters(
    config: ModelConfig, parameters: Mapping[str, str], input_rules: Mapping[str, Mapping[str, Any]]
) -> None:
    rules = {name: dict(rule) for name, rule in input_rules.items()}
    given = {INPUT_RULES_PARAMETER: json.dumps(rules, sort_keys=True)} if rules else {}
    for key, value in sorted({**parameters, **given}.items()):
        config.parameters[key].string_value = value


def ensemble_config(ensemble: ServedEnsemble) -> ModelConfig:
    """Describe the ensemble; its steps name their versions, so that a swap never mixes old and new."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    config = ModelConfig(name=ensemble.name, platform="ensemble", max_batch_size=ensemble.max_batch_size)
    _add_tensors(config.input, ensemble.inputs, ensemble.max_batch_size, ensemble.optional)
    _add_tensors(config.output, ensemble.outputs, ensemble.max_batch_size)
    if ensemble.response_cache:
        config.response_cache.enable = True
    if ensemble.cache_bytes:
        config.parameters[CACHE_BYTES_PARAMETER].string_value = str(ensemble.cache_bytes)
    _add_cut(config, ensemble.cut)
    for part in ensemble.wired:
        step = config.ensemble_scheduling.step.add(model_name=part.name, model_version=part.version)
        for name, tensor in sorted(part.inputs.items()):
            step.input_map[name] = tensor
        for name, tensor in sorted(part.outputs.items()):
            step.output_map[name] = tensor
    return config


def label_filename(output: str) -> str:
    """Return the name of an output's label file in the model's folder."""
    return f"{output}.labels.txt"


def to_text(config: ModelConfig) -> str:
    """Write a configuration as config.pbtxt, ``max_batch_size: 0`` included, the same bytes every time."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    head = ModelConfig(name=config.name, platform=config.platform, backend=config.backend)
    rest = ModelConfig()
    rest.CopyFrom(config)
    for name in ("name", "platform", "backend", "max_batch_size"):
        rest.ClearField(name)
    # proto3 leaves a zero out, but a reader should see that batching is off.
    batch = f"max_batch_size: {config.max_batch_size}\n"
    return f"{text_format.MessageToString(head)}{batch}{text_format.MessageToString(rest)}"


def parse(text: str, where: str) -> ModelConfig:
    """Read config.pbtxt.

    Args:
        text: The file's text.
        where: Its path, for messages.

    Raises:
        UsageError: If the text is no ModelConfig; names file and line.
    """
    config = try_parse(text)
    if isinstance(config, SyntaxProblem):
        raise UsageError(
            f"{where}:{config.line}: {config.message}",
            hint="the fields are those of Triton's model_config.proto",
        )
    return config


def try_parse(text: str) -> ModelConfig | SyntaxProblem:
    """Read config.pbtxt, or say what is wrong with it."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        # "2:1 : 'the line': what is wrong", in several variants.
        message = re.sub(r"^[\d:]* ?:? ?('.*?(?<!\\)': )?", "", str(error)).replace("inference.", "")
        return SyntaxProblem(line=error.GetLine() or 1, message=message)


def triton_type(dtype: str) -> str:
    """Return what config.pbtxt calls a data type."""
    return "TYPE_STRING" if dtype == BYTES else f"TYPE_{dtype}"


def _add_tensors(
    fields: Any, specs: Iterable[TensorSpec], max_batch_size: int, optional: Collection[str] = frozenset()
) -> None:
    from tritonclient.grpc.model_config_pb2 import DataType

    # With max_batch_size 0 Triton passes tensors on as they are, so the batch is a dimension like any other.
    lead = [] if max_batch_size else [-1]
    for spec in specs:
        added = fields.add(name=spec.name, data_type=DataType.Value(triton_type(spec.dtype)))
        added.dims.extend([*lead, *(spec.shape or [1])])
        if spec.name in optional:
            added.optional = True


def _add_labels(config: ModelConfig, labels: Mapping[str, Path]) -> None:
    for output in config.output:
        if output.name in labels:
            output.label_filename = label_filename(output.name)


def _add_serving(config: ModelConfig, serving: Serving, *, kind: str) -> None:
    if section := serving.dynamic_batching:
        batching = config.dynamic_batching
        batching.SetInParent()
        batching.preferred_batch_size.extend(section.preferred_batch_size)
        batching.max_queue_delay_microseconds = section.max_queue_delay_us
        if section.timeout_us:
            policy = batching.default_queue_policy
            policy.default_timeout_microseconds = section.timeout_us
            policy.timeout_action = policy.TimeoutAction.Value(section.timeout_action.upper())
    if serving.instance_group:
        _add_instance_group(config, serving.instance_group, kind)
    if serving.response_cache:
        config.response_cache.enable = True
    if policy := serving.version_policy:
        if isinstance(policy, LatestVersions):
            config.version_policy.latest.num_versions = policy.latest
        elif isinstance(policy, SpecificVersions):
            config.version_policy.specific.versions.extend(policy.specific)
        else:
            config.version_policy.all.SetInParent()


def _add_instance_group(config: ModelConfig, section: InstanceGroup, kind: str) -> None:
    group = config.instance_group.add(count=section.count, gpus=section.gpus)
    group.kind = group.Kind.Value(kind if section.kind == "auto" else f"KIND_{section.kind.upper()}")


def _add_warmup(config: ModelConfig, section: Warmup, component: ServedComponent) -> None:
    from tritonclient.grpc.model_config_pb2 import DataType

    largest, arrays = config.max_batch_size, warmup_sample(component)
    for size in section.batch_sizes or sorted({1, max(1, largest)}):
        # A warm-up "batch" is that many requests of one sample each, run as one.
        sample = config.model_warmup.add(name=f"batch_{size}", batch_size=size, count=section.count)
        for index, spec in enumerate(component.artifact.inputs):
            given = sample.inputs[spec.name]
            given.data_type = DataType.Value(f"TYPE_{spec.dtype}")
            array = arrays.get(spec.name)
            shape = _warmup_shape(spec, section)
            given.dims.extend([*([] if largest else [1]), *((shape if array is None else array.shape) or [1])])
            if array is None:
                setattr(given, f"{'zero' if section.data == 'sample' else section.data}_data", True)
            else:
                given.input_data_file = warmup_filename(index, spec.name)


def _warmup_shape(spec: TensorSpec, section: Warmup) -> list[int]:
    """Return the shape of made-up values: where it varies, what the recipe says, else the smallest length."""
    known = spec.sizes or (None,) * len(spec.shape)
    return [
        dim if dim != -1 else section.variable_size or (1 if size is None else size.min)
        for dim, size in zip(spec.shape, known, strict=True)
    ]


def warmup_filename(index: int, name: str) -> str:
    """Return the name of the file with an input's warm-up data, in the folder ``warmup`` of a model."""
    return f"{index}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.raw"


def warmup_sample(component: ServedComponent) -> dict[str, Array]:
    """Return what a component is warmed up with from files, by input; empty where that is none of the recipe's data.

    Raises:
        UsageError: If it is zeros or random bytes that the component would refuse: that can end Triton.
    """
    from mmdeploy.data.padding import padded

    section = component.serving.warmup
    if not section:
        return {}
    section = section if isinstance(section, Warmup) else Warmup()
    spans = {name: rule.get("range") for name, rule in component.input_rules.items()}
    for spec in component.artifact.inputs:
        if wrong := unfit_warmup(section, spec.dtype, spans.get(spec.name)):
            raise UsageError(f"{component.name}: serving.warmup of input {spec.name!r}: {wrong}", hint=SAMPLE_HINT)
    if section.data != "sample":
        return {}
    found = {}
    for spec in component.artifact.inputs:
        if spec.name in component.sample:
            array = component.sample[spec.name]
            sizes = zip(spec.shape, array.shape, strict=True)
            shape = [have if dim != -1 else section.variable_size or have for dim, have in sizes]
            found[spec.name] = padded(array, shape, spans.get(spec.name))
    return found
