"""A recipe of a `transformers` checkpoint: the factory, the processor, the data and the YAML, tried before written.

What the factory builds is held against the model that ``from_pretrained`` gives, on what the checkpoint's own processor
makes of made-up samples.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.errors import UsageError
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.model.torch_model import call_module, load_model, submodule
from mmdeploy.model.weight_files import Prefix
from mmdeploy.scaffold.pretrained_checkpoint import BY_HAND, Checkpoint, open_checkpoint, quiet
from mmdeploy.scaffold.pretrained_data_file import data_text
from mmdeploy.scaffold.pretrained_forms import tell_form
from mmdeploy.scaffold.pretrained_model_file import INTO, model_text
from mmdeploy.scaffold.pretrained_parts import Form, Part
from mmdeploy.scaffold.pretrained_readers import find_step
from mmdeploy.scaffold.pretrained_recipe_file import inputs_of, recipe_text
from mmdeploy.scaffold.pretrained_weights import prefix_for

_LEAST_COSINE = 0.9999


@dataclass(frozen=True)
class Asked:
    """What a person asked for.

    Attributes:
        pretrained: The checkpoint's folder.
        recipe: The file to write; model.py and data.py go beside it.
        name: Of the ensemble.
        target: What it is compiled for.
        samples: Folder with the user's files; None for ``samples`` beside the recipe.
        schema: Path of the JSON schema that editors read, relative to the recipe; None for no such line.
    """

    pretrained: Path
    recipe: Path
    name: str
    target: str = "cpu"
    samples: Path | None = None
    schema: str | None = None


@dataclass(frozen=True)
class Proposed:
    """What is to be written.

    Attributes:
        texts: By file.
        form: What is served of the checkpoint.
        samples: The folder that the user's files belong into.
    """

    texts: Mapping[Path, str]
    form: Form
    samples: Path


def propose(asked: Asked) -> Proposed:
    """Look at a checkpoint, and propose a recipe for it.

    Raises:
        UsageError: If it cannot be taken.
        EnvironmentUnfitError: If a package is missing.
    """
    checkpoint = open_checkpoint(asked.pretrained)
    with quiet():
        form = tell_form(checkpoint)
        for part in form.parts:
            if part.reader is not None:
                find_step(part.reader, asked.pretrained)
        prefix = prefix_for(asked.pretrained, checkpoint.model, form.served, INTO)
        _try(checkpoint, form, prefix)
    into = asked.recipe.parent
    where = _path(asked.pretrained, into)
    samples = asked.samples if asked.samples is not None else into / "samples"
    told = {"name": asked.name, "target": asked.target, "checkpoint": where, "schema": asked.schema}
    texts = {
        into / "model.py": model_text(form, _expression(where), renamed=prefix is None),
        into / "data.py": data_text(form, inputs_of(form), _expression(where), _expression(_path(samples, into))),
        asked.recipe: recipe_text(form, told, prefix),
    }
    return Proposed(texts, form, samples)


def _path(path: Path, start: Path) -> str:
    """Return a path as the recipe writes it: relative where it lies in the recipe's folder or beside it."""
    relative = os.path.relpath(path.absolute(), start.absolute())
    beside = Path(relative).parts[:2] != (os.pardir, os.pardir)
    return Path(relative).as_posix() if beside else str(path.absolute())


def _expression(path: str) -> str:
    return f"Path({path!r})".replace("'", '"') if Path(path).is_absolute() else f'Path(__file__).parent / "{path}"'


def _try(checkpoint: Checkpoint, form: Form, prefix: Prefix | None) -> None:
    """Build the factory as it will be written, load its weights, and compare what each part answers."""
    with temporary_folder("init") as root:
        text = model_text(form, _expression(str(checkpoint.folder.absolute())), renamed=prefix is None)
        (root / "model.py").write_text(text, encoding="utf-8")
        weights = None if prefix is None else checkpoint.folder.absolute()
        built = load_model("model.py:build", root=root, weights=weights, prefix=prefix or {})
        answers = _answers(checkpoint, form)
        for part in form.parts:
            _compare(part, submodule(built, part.name), answers, form.asked[part.name])


def _answers(checkpoint: Checkpoint, form: Form) -> list[Mapping[str, object]]:
    """Return feeds and answers of the whole model of `transformers`, for the first samples of each kind together."""
    import torch

    found: list[Mapping[str, object]] = []
    readers = [part.reader for part in form.parts if part.reader is not None]
    for samples in zip(*(reader.samples() for reader in readers), strict=False):
        feeds = {
            name: torch.from_numpy(array)
            for reader, sample in zip(readers, samples, strict=True)
            for name, array in reader.feeds(sample).items()
        }
        asked = checkpoint.model if len(readers) > 1 else form.served
        with torch.inference_mode():
            found.append({**feeds, **asked(**feeds)})
    return found


def _compare(part: Part, module: object, answers: list[Mapping[str, object]], asked: Mapping[str, str]) -> None:
    import torch

    for answer in answers:
        reads = {name: answer[name if part.reader is not None else f"{name}_embeds"] for name in part.reads}
        with torch.inference_mode():
            given = call_module(module, reads, tuple(part.writes), name=part.name)  # type: ignore[arg-type]
        for name, original in asked.items():
            wanted = answer[original]
            assert isinstance(wanted, torch.Tensor)
            cosine = torch.nn.functional.cosine_similarity(given[name].flatten(), wanted.flatten(), dim=0)
            if given[name].shape != wanted.shape or not float(cosine) >= _LEAST_COSINE:
                raise UsageError(
                    f"component {part.name}: {name} has a cosine of {float(cosine):.4f} to {original} of transformers, "
                    f"at least {_LEAST_COSINE} is wanted: this checkpoint is of a form that init does not know",
                    hint=f"{BY_HAND}, and compare it",
                )
