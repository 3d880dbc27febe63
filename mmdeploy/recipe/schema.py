"""The recipe: its schema (pydantic, frozen, no extra keys).

Options of passes, engines and gates are the ``Options`` classes of their modules, told apart by ``method``;
the unions below are made from the registries of the packages, so a new module is in the schema by its entry, and what
others plug in is found when it is read (`mmdeploy.recipe.methods`). A section that is missing means "not done", but for
two that every component needs: ``export`` and ``engine``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, PrivateAttr, Tag
from pydantic.config import JsonDict

from mmdeploy import engines, export, gates, prune, quantize, recover
from mmdeploy.choice.options import AutoEngine, default_engine
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import MethodOptions
from mmdeploy.core.target import Target
from mmdeploy.model.sources import REFERENCE_PATTERN
from mmdeploy.plugins.registry import Registry
from mmdeploy.recipe.baseline import Baseline
from mmdeploy.recipe.cascade import Cascade
from mmdeploy.recipe.declared import (
    SIZE_PATTERN,
    Dim,
    InputSpec,
    OutputSpecOrNothing,
    Section,
    SizeName,
    SizeSpec,
    TensorName,
    Wire,
    plain_shape,
)
from mmdeploy.recipe.media import OWN_PATTERNS, model_outputs, prepared, with_sizes
from mmdeploy.recipe.media_union import Step
from mmdeploy.recipe.methods import union_of
from mmdeploy.recipe.missing import Subset
from mmdeploy.recipe.needs import Need
from mmdeploy.recipe.origin import Origin, folder_of_paths
from mmdeploy.recipe.stream import Stream
from mmdeploy.recipe.trained_model import CallableReference, Model
from mmdeploy.triton.options import ResponseCache, Serving

NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
MODULE_PATTERN = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"

#: What each pattern asks for, in words: messages show these instead of the regular expression.
PATTERN_MEANINGS: Mapping[str, str] = {
    **OWN_PATTERNS,
    REFERENCE_PATTERN: "a callable, as path.py:callable (beside the recipe) or package.module:callable",
    NAME_PATTERN: (
        "a name of letters, digits, '_', '-' and '.' that does not start with '.' or '-': "
        "Triton makes it a folder and a part of URLs"
    ),
    MODULE_PATTERN: "the attribute path of a submodule, such as encoders.image",
    SIZE_PATTERN: "a name of letters, digits and '_' that does not start with a digit",
}

ModelName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=200)]
# Emptiness of these is for `mmdeploy.recipe.wiring` to find, beside everything else.
NOT_EMPTY: JsonDict = {"minProperties": 1}
#: A pattern of file names; like a `Path`, it is relative to the folder of the file that it is written in.
Glob = Annotated[str, "glob"]


def _default(methods: Mapping[str, Any]) -> MethodOptions:
    method, module = next(iter(methods.items()))
    options: MethodOptions = module.Options(method=method)
    return options


#: Everything that a recipe may name by a method, by the room that has it.
REGISTRIES: Mapping[str, Registry[Any]] = {
    "prune": prune.METHODS,
    "recover": recover.METHODS,
    "export": export.METHODS,
    "quantize": quantize.METHODS,
    "engines": engines.METHODS,
    "gates": gates.METHODS,
}


if TYPE_CHECKING:
    PruneOptions = MethodOptions
    RecoverOptions = MethodOptions
    ExportOptions = MethodOptions
    QuantizeOptions = MethodOptions
    EngineOptions = MethodOptions
    GateOptions = MethodOptions
else:
    PruneOptions = union_of(prune.METHODS)
    RecoverOptions = union_of(recover.METHODS)
    ExportOptions = union_of(export.METHODS)
    QuantizeOptions = union_of(quantize.METHODS)
    EngineOptions = Annotated[
        Annotated[Literal["auto"], AfterValidator(lambda _: AutoEngine()), Tag("word")]
        | Annotated[union_of(engines.METHODS, AutoEngine), Tag("section")],
        Discriminator(lambda value: "word" if isinstance(value, str) else "section"),
    ]
    GateOptions = union_of(gates.METHODS)


class Data(Section):
    """Where samples come from. Each callable takes no arguments and gives feed dicts, labels beside them."""

    calibration: CallableReference | None = Field(
        None,
        description="Samples that quantization takes its ranges from.",
        examples=["data.py:calibration"],
    )
    evaluation: CallableReference | None = Field(
        None,
        description="Held-out samples that the gates judge on. A label is a number, an array, a string, a list of "
        "strings, or a dict of these by name.",
        examples=["data.py:evaluation"],
    )
    training: CallableReference | None = Field(
        None,
        description="Labelled samples that passes train on. It may take the epoch, from 0, as its one argument.",
        examples=["data.py:training"],
    )
    validation: CallableReference | None = Field(
        None,
        description="Labelled samples that training stops by and that searches choose by: never those that the gates "
        "judge on.",
        examples=["data.py:validation"],
    )
    loss: CallableReference | None = Field(
        None,
        description="Takes the ensemble's outputs by name and a batch of labels (numbers as a tensor, text and what "
        "varies in length in a list), and gives the mean loss. Without it: cross-entropy of the first output that is "
        "scored for class ids, squared error for other labels.",
        examples=["model.py:loss"],
    )
    files: tuple[Glob, ...] | None = Field(
        None,
        description="Globs of files that the callables read, for those that cannot be seen when they run. A change to "
        "one of them makes the steps that read data run again. Without it: the files that they were seen to read.",
        examples=[["digits.npz"]],
    )
    max_gib: float = Field(
        8.0,
        gt=0,
        allow_inf_nan=False,
        description="Largest size, in GiB, of a set of samples on disk; one that is larger is refused. Calibration, "
        "validation and evaluation sets are recorded once a build, in the store.",
    )


if TYPE_CHECKING:
    WireOrName = Wire
else:
    # Not a BeforeValidator: what follows one is no longer validated as JSON, where a list is a strict tuple.
    WireOrName = Annotated[
        Annotated[TensorName, AfterValidator(lambda name: Wire(tensor=name)), Tag("name")]
        | Annotated[Wire, Tag("wire")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "wire"),
    ]


class Component(Section):
    """A part of the model that becomes one model in Triton."""

    module: str = Field(
        pattern=MODULE_PATTERN,
        description="Attribute path of the submodule in the model.",
        examples=["image_encoder"],
    )
    inputs: dict[TensorName, WireOrName] = Field(
        min_length=1,
        description="By argument name of the module's forward: the ensemble's tensor that it reads.",
        examples=[{"pixels": "image"}],
    )
    outputs: dict[TensorName, WireOrName] = Field(
        min_length=1,
        description="In the order that forward returns them: the ensemble's tensor that each is written to.",
        examples=[{"embedding": "image_embedding"}],
    )
    export: ExportOptions = Field(
        default_factory=lambda: _default(export.METHODS.built_in),
        description="From PyTorch to a graph. Always done; the defaults where the section is missing.",
    )
    prune: PruneOptions | None = Field(None, description="Fewer weights. Not done where the section is missing.")
    recover: RecoverOptions | None = Field(
        None, description="Training after pruning, to win accuracy back. Not done where the section is missing."
    )
    quantize: QuantizeOptions | None = Field(None, description="To INT8. Not done where the section is missing.")
    engine: EngineOptions | None = Field(
        None,
        description="What runs it: an engine, or auto to have candidates measured. The default engine of the target "
        "where the section is missing.",
    )
    keep: Literal["if_it_pays", "always"] = Field(
        "if_it_pays",
        description="Whether a pruned or quantized engine, or one of lower precision, ships only if measured to be "
        "faster than the FP32 original within the accuracy budget, or always.",
    )
    serving: Serving = Field(default_factory=Serving, description="How Triton serves it.")

    @property
    def compressed(self) -> bool:
        """Whether a pass makes it smaller or coarser than the original."""
        return self.prune is not None or self.recover is not None or self.quantize is not None


class Recipe(Section):
    """One YAML file: a trained multimodal model, its data, and what is wanted of each component.

    Paths in it are relative to its own folder, or to ``folder``. With ``base`` it is a variant of another recipe: it
    is loaded whole, laid over that one, with ``base`` empty and every path relative to the folder of the base.
    """

    schema_version: Literal[1] = Field(description="Version of this schema.")
    name: ModelName = Field(description="Name of the ensemble in Triton.", examples=["spoken_digits"])
    target: Target = Field(description="What it is compiled for.")
    base: Path | None = Field(
        None,
        description="Another recipe that this is a variant of: what is not written here is taken from there, and null "
        "takes away what is written there. One level.",
        examples=["../recipe.yaml"],
    )
    folder: Path | None = Field(
        None,
        description="Folder that paths written in this file are relative to, if it is not the file's own.",
        examples=["../spoken_digits"],
    )
    needs: dict[ModelName, Need] = Field(
        default_factory=dict,
        description="What is not part of the recipe and must lie there before a build, by a name of your own, with the "
        "command that fetches it.",
        examples=[{"checkpoint": {"path": "checkpoint", "command": "hf download NAME --local-dir checkpoint"}}],
    )
    seed: int = Field(0, ge=0, lt=2**32, description="For everything random: examples, sampling, bootstrap.")
    model: Model = Field(description="The trained PyTorch model.")
    data: Data = Field(default_factory=Data, description="Where samples come from.")
    sizes: dict[SizeName, SizeSpec] = Field(
        default_factory=dict,
        description="Sizes that vary from sample to sample, by the name that shapes use, with their bounds.",
        examples=[{"tokens": {"min": 1, "max": 77}}],
    )
    inputs: dict[TensorName, InputSpec] = Field(
        json_schema_extra=NOT_EMPTY,
        description="What clients send, by the ensemble's tensor name.",
        examples=[{"image": {"dtype": "UINT8", "shape": [8, 8]}}],
    )
    preprocess: dict[ModelName, Step] = Field(
        default_factory=dict,
        description="Steps that make what components read of what clients send, such as pixels of a JPEG, by name; "
        "each becomes one model in Triton.",
        examples=[{"photo": {"method": "decode_image", "inputs": {"data": "photo"}, "outputs": {"pixels": "image"}}}],
    )
    components: dict[ModelName, Component] = Field(
        json_schema_extra=NOT_EMPTY,
        description="By name; each becomes one model in Triton and one step of the ensemble.",
    )
    postprocess: dict[ModelName, Step] = Field(
        default_factory=dict,
        description="Steps that make the answer of what components write, such as labels of scores, by name.",
    )
    outputs: dict[TensorName, OutputSpecOrNothing] = Field(
        json_schema_extra=NOT_EMPTY,
        description="What clients get, by the ensemble's tensor name. Gates see the first where they name none.",
        examples=[{"logits": {}}],
    )
    layout: Literal["ensemble", "single", "auto"] = Field(
        "ensemble",
        description="ensemble: each component is a model, and a step of the ensemble. single: their graphs are one "
        "model, so that no request passes between steps. auto: both are measured, and the faster one ships; an "
        "ensemble where they cannot be one.",
    )
    cascade: Cascade | None = Field(
        None,
        description="Cheap components that answer alone where they are sure. Every row runs the whole model where the "
        "section is missing.",
    )
    stream: Stream | None = Field(
        None,
        description="Samples that clients send in chunks, with what is kept between them. Each request is a whole "
        "sample where the section is missing.",
    )
    response_cache: ResponseCache | None = Field(
        None, description="Room for answers that are kept. Where the section is missing a server has the room it likes."
    )
    gates: tuple[GateOptions, ...] = Field(
        (),
        description="What the served ensemble must prove before it is published. All run; then one verdict.",
    )
    baseline: Baseline | None = Field(
        None,
        description="An accepted build that the build is judged by, too, besides its gates. Not done where the section "
        "is missing.",
        examples=[{"file": "baseline.json", "max_drop": 0.005}],
    )
    subsets: tuple[Subset, ...] | None = Field(
        None,
        description="What gates leave out of requests besides judging them whole. Each optional input alone where the "
        "key is missing.",
        examples=[[{"without": ["audio"]}]],
    )
    _origin: Origin | None = PrivateAttr(default=None)
    _written: Recipe | None = PrivateAttr(default=None)

    @property
    def origin(self) -> Origin:
        """Where it was read from.

        Raises:
            ValueError: If it was made in memory and not by `mmdeploy.recipe.loader.load_recipe`.
        """
        if self._origin is None:
            raise ValueError("this recipe was not read from a file: use mmdeploy.recipe.loader.load_recipe")
        return self._origin

    @property
    def written(self) -> Recipe:
        """The recipe as people wrote it: `sizes` that are padded are steps of ``preprocess`` in what is built."""
        return self if self._written is None else self._written

    @property
    def root(self) -> Path:
        """The folder that paths in the recipe are relative to, absolute."""
        return folder_of_paths(self.origin.path, self.folder)

    @property
    def max_batch_size(self) -> int:
        """The ensemble's: the smallest of its components'."""
        return min(component.serving.max_batch_size for component in self.components.values())

    def tensor(self, name: str, dtype: str, shape: tuple[Dim, ...]) -> TensorSpec:
        """Describe a tensor that the recipe declares, with what it says of the sizes that vary."""
        known = self.sizes  # a name that is not among them is for `validate` to find
        sizes = tuple(known[dim].named(dim) if isinstance(dim, str) and dim in known else None for dim in shape)
        return TensorSpec(name, dtype, plain_shape(shape), sizes if any(sizes) else ())

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """What clients send."""
        return tuple(self.tensor(name, spec.dtype, spec.shape) for name, spec in self.inputs.items())

    def sources(self) -> dict[str, InputSpec]:
        """Return what the PyTorch components read from outside, by the ensemble's tensor name.

        That is what clients send and, behind ``preprocess``, what its steps write.
        """
        if not self.preprocess:
            return dict(self.inputs)
        known = dict(self.inputs) | prepared(self.preprocess, self.inputs)
        wires = [wire for part in self.components.values() for wire in part.inputs.values()]
        return {name: with_sizes(known[name], wires, name) for name in known if name in {one.tensor for one in wires}}

    @property
    def model_outputs(self) -> tuple[str, ...]:
        """The ensemble's outputs as components write them: of one that ``postprocess`` makes, what that is made of."""
        return model_outputs(tuple(self.outputs), self.postprocess)

    @property
    def source_specs(self) -> tuple[TensorSpec, ...]:
        """What the PyTorch components read from outside."""
        return tuple(self.tensor(name, spec.dtype, spec.shape) for name, spec in self.sources().items())

    def engine_options(self, component: str) -> MethodOptions:
        """Return the options of a component's engine: its own, or the defaults of the target's engine.

        For ``engine: auto`` those are of the engine that the candidates are measured against.
        """
        chosen = self.components[component].engine
        if chosen is not None and not isinstance(chosen, AutoEngine):
            return chosen
        return default_engine(self.target)

    def automatic_engine(self, component: str) -> AutoEngine | None:
        """Return how to choose a component's engine; None when the recipe names it, or leaves it to the target."""
        chosen = self.components[component].engine
        return chosen if isinstance(chosen, AutoEngine) else None
