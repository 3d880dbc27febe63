"""A component's module survives being resized, saved and loaded again from the recipe's own code."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import ModelError
from mmdeploy.core.facts import as_metadata
from mmdeploy.model.torch_component import (
    ComponentFacts,
    component_facts,
    in_folder,
    load_component,
    original_component,
    save_component,
)

SOURCE = """
import torch
from torch import nn

class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = 4
        self.first = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.second = nn.Linear(16, 8)
        self.tied = nn.Linear(8, 16)
        self.tied.weight = self.first.weight
        self.register_buffer("scale", torch.ones(16), persistent=False)

    def forward(self, x):
        return self.second(self.norm(self.first(x)) * self.scale) + self.tied(x)[:, :8]

class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()

def build():
    torch.manual_seed(0)
    return Whole()
"""


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "model.py").write_text(SOURCE)
    facts = ComponentFacts("model.py:build", tmp_path, None, "part", ("x",), ("y",))
    return Artifact("torch", tmp_path / "model.py", "", (), (), "recipe", as_metadata(facts))


def halve(module: torch.nn.Module) -> None:
    """Keep every second hidden unit, as structured pruning would."""
    keep = torch.arange(0, 16, 2)
    for layer in (module.first, module.tied):
        layer.out_features = 8
        layer.bias = torch.nn.Parameter(layer.bias[keep].detach())
    module.first.weight = module.tied.weight = torch.nn.Parameter(module.first.weight[keep].detach())
    module.second.weight = torch.nn.Parameter(module.second.weight[:, keep].detach())
    module.second.in_features = 8
    module.norm.normalized_shape = (8,)
    module.norm.weight = torch.nn.Parameter(module.norm.weight[keep].detach())
    module.norm.bias = torch.nn.Parameter(module.norm.bias[keep].detach())
    module.scale = module.scale[keep]
    module.heads = 2


def test_a_resized_module_answers_the_same_after_loading(artifact: Artifact, tmp_path: Path) -> None:
    module = load_component(artifact)
    halve(module)
    folder = tmp_path / "step"
    folder.mkdir()
    saved = save_component(module, before=artifact, folder=folder, produced_by="structured", metadata={"ratio": 0.5})
    again = load_component(saved)
    x = torch.randn(3, 8)
    assert torch.equal(again(x), module(x))
    assert (again.heads, again.first.out_features, again.second.in_features) == (2, 8, 8)
    assert again.tied.weight is again.first.weight
    assert saved.metadata["ratio"] == 0.5 and saved.produced_by == "structured"
    stored = load_component(Artifact.from_json(saved.to_json(), folder))
    assert stored.heads == 2 and torch.equal(stored(x), module(x))
    assert original_component(saved).heads == 4


def test_a_second_pass_starts_from_the_first(artifact: Artifact, tmp_path: Path) -> None:
    module = load_component(artifact)
    halve(module)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    first = save_component(module, before=artifact, folder=folders[0], produced_by="structured")
    trained = load_component(first)
    with torch.no_grad():
        trained.second.bias.add_(1.0)
    second = save_component(trained, before=first, folder=folders[1], produced_by="finetune")
    assert load_component(second).heads == 2
    assert torch.equal(load_component(second).second.bias, trained.second.bias)


def test_an_added_submodule_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    module = load_component(artifact)
    module.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="'extra'"):
        save_component(module, before=artifact, folder=tmp_path, produced_by="odd")


def test_code_that_changed_since_is_told(artifact: Artifact, tmp_path: Path) -> None:
    module = load_component(artifact)
    folder = tmp_path / "step"
    folder.mkdir()
    saved = save_component(module, before=artifact, folder=folder, produced_by="finetune")
    (tmp_path / "model.py").write_text(SOURCE.replace("self.tied.weight = self.first.weight", ""))
    with pytest.raises(ModelError, match=r"differ in 'tied\.weight'"):
        load_component(saved)


def test_what_a_pass_made_is_one_file_though_the_weights_were_several(artifact: Artifact, tmp_path: Path) -> None:
    sharded = replace(artifact, beside=("model-00002-of-00002.safetensors",))
    folder = tmp_path / "made"
    folder.mkdir()
    saved = save_component(load_component(artifact), before=sharded, folder=folder, produced_by="magnitude")
    assert saved.files == (saved.path,) and saved.size_bytes > 0


def test_code_of_the_folder_that_is_asked_for_is_taken(artifact: Artifact, tmp_path: Path) -> None:
    here = tmp_path / "elsewhere"
    shutil.copytree(component_facts(artifact).root, here, ignore=shutil.ignore_patterns("elsewhere"))
    for file in component_facts(artifact).root.glob("*.py"):
        file.write_text("raise RuntimeError('of another folder')")
    assert load_component(in_folder(artifact, here)) is not None
    graph = replace(artifact, format="onnx", metadata={})
    assert in_folder(graph, here) is graph
