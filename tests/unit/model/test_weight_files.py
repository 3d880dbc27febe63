"""Checkpoints as they come: shards, folders, parts of a model, half precision."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmdeploy.core.errors import ModelError
from mmdeploy.model.torch_model import load_model
from mmdeploy.model.weight_files import files_of, is_covered, place

MODEL = """
import torch
from torch import nn

class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.body = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.body.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(4, dtype=torch.float64))

def tower():
    return Tower()

def headed():
    return nn.ModuleDict({"text": Tower(), "head": nn.Linear(4, 2)})

def half():
    return headed().to(torch.bfloat16)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def load(root: Path, factory: str, weights: str | None, **options: object) -> dict[str, torch.Tensor]:
    path = None if weights is None else Path(weights)
    model = load_model(f"model.py:{factory}", root=root, weights=path, **options)  # type: ignore[arg-type]
    return model.state_dict()


def state_of(root: Path, factory: str) -> dict[str, torch.Tensor]:
    """Other numbers than the factory's, each tensor with memory of its own."""
    state = {name: value.clone() for name, value in load(root, factory, None).items()}
    table = torch.arange(20.0).reshape(5, 4)
    return {name: table.clone() if value.shape == table.shape else value + 3 for name, value in state.items()}


def sharded(folder: Path, state: dict[str, torch.Tensor], *, suffix: str = "safetensors") -> None:
    """Write a checkpoint as Hugging Face's libraries do, a tensor a shard."""
    folder.mkdir()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = {name: f"{stem}-{index:05}-of-{len(state):05}.{suffix}" for index, name in enumerate(state)}
    for name, file in names.items():
        save = save_file if suffix == "safetensors" else torch.save
        save({name: state[name]}, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("named", ["ckpt", "ckpt/{stem}.{suffix}.index.json"])
def test_shards_are_one_checkpoint(root: Path, suffix: str, named: str) -> None:
    state = state_of(root, "headed")
    sharded(root / "ckpt", state, suffix=suffix)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    loaded = load(root, "headed", named.format(stem=stem, suffix=suffix))
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("file", ["model.safetensors", "other.safetensors", "pytorch_model.bin", "epoch_3.pt"])
def test_a_folder_with_one_file_is_that_file(root: Path, file: str) -> None:
    state = state_of(root, "tower")
    (root / "ckpt").mkdir()
    (root / "ckpt" / "config.json").write_text("{}")
    save_file(state, root / "ckpt" / file) if file.endswith("s") else torch.save(state, root / "ckpt" / file)
    assert files_of(root / "ckpt") == (root / "ckpt" / file,)
    assert torch.equal(load(root, "tower", "ckpt")["scale"], state["scale"])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "the folder holds no checkpoint"),
        ({"a.safetensors": "", "b.safetensors": ""}, "which file is meant? There are a.safetensors, b.safetensors"),
        ({"model.safetensors.index.json": "[]"}, "is no index of shards"),
        ({"model.safetensors.index.json": '{"weight_map": {}}'}, "name no shard"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "x.safetensors"}}'}, "shard x.safetensors is missing"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "../x.safetensors"}}'}, "no file of tensors beside it"),
    ],
)
def test_a_folder_that_cannot_be_taken_says_why(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError) as caught:
        files_of(tmp_path)
    assert says in caught.value.message


def test_a_tensor_in_two_shards_is_refused(root: Path) -> None:
    sharded(root / "ckpt", state_of(root, "tower"))
    shard = sorted((root / "ckpt").glob("*.safetensors"))[0]
    save_file(state_of(root, "tower"), shard)
    with pytest.raises(ModelError, match="of another shard once more"):
        load(root, "tower", "ckpt")


def test_the_weights_of_a_part_go_where_they_belong_and_the_rest_stays(root: Path) -> None:
    state = state_of(root, "tower")
    save_file(state, root / "tower.safetensors")
    torch.manual_seed(3)
    loaded = load(root, "headed", "tower.safetensors", prefix={"": "text"})
    assert all(torch.equal(loaded[f"text.{name}"], value) for name, value in state.items())
    assert loaded["head.weight"].shape == (2, 4)


@pytest.mark.parametrize("prefix", [{"backbone.text": "text"}, {"backbone.text.": "text."}, {"backbone": ""}])
def test_names_may_begin_otherwise_in_the_file(root: Path, prefix: dict[str, str]) -> None:
    state = state_of(root, "headed")
    moved = "text" if "backbone" not in prefix else ""
    named = {f"backbone.{name}" if name.startswith(moved) else name: value for name, value in state.items()}
    save_file(named, root / "w.safetensors")
    loaded = load(root, "headed", "w.safetensors", prefix=prefix)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("factory", "named", "hint"),
    [("headed", "{}", 'model.prefix: {"": text}'), ("tower", "module.{}", 'model.prefix: {module: ""}')],
)
def test_a_prefix_that_would_help_is_named(root: Path, factory: str, named: str, hint: str) -> None:
    save_file({named.format(name): value for name, value in state_of(root, "tower").items()}, root / "w.safetensors")
    with pytest.raises(ModelError, match="do not fit") as caught:
        load(root, factory, "w.safetensors")
    assert hint in str(caught.value.hint)


def test_what_the_part_lacks_is_still_missing(root: Path) -> None:
    state = state_of(root, "tower")
    del state["scale"]
    save_file(state, root / "w.safetensors")
    with pytest.raises(ModelError, match=r"1 missing: text\.scale"):
        load(root, "headed", "w.safetensors", prefix={"": "text"})


def test_the_longest_prefix_counts_and_names_are_taken_whole() -> None:
    prefix = {"a": "x", "a.b": "y.z"}
    assert [place(name, prefix) for name in ("a.c", "a.b.c", "ab.c", "c")] == ["x.c", "y.z.c", "ab.c", "c"]
    assert [is_covered(name, {"": "text"}) for name in ("text.a", "texts.a", "head")] == [True, False, False]
    assert is_covered("head", {"a": "text"}) and is_covered("head", {"": ""})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(root: Path, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in state_of(root, "headed").items()}
    torch.save(state, root / "w.pt")
    for factory in ("headed", "half"):
        model = load_model(f"model.py:{factory}", root=root, weights=Path("w.pt"))
        loaded = model.state_dict()
        assert {value.dtype for name, value in loaded.items() if "scale" not in name} == {torch.float32}
        assert torch.equal(loaded["text.embed.weight"], state["text.embed.weight"].float())
        text = model.get_submodule("text")
        assert text.embed.weight is text.body.weight, "tied tensors stay tied"


def test_what_is_not_in_half_precision_keeps_its_type(root: Path) -> None:
    assert load(root, "headed", None)["text.scale"].dtype == torch.float64


def test_what_a_checkpoint_holds_besides_can_be_left_out(root: Path) -> None:
    state = state_of(root, "tower")
    besides = {"cls.predictions.bias": torch.ones(3), "pooler.weight": torch.ones(2, 2)}
    save_file({f"bert.{name}": value for name, value in state.items()} | besides, root / "w.safetensors")
    prefix = {"bert": "", "cls": None, "pooler": None}
    loaded = load(root, "tower", "w.safetensors", prefix=prefix)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    with pytest.raises(ModelError, match=r"1 unexpected: pooler\.weight"):
        load(root, "tower", "w.safetensors", prefix={"bert": "", "cls": None})
    one_part = load(root, "headed", "w.safetensors", prefix={"": None, "bert": "text", "bert.scale": "text.scale"})
    assert torch.equal(one_part["text.embed.weight"], state["embed.weight"])


def test_several_parts_of_one_file_and_the_rest_the_factorys(root: Path) -> None:
    before, state = state_of(root, "headed"), state_of(root, "tower")
    mine = {"bert.embed.weight": state["embed.weight"], "bert.body.weight": state["body.weight"],
            "size": state["scale"] + 1, "cls.bias": torch.ones(3)}  # fmt: skip
    save_file({name: value.clone() for name, value in mine.items()}, root / "w.safetensors")
    prefix = {"bert": "text", "size": "text.scale", "cls": None}
    with pytest.raises(ModelError, match=r"2 missing: head\.weight, head\.bias") as caught:
        load(root, "headed", "w.safetensors", prefix=prefix)
    told = 'model.prefix: {"": null, bert: text, size: text.scale, cls: null}'
    assert caught.value.hint == f"say that the rest of the model is the factory's: {told}"
    torch.manual_seed(3)
    loaded = load(root, "headed", "w.safetensors", prefix={"": None, **prefix})
    assert torch.equal(loaded["text.embed.weight"], state["embed.weight"])
    assert torch.equal(loaded["text.scale"], state["scale"] + 1)
    assert loaded["head.weight"].shape == before["head.weight"].shape


def test_parts_that_a_model_has_no_place_for_are_named(root: Path) -> None:
    state = state_of(root, "tower") | {"cls.bias": torch.ones(3), "cls.dense.weight": torch.ones(3)}
    save_file(state, root / "w.safetensors")
    with pytest.raises(ModelError, match="do not fit") as caught:
        load(root, "tower", "w.safetensors")
    assert "model.prefix: {cls: null}" in str(caught.value.hint)
