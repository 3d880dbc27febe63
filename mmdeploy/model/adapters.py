"""LoRA adapters, merged into the model by PEFT when it is loaded.

A merged layer is one of the model's own with other weights: W + (alpha / r) B A for plain LoRA, and what PEFT's other
forms of it (rsLoRA, DoRA, ranks by layer, biases, modules that were trained whole) make of W. Nothing of PEFT is left
in the model: modules, parameters, and what may be trained are those that the factory made.

Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, section 4.1.
"""

from __future__ import annotations

import importlib.util
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import EnvironmentUnfitError, ModelError
from mmdeploy.model.adapter_files import EXTRA, PEFT, files_of_adapter
from mmdeploy.model.state_dicts import listing, read_state_dict

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What the adapter is called in the model while it is merged: told from all that a model may be made of.
_NAME = "mmdeploy_merged"
#: How names begin in the file of an adapter, before those of the module that it was trained on.
_OUTER = "base_model.model."
#: How torch tells of a tensor that does not fit: its name, its shape, and that of the model's.
_OTHER_SHAPE = re.compile(r"size mismatch for (\S+): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)")
_LONGEST = 400
_WRONG_BASE = (
    "an adapter fits the model that it was trained on, and the path in `model.adapters` says which part that is"
)


def merge(model: nn.Module, module: nn.Module, folder: Path, *, allow_pickle: bool = False) -> None:
    """Merge a LoRA adapter into a part of a model, in place.

    Args:
        model: The whole model, in FP32.
        module: The part of it that the adapter was trained on.
        folder: The adapter's.
        allow_pickle: Whether its tensors may be in a file of arbitrary pickled objects, which runs code when read.

    Raises:
        EnvironmentUnfitError: When PEFT is not installed.
        ModelError: When the adapter is not whole, is not LoRA, does not fit the module, or cannot be merged. The model
            is of no use then.
    """
    _, file = files_of_adapter(folder)
    _require_peft(folder)
    tensors = read_state_dict(file, allow_pickle=allow_pickle)
    _check_types(module, tensors, folder)
    originals = dict(module.named_modules(remove_duplicate=False))
    trained = [(one, one.requires_grad) for one in model.parameters()]
    tied = _tied(model)
    tuner = _injected(module, folder)
    _load(module, tensors, folder)
    with _told(folder, "cannot be merged"):
        tuner.merge_and_unload(safe_merge=True)
    _put_back(module, originals)
    for parameter, flag in trained:
        parameter.requires_grad_(flag)
    _check_tied(tied, folder)


def _require_peft(folder: Path) -> None:
    if importlib.util.find_spec(PEFT) is None:
        raise EnvironmentUnfitError(
            f"adapter {folder.name} is merged by PEFT, which is not installed in this environment",
            hint=f"pip install {EXTRA}",
        )


def _check_types(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    import torch

    own = {one.dtype for one in module.parameters() if one.is_floating_point()}
    widths = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    taken = {kind for kind in widths if all(torch.promote_types(kind, one) is one for one in own)}
    other = [
        f"{name.removeprefix(_OUTER)} is {_shown(one.dtype)}" for name, one in tensors.items() if one.dtype not in taken
    ]
    if other:
        raise ModelError(
            f"adapter {folder.name} does not fit {type(module).__name__}:\n  {listing('of another type', other)}",
            hint=f"the model is {' and '.join(sorted(map(_shown, own)))}: save the adapter in that, or in less",
        )


def _shown(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _tied(model: nn.Module) -> list[tuple[list[str], nn.Parameter, Tensor]]:
    """Return the parameters that several modules have, with the names that they have there, and their values."""
    names: dict[int, tuple[list[str], nn.Parameter]] = {}
    for path, part in model.named_modules():  # each module once, so that one with several paths ties nothing
        for name, parameter in part.named_parameters(recurse=False):
            names.setdefault(id(parameter), ([], parameter))[0].append(f"{path}.{name}".lstrip("."))
    return [(found, one, one.detach().clone()) for found, one in names.values() if len(found) > 1]


def _check_tied(tied: list[tuple[list[str], nn.Parameter, Tensor]], folder: Path) -> None:
    """Refuse a change of weights that other modules have, too: unmerged, the adapter leaves those as they are."""
    import torch

    for names, parameter, before in tied:
        if not torch.equal(parameter.detach(), before):
            raise ModelError(
                f"adapter {folder.name} changes {names[0]}, which is tied to {names[1]}: merged, it would change both",
                hint="give each its own weights in the factory, as nn.Parameter(tied.clone()) does",
            )


def _injected(module: nn.Module, folder: Path) -> Any:
    """Put PEFT's layers around those that the adapter names; what these draw at random is drawn for itself."""
    import torch
    from peft import LoraConfig, LoraModel

    with _told(folder, f"does not fit {type(module).__name__}"), torch.random.fork_rng(devices=[]):
        return LoraModel(module, LoraConfig.from_pretrained(str(folder)), _NAME)


def _load(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    from peft import set_peft_model_state_dict

    inner = {name.removeprefix(_OUTER): one for name, one in tensors.items()}
    misfit = f"adapter {folder.name} does not fit {type(module).__name__}"
    with _told(folder, f"does not fit {type(module).__name__}"):
        try:
            found = set_peft_model_state_dict(module, inner, adapter_name=_NAME)
        except RuntimeError as cause:
            if shapes := _OTHER_SHAPE.findall(str(cause)):
                told = [f"{_plain(name)} is [{own}], the model takes [{taken}]" for name, own, taken in shapes]
                raise ModelError(f"{misfit}:\n  {listing('of another shape', told)}", hint=_WRONG_BASE) from cause
            raise
    missing = [name for name in found.missing_keys if _NAME in name.split(".")]
    problems = [
        listing("missing", list(map(_plain, missing))),
        listing("unexpected", list(map(_plain, found.unexpected_keys))),
    ]
    if any(problems):
        raise ModelError(f"{misfit}:\n  " + "\n  ".join(filter(None, problems)), hint=_WRONG_BASE)


def _plain(name: str) -> str:
    return name.replace(f".{_NAME}", "")


def _put_back(module: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Put the module's own parts where others stand now, such as copies that were trained whole, with their values."""
    for path, part in originals.items():
        now = module.get_submodule(path)
        if now is not part:
            part.load_state_dict(now.state_dict())
            above, _, name = path.rpartition(".")
            originals[above]._modules[name] = part


@contextmanager
def _told(folder: Path, what: str) -> Iterator[None]:
    """Tell what PEFT does not take."""
    try:
        yield
    except ModelError:
        raise
    except Exception as cause:
        told = textwrap.shorten(_plain(f"{type(cause).__name__}: {cause}"), _LONGEST)
        raise ModelError(f"adapter {folder.name} {what}: {told}", hint=_WRONG_BASE) from cause
