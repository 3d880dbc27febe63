"""Describe the ensembles that a build stages: the candidate, its FP32 reference, and what stands in for either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy import engines
from mmdeploy.building.media_steps import first_sample, served_steps
from mmdeploy.building.served_cascade import with_cascade, without_cascade
from mmdeploy.building.served_modalities import with_modalities
from mmdeploy.building.served_stream import with_stream
from mmdeploy.building.single_model import as_single
from mmdeploy.choice.options import default_engine
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import Array, MethodOptions
from mmdeploy.core.target import Target
from mmdeploy.engines.built_from import graph_path
from mmdeploy.planning.chains import candidates, original_graph
from mmdeploy.planning.kinds import EXPORT
from mmdeploy.planning.planned_layout import SINGLE_ENGINE, SINGLE_REFERENCE
from mmdeploy.planning.steps import STAND_INS
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.triton.buckets import bucketed
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.install import stand_in_of
from mmdeploy.triton.options import InstanceGroup, Serving
from mmdeploy.triton.response_cache import cached, with_versions
from mmdeploy.worker.examples import kept_example
from mmdeploy.worker.shipped import shipped_engine

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe


def model_name(recipe: str, component: str) -> str:
    """Return the name of a component's model in Triton; the recipe's name keeps two recipes served at once apart."""
    return f"{recipe}.{component}"


def candidate_ensemble(recipe: Recipe, artifacts: Mapping[str, Artifact], *, single: bool = False) -> ServedEnsemble:
    """Describe what would be published: the engines of the ``<component>/engine`` steps, or one of all of them."""
    built = {name: artifacts[f"{name}/engine"] for name in recipe.components}
    samples = _samples(recipe, artifacts)
    ensemble = _ensemble(recipe, built, samples, lambda name: shipped_engine(recipe, name, built[name]))
    if single:
        return as_single(recipe, ensemble, artifacts[SINGLE_ENGINE])
    return with_cascade(recipe, _with_modalities(recipe, ensemble, artifacts))


def reference_ensemble(
    recipe: Recipe, artifacts: Mapping[str, Artifact], unrunnable: Mapping[str, str], *, single: bool = False
) -> ServedEnsemble:
    """Describe the FP32 reference: the same kind of engine, or the FP32 graph where that cannot run here.

    It is ``single`` as the candidate is: what is compared is what was done to components, not how they are joined. A
    cascade is something that was done: the reference asks the whole model for every row.
    """
    built = {
        name: artifacts[original_graph(recipe, name) if name in unrunnable else f"{name}/reference"]
        for name in recipe.components
    }
    samples = _samples(recipe, artifacts)
    ensemble = _ensemble(recipe, built, samples, _engine_or_substitute(recipe, unrunnable), substituted=unrunnable)
    if single and SINGLE_REFERENCE in artifacts:
        return as_single(recipe, ensemble, artifacts[SINGLE_REFERENCE])
    return _with_modalities(recipe, without_cascade(recipe, ensemble), artifacts)


def substitute_ensemble(
    recipe: Recipe, artifacts: Mapping[str, Artifact], unrunnable: Mapping[str, str]
) -> ServedEnsemble:
    """Describe the stand-in: the graph that each engine was built from, through ONNX Runtime."""
    built = {}
    for name in recipe.components:
        engine = artifacts[f"{name}/engine"]
        built[name] = _graph_of(engine) if name in unrunnable else engine
    onnxruntime = default_engine(Target.CPU)
    ensemble = _ensemble(
        recipe,
        built,
        _samples(recipe, artifacts),
        lambda name: onnxruntime if name in unrunnable else shipped_engine(recipe, name, built[name]),
        substituted=unrunnable,
    )
    return with_cascade(recipe, _with_modalities(recipe, ensemble, artifacts))


def _with_modalities(recipe: Recipe, ensemble: ServedEnsemble, artifacts: Mapping[str, Artifact]) -> ServedEnsemble:
    stand_ins_made = artifacts[STAND_INS].path if STAND_INS in artifacts else None
    found = with_modalities(recipe, ensemble, stand_ins_made)
    return found if found is ensemble else with_versions(found)


def _graph_of(engine: Artifact) -> Artifact:
    path = graph_path(engine)
    return replace(engine, format="onnx", path=path, sha256=file_sha256(path), beside=())


def _engine_or_substitute(recipe: Recipe, unrunnable: Mapping[str, str]) -> Callable[[str], MethodOptions]:
    onnxruntime: MethodOptions = default_engine(Target.CPU)
    return lambda name: onnxruntime if name in unrunnable else recipe.engine_options(name)


@dataclass(frozen=True)
class _Samples:
    """One sample of each component's inputs, as its export kept it; one of what clients send, where steps read it."""

    of_components: Mapping[str, Mapping[str, Array]]
    sent: Mapping[str, Array]


def _samples(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> _Samples:
    kept = {name: kept_example(artifacts[f"{name}/{EXPORT.name}"]) for name in recipe.components}
    return _Samples(kept, first_sample(recipe, artifacts))


def _ensemble(
    recipe: Recipe,
    built: Mapping[str, Artifact],
    samples: _Samples,
    engine_of: Callable[[str], MethodOptions],
    substituted: Collection[str] = (),
) -> ServedEnsemble:
    components = tuple(
        replace(
            _component(recipe, name, built[name], engine_of(name), substitute=name in substituted),
            sample=samples.of_components[name],
        )
        for name in topological_order(recipe.components)
    )
    specs = {
        tensor: replace(spec, name=tensor)
        for part in components
        for spec in part.artifact.outputs
        for tensor in [part.outputs[spec.name]]
    }
    steps, specs = served_steps(recipe, specs, samples.sent)
    outputs = tuple(specs[name] for name in recipe.outputs)
    ensemble = ServedEnsemble(recipe.name, recipe.input_specs, outputs, components, steps=steps)
    buckets = {name: spec.bucket for name, spec in recipe.sizes.items() if spec.bucket is not None}
    return cached(with_stream(recipe, bucketed(ensemble, buckets)), recipe.response_cache)


def _component(
    recipe: Recipe, name: str, artifact: Artifact, engine: MethodOptions, *, substitute: bool
) -> ServedComponent:
    component, module = recipe.components[name], engines.METHODS.of(engine)
    inputs = {key: wire.tensor for key, wire in component.inputs.items()}
    outputs = {key: wire.tensor for key, wire in component.outputs.items()}
    return ServedComponent(
        name=model_name(recipe.name, name),
        backend=module.BACKEND,
        filename=module.FILENAME,
        artifact=artifact,
        inputs=inputs,
        outputs=outputs,
        serving=_with_instances(component.serving, substitute=substitute),
        parameters=module.serving(engine),
        input_rules=_input_rules(recipe, inputs, artifact),
        labels={key: recipe.root / file for key, file in _labels(recipe, outputs)},
    )


def _with_instances(serving: Serving, *, substitute: bool) -> Serving:
    """Write one instance out: left open, Triton's backends choose differently (two for onnxruntime on a CPU).

    A substitute runs where it can: the GPU that the recipe may ask for is the one that is missing here.
    """
    asked = serving.instance_group
    if asked is not None and not substitute:
        return serving
    group = InstanceGroup(count=1 if asked is None else asked.count)
    return serving.model_copy(update={"instance_group": group})


def _input_rules(recipe: Recipe, inputs: Mapping[str, str], artifact: Artifact) -> dict[str, dict[str, Any]]:
    """Say what requests must keep, and what clients call a component's inputs."""
    rules: dict[str, dict[str, Any]] = {}
    specs = {spec.name: spec for spec in artifact.inputs}
    counts = Counter(name for spec in specs.values() for name in {size.name for size in spec.sizes if size})
    for key, tensor in inputs.items():
        rules[key] = {} if key == tensor else {"tensor": tensor}
        source = recipe.sources().get(tensor)
        if source is not None and source.range is not None:
            rules[key]["range"] = list(source.range)
        # What components wrote has lengths that were held to their bounds; where two of them meet they must be equal.
        held = [size if size and (source is not None or counts[size.name] > 1) else None for size in specs[key].sizes]
        if any(held):
            rules[key]["sizes"] = [size and size.rule for size in held]
    return {key: rule for key, rule in rules.items() if rule}


def _labels(recipe: Recipe, outputs: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    for key, tensor in outputs.items():
        labels = recipe.outputs[tensor].labels if tensor in recipe.outputs else None
        if labels is not None:
            yield key, labels


def stand_ins(recipe: Recipe) -> dict[str, Path]:
    """Return the Python-based backends that a recipe's engines bring for a server without their own."""
    used = [recipe.engine_options(name) for name in recipe.components]
    used += [variant.options for name in recipe.components for variant in candidates(recipe, name)]
    found: dict[str, Path] = {}
    for options in used:
        found |= stand_in_of(engines.METHODS.of(options))
    return found
