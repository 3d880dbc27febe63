"""LoRA adapters are merged as PEFT answers unmerged, leave nothing of PEFT, and are refused where they do not fit."""

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from mmdeploy.core.errors import EXIT_ENVIRONMENT, EnvironmentUnfitError, ModelError
from mmdeploy.model import held_model
from mmdeploy.model.torch_model import identity, load_model

MODEL = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.embed = nn.Embedding(5, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.head = nn.Linear(width, 3)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)

class Whole(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.text, self.head = encoder, encoder.head
        self.text.embed.requires_grad_(False)

def encoder(width=6):
    torch.manual_seed(0)
    return Encoder(width)

def build():
    return Whole(encoder())

def wider():
    return Whole(encoder(8))

def deeper():
    whole = build()
    whole.text.layers.append(nn.Linear(6, 6))
    return whole

def tied():
    whole = build()
    whole.text.layers[0].weight = whole.text.layers[1].weight
    return whole

def half():
    return build().bfloat16()

def none():
    return nn.Sequential(nn.Linear(2, 2))
"""
IDS = torch.arange(5)[None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


@pytest.fixture
def adapter(root: Path) -> Callable[..., PeftModel]:
    """Makes an adapter of the encoder in the folder ``lora``, and returns the encoder with it, unmerged."""

    def make(**options: object) -> PeftModel:
        options = {"r": 2, "lora_alpha": 6, "target_modules": ["layers.0", "layers.1"]} | options
        torch.manual_seed(1)
        model = get_peft_model(load_model("model.py:encoder", root=root, weights=None), LoraConfig(**options)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.normal_(0, 0.5)
        model.save_pretrained(root / "lora")
        return model

    return make


def load(root: Path, factory: str = "build", path: str = "text", **options: object) -> nn.Module:
    return load_model(f"model.py:{factory}", root=root, weights=None, adapters={path: Path("lora")}, **options)


def test_a_merged_layer_is_w_plus_scaled_b_a(root: Path, adapter: Callable[..., PeftModel]) -> None:
    unmerged = adapter()
    before, after = load_model("model.py:build", root=root, weights=None), load(root)
    tensors = load_file(root / "lora" / "adapter_model.safetensors")
    for index in (0, 1):
        a, b = (tensors[f"base_model.model.layers.{index}.lora_{one}.weight"] for one in "AB")
        expected = before.text.layers[index].weight + 6 / 2 * b @ a
        torch.testing.assert_close(after.text.layers[index].weight, expected)
        assert (expected - before.text.layers[index].weight).abs().max() > 0.1
    torch.testing.assert_close(after.text(IDS), unmerged(IDS))


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "bias": "all", "rank_pattern": {"layers.1": 3}, "alpha_pattern": {"layers.0": 1}},
        {"use_dora": True},
        {"target_modules": ["layers.0", "embed"]},
        {"modules_to_save": ["head"]},
        {"init_lora_weights": "pissa"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_forms_answer_as_unmerged_and_leave_nothing_behind(
    root: Path, adapter: Callable[..., PeftModel], options: dict[str, object]
) -> None:
    unmerged = adapter(**options)
    before = load_model("model.py:build", root=root, weights=None)
    torch.manual_seed(5)
    after = load(root)
    torch.testing.assert_close(after.text(IDS), unmerged(IDS), atol=1e-5, rtol=1e-5)
    assert after.head is after.text.head, "what holds a part of the model has the part that was adapted"
    parts = [dict(model.named_modules()) for model in (before, after)]
    assert {name: type(one) for name, one in parts[0].items()} == {name: type(one) for name, one in parts[1].items()}
    assert all({*vars(parts[0][name])} == {*vars(parts[1][name])} for name in parts[0])
    flags = [{name: one.requires_grad for name, one in model.named_parameters()} for model in (before, after)]
    assert flags[0] == flags[1] and not flags[0]["text.embed.weight"]
    torch.manual_seed(0)
    load_model("model.py:build", root=root, weights=None)
    expected = torch.rand(1)
    load(root)
    assert torch.rand(1) == expected, "what PEFT draws does not move the generator"


def test_a_clip_of_transformers_with_an_adapter_on_the_whole_of_it(root: Path) -> None:

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    (root / "clip.py").write_text(
        textwrap.dedent(f"""
        import torch
        from transformers import CLIPConfig, CLIPModel
        def build():
            torch.manual_seed(0)
            text = {small} | {{"vocab_size": 9, "max_position_embeddings": 4, "eos_token_id": 8, "bos_token_id": 7}}
            vision = {small} | {{"image_size": 8, "patch_size": 4}}
            return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
        """)
    )
    options = LoraConfig(
        r=2, target_modules=["q_proj", "fc1", "visual_projection"], modules_to_save=["text_projection"]
    )
    unmerged = get_peft_model(load_model("clip.py:build", root=root, weights=None), options).eval()
    with torch.no_grad():
        for name, parameter in unmerged.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.5)
    unmerged.save_pretrained(root / "lora")
    merged = load_model("clip.py:build", root=root, weights=None, adapters={"": Path("lora")})
    given = {"input_ids": torch.tensor([[7, 1, 2, 8]]), "pixel_values": torch.rand(1, 3, 8, 8)}
    plain = load_model("clip.py:build", root=root, weights=None)
    for name in ("text_embeds", "image_embeds"):
        expected = unmerged(**given)[name]
        torch.testing.assert_close(merged(**given)[name], expected, atol=1e-5, rtol=1e-5)
        assert (plain(**given)[name] - expected).abs().max() > 0.01


def test_several_are_merged_in_their_order_after_the_weights(root: Path, adapter: Callable[..., PeftModel]) -> None:
    adapter()
    once = load(root)
    state = once.state_dict()
    save_file({name: state[name].clone() for name in state if not name.startswith("head")}, root / "w.safetensors")
    twice = load_model("model.py:build", root=root, weights=Path("w.safetensors"), adapters={"text": Path("lora")})
    plain = load_model("model.py:build", root=root, weights=None)
    step = once.text.layers[0].weight - plain.text.layers[0].weight
    torch.testing.assert_close(twice.text.layers[0].weight, plain.text.layers[0].weight + 2 * step)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_merged_in_fp32(root: Path, adapter: Callable[..., PeftModel], kind: torch.dtype) -> None:
    adapter()
    file = root / "lora" / "adapter_model.safetensors"
    narrow = {name: one.to(kind) for name, one in load_file(file).items()}
    save_file({name: one.float() for name, one in narrow.items()}, file)
    expected = load(root)
    save_file(narrow, file)
    merged = load(root)
    assert torch.equal(merged.text.layers[0].weight, expected.text.layers[0].weight)
    assert {one.dtype for one in load(root, "half").parameters()} == {torch.float32}


def changed(root: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = root / "lora" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def test_what_does_not_fit_is_told_by_name(root: Path, adapter: Callable[..., PeftModel]) -> None:
    def refused(message: str, *load_arguments: str) -> None:
        with pytest.raises(ModelError) as told:
            load(root, *load_arguments)
        assert message in str(told.value)
        assert told.value.hint

    adapter()
    refused("adapter lora does not fit Sequential: ", "none", "")
    refused("Target modules ", "none", "")
    refused("layers.0.lora_A.weight is [2, 6], the model takes [2, 8]", "wider")
    refused("adapter lora does not fit Whole:\n  4 missing: text.layers.0.lora_A.weight, ", "build", "")
    refused("adapter lora changes text.layers.0.weight, which is tied to text.layers.1.weight", "tied")
    refused("submodule 'txt': Whole.txt does not exist", "build", "txt")
    changed(root, lambda tensors: {name: one for name, one in tensors.items() if "layers.1" not in name})
    refused("2 missing: layers.1.lora_A.weight, layers.1.lora_B.weight")
    adapter(target_modules=r"layers\.\d")
    refused("2 missing: layers.2.lora_A.weight, layers.2.lora_B.weight", "deeper")
    changed(root, lambda tensors: tensors | {"base_model.model.tail.lora_A.weight": torch.zeros(2, 6)})
    refused("1 unexpected: tail.lora_A.weight")
    changed(root, lambda tensors: {name: one.double() for name, one in tensors.items()})
    refused("of another type: layers.0.lora_A.weight is float64, ")
    adapter()
    config = json.loads((root / "lora" / "adapter_config.json").read_text())
    activated = config | {"task_type": "CAUSAL_LM", "alora_invocation_tokens": [1, 2]}
    (root / "lora" / "adapter_config.json").write_text(json.dumps(activated))
    refused("adapter lora cannot be merged: NotImplementedError: aLoRA does not support")
    adapter()
    changed(root, lambda tensors: {name: one * float("nan") for name, one in tensors.items()})
    refused("adapter lora cannot be merged: ValueError: NaNs detected in the merged weights")


def test_what_is_no_adapter_is_told(root: Path, adapter: Callable[..., PeftModel]) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ModelError) as told:
            load(root)
        assert message in str(told.value)
        assert told.value.hint

    folder = root / "lora"
    refused(f"adapter lora: {folder} is not there")
    folder.touch()
    refused(f"adapter lora: {folder} is a file: name the folder that it is in")
    folder.unlink()
    folder.mkdir()
    refused(f"adapter lora: there is no adapter_config.json in {folder}")
    for text in ("{", "[]", "{}"):
        (folder / "adapter_config.json").write_text(text)
        refused("adapter lora: adapter_config.json is not a configuration of PEFT: ")
    PromptTuningConfig(num_virtual_tokens=3).save_pretrained(folder)
    refused("adapter lora is of the kind PROMPT_TUNING, and only LORA is merged into the model")
    LoraConfig(layer_replication=[(0, 2), (1, 2)]).save_pretrained(folder)
    refused("adapter lora replicates layers")
    adapter()
    (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    refused("adapter_model.safetensors cannot be read as safetensors")
    (folder / "adapter_model.safetensors").unlink()
    refused("adapter lora: there is neither adapter_model.safetensors nor adapter_model.bin in ")


def test_a_pickle_is_refused_unless_allowed_and_not_run(root: Path, adapter: Callable[..., PeftModel]) -> None:
    adapter()
    expected = load(root)
    file = root / "lora" / "adapter_model.safetensors"
    tensors, pickled = load_file(file), file.with_suffix(".bin")
    file.unlink()
    torch.save(tensors, pickled)
    assert torch.equal(load(root).text(IDS), expected.text(IDS)), "tensors alone run nothing"
    marker = root / "ran"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"state_dict": tensors, "payload": Payload()}, pickled)
    with pytest.raises(ModelError, match="would run pickled code, refused"):
        load(root)
    assert not marker.exists()
    assert torch.equal(load(root, allow_pickle=True).text(IDS), expected.text(IDS))
    assert marker.exists()


def test_peft_is_asked_for_where_there_are_adapters_and_nowhere_else(
    root: Path, adapter: Callable[..., PeftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter()
    monkeypatch.setitem(sys.modules, "peft", None)
    load_model("model.py:build", root=root, weights=None)
    with pytest.raises(EnvironmentUnfitError, match="adapter lora is merged by PEFT, which is not installed") as told:
        load(root)
    assert told.value.hint == "pip install 'multimodal-deploy[adapters]'"
    assert told.value.exit_code == EXIT_ENVIRONMENT


def test_a_model_that_is_held_has_the_adapters_that_were_asked_for(
    root: Path, adapter: Callable[..., PeftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter()
    held = load(root)
    known = identity("model.py:build", root, None, {}, {"text": Path("lora")}, allow_pickle=False)
    monkeypatch.setattr(held_model, "_held", held_model.HeldModel(known, held, held_model.RandomStates({}), given=[]))
    assert load_model("model.py:build", root=root, weights=None) is not held
    assert load(root) is held


def test_an_adapter_that_was_saved_by_an_older_or_a_newer_peft(root: Path, adapter: Callable[..., PeftModel]) -> None:
    adapter()
    expected = load(root)
    file = root / "lora" / "adapter_config.json"
    config = json.loads(file.read_text())
    few = {name: config[name] for name in ("peft_type", "r", "lora_alpha", "target_modules")}
    for other in (few, config | {"of_tomorrow": None}):
        file.write_text(json.dumps(other))
        assert torch.equal(load(root).text(IDS), expected.text(IDS))
