"""The factory's file of a checkpoint: plain PyTorch and `transformers`, to be read and changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from mmdeploy.core.version import __version__
from mmdeploy.scaffold.pretrained_parts import Form, Part

#: The attribute that holds the model of `transformers` in what the factory builds.
INTO = "model"


def model_text(form: Form, checkpoint: str, *, renamed: bool) -> str:
    """Write the factory.

    Args:
        form: What is served.
        checkpoint: The expression of the checkpoint's folder, in Python.
        renamed: Whether `transformers` must load the weights, since the names in the files are older than its own.
    """
    lines = [*_head(form, checkpoint, renamed)]
    for part in form.parts:
        lines += ["", "", *_class(part)]
    lines += ["", "", *_whole(form, renamed), "", "", *_build(renamed)]
    return "\n".join(lines) + "\n"


def _head(form: Form, checkpoint: str, renamed: bool) -> Iterator[str]:
    yield f'"""{_name(form.served)} of a checkpoint, cut into what is served.'
    yield ""
    yield f"Proposed by mmdeploy init {__version__}: a start, to be changed. It answered as transformers' own does."
    yield '"""'
    yield ""
    yield from ["from pathlib import Path", "", "from torch import Tensor, nn"]
    names = [_name(form.served)] if renamed else sorted({type(form.served.config).__name__, _name(form.served)})
    for module, these in _modules(form, names).items():
        yield f"from {module} import {', '.join(these)}"
    yield ""
    yield f"CHECKPOINT = {checkpoint}"


def _modules(form: Form, names: list[str]) -> dict[str, list[str]]:
    """Return where each class is imported from."""
    found: dict[str, list[str]] = {}
    homes = {type(one).__name__: type(one).__module__ for one in (form.served, form.served.config)}
    for name in names:
        known = hasattr(sys.modules["transformers"], name)
        found.setdefault("transformers" if known else homes[name], []).append(name)
    return found


def _class(part: Part) -> Iterator[str]:
    yield f"class {part.class_name}(nn.Module):"
    yield f'    """{part.doc}"""'
    yield ""
    yield "    def __init__(self, model: nn.Module) -> None:"
    yield "        super().__init__()"
    if part.setup == (INTO,):
        yield f"        self.{INTO} = model"
    else:
        yield from (f"        self.{name} = model.{name}" for name in part.setup)
    yield ""
    arguments = ", ".join(f"{name}: Tensor" for name in part.reads)
    returned = "Tensor" if len(part.writes) == 1 else "dict[str, Tensor]"
    yield f"    def forward(self, {arguments}) -> {returned}:"
    yield from (f"        {line}" for line in part.body)


def _whole(form: Form, renamed: bool) -> Iterator[str]:
    yield "class Served(nn.Module):"
    yield f'    """The whole: {INTO} is what the checkpoint holds, each other attribute a component of the recipe."""'
    yield ""
    yield "    def __init__(self) -> None:"
    yield "        super().__init__()"
    more = "".join(f", {key}={value!r}" for key, value in _options(form.served).items())
    name = _name(form.served)
    if renamed:
        yield f"        self.{INTO} = {name}.from_pretrained("
        yield f'            CHECKPOINT, local_files_only=True, use_safetensors=True, dtype="float32"{more}'
        yield "        )"
    else:
        config = type(form.served.config).__name__
        yield f"        self.{INTO} = {name}({config}.from_pretrained(CHECKPOINT){more})"
    yield from (f"        self.{part.name} = {part.class_name}(self.{INTO})" for part in form.parts)


def _build(renamed: bool) -> Iterator[str]:
    yield "def build() -> nn.Module:"
    if renamed:
        yield '    """Return the model with its weights: transformers renames what the files hold, so it loads them."""'
    else:
        yield '    """Return the model; its weights are the recipe\'s to load."""'
    yield "    return Served().eval()"


def _name(model: Any) -> str:
    return type(model).__name__


def _options(model: Any) -> dict[str, Any]:
    """Return what the class is built with besides its config."""
    import inspect

    takes_pooler = "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    return {"add_pooling_layer": False} if takes_pooler and getattr(model, "pooler", None) is None else {}
