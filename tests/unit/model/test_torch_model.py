"""Models are loaded safely, and each way a recipe can be wrong about one has its own message."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmdeploy.core.errors import ModelError
from mmdeploy.model.torch_model import TorchChain, WiredModule, call_module, load_model, submodule

MODEL = """
import torch
from torch import nn
from layers import Doubled

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Sequential(nn.Linear(4, 2), Doubled())

    def forward(self, x):
        return self.second(self.first(x))

def build():
    torch.manual_seed(0)
    return Network()

def broken():
    return Network().missing

def nothing():
    return {"a": 1}

not_callable = 3
"""
LAYERS = "from torch import nn\nclass Doubled(nn.Module):\n    def forward(self, x):\n        return 2 * x\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "layers.py").write_text(LAYERS)
    return tmp_path


def load(root: Path, factory: str = "model.py:build", weights: str | None = None, **options) -> nn.Module:
    return load_model(factory, root=root, weights=Path(weights) if weights else None, **options)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.pth"])
def test_weights_are_loaded_and_the_model_is_in_eval_mode(root, name):
    state = {key: torch.full_like(value, 0.25) for key, value in load(root).state_dict().items()}
    save_file(state, root / name) if name.endswith("safetensors") else torch.save(state, root / name)
    model = load(root, weights=name)
    assert not model.training
    assert all(bool((value == 0.25).all()) for value in model.state_dict().values())


def test_installed_package_can_be_the_factory(tmp_path):
    assert isinstance(load(tmp_path, "torch.nn:Identity"), nn.Identity)


def test_two_recipes_with_files_of_the_same_name_do_not_mix(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "model.py").write_text("from layers import make\ndef build(): return make()\n")
    (other / "layers.py").write_text("from torch import nn\ndef make(): return nn.Tanh()\n")
    assert type(load(root)).__name__ == "Network"
    assert type(load(other)).__name__ == "Tanh"
    assert type(load(root)).__name__ == "Network"


def test_changed_sibling_is_read_again(root):
    load(root)
    (root / "layers.py").write_text(LAYERS.replace("2 * x", "30 * x"))
    doubled = load(root).second[1]
    assert float(doubled(torch.ones(()))) == 30


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("modle.py:build", "there is no file modle.py"),
        ("model.py:biuld", "model.py has no 'biuld'"),
        ("model.py:not_callable", "is an int, not a callable"),
        ("model.py", "is not a reference to a callable"),
        ("no_such_package.model:build", "there is no module 'no_such_package'"),
        ("model.py:broken", "the factory model.py:broken failed: AttributeError at model.py:20 (broken)"),
        ("model.py:nothing", "returned a dict, expected a torch.nn.Module"),
    ],
)
def test_bad_factory(root, factory, message):
    with pytest.raises(ModelError) as refused:
        load(root, factory)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"valeus": 1}, "forward has no parameter 'valeus': did you mean 'values'? accepted: mask, values"),
        ({"values": 1}, "forward needs 'mask' as well"),
        ({"values": 1, "mask": 1}, "inputs are passed as keyword arguments"),
    ],
)
def test_names_that_forward_has_not_are_told_with_those_that_it_has(given, hint):
    class Module(nn.Module):
        def forward(self, values, mask):
            raise TypeError("no")

    with pytest.raises(ModelError) as refused:
        call_module(Module(), {name: torch.ones(2) for name in given}, ["out"], name="left")
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("import sklern", "did you mean 'sklearn'? otherwise install what provides 'sklern' into "),
        ("from towers import Tower", "or have towers.py in "),
        ("import twer", "did you mean 'tower'? otherwise install"),
        ("import sys\nsys.exit(2)", "belongs under `if __name__"),
        ("def build(): raise SystemExit(2)", "belongs under `if __name__"),
        ("import torch.nnn", "'torch' is there without it"),
        ("def build(config): ...", "or name a function that calls it: def mine(): return build("),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(tmp_path, code, hint):
    (tmp_path / "tower.py").write_text("")
    (tmp_path / "model.py").write_text(f"{code}\n")
    with pytest.raises(ModelError) as refused:
        load(tmp_path)
    assert hint in str(refused.value.hint)


def test_nearest_names_are_offered(root):
    with pytest.raises(ModelError) as refused:
        load(root, "model.py:biuld")
    assert refused.value.hint is not None and "did you mean 'build'?" in refused.value.hint
    with pytest.raises(ModelError) as refused:
        load(root, "modle.py:build")
    assert refused.value.hint is not None and "did you mean 'model.py'?" in refused.value.hint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def build(:\n", "SyntaxError at model.py:1"),
        ("import numpy\nimport no_such_library\n", "ModuleNotFoundError at model.py:2"),
        ("x = 1\ny = x / 0\n", "ZeroDivisionError at model.py:2"),
    ],
)
def test_file_that_cannot_be_imported(tmp_path, source, message):
    (tmp_path / "model.py").write_text(source)
    with pytest.raises(ModelError) as refused:
        load(tmp_path)
    assert message in str(refused.value)


def test_weights_that_do_not_fit_name_keys_and_shapes(root):
    state = dict(load(root).state_dict())
    del state["first.bias"]
    state["extra"] = torch.zeros(1)
    state["second.0.weight"] = torch.zeros(5, 5)
    save_file(state, root / "weights.safetensors")
    with pytest.raises(ModelError) as refused:
        load(root, weights="weights.safetensors")
    text = str(refused.value)
    assert "1 missing: first.bias" in text
    assert "1 unexpected: extra" in text
    assert "1 of another shape: second.0.weight is [5, 5], the model has [2, 4]" in text


def test_many_wrong_keys_are_counted(tmp_path):
    save_file({f"layer.{index}": torch.zeros(1) for index in range(9)}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"9 unexpected: .*layer\.4, and 4 more"):
        load(tmp_path, "torch.nn:Identity", "weights.safetensors")


def test_tied_weights_may_be_stored_once(tmp_path):
    (tmp_path / "model.py").write_text(
        textwrap.dedent("""
        from torch import nn
        def build():
            model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
            model[1].weight = model[0].weight
            return model
        """)
    )
    state = dict(load(tmp_path).state_dict())
    del state["1.weight"]
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "weights.safetensors")
    load(tmp_path, weights="weights.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x00" * 100])
def test_damaged_weights(root, name, content):
    (root / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        load(root, weights=name)


def test_missing_and_unknown_weights_files(root):
    (root / "weights.safetensors").touch()
    with pytest.raises(ModelError, match="there is no weights file") as refused:
        load(root, weights="weight.safetensors")
    assert refused.value.hint is not None and "did you mean 'weights.safetensors'?" in refused.value.hint
    with pytest.raises(ModelError, match="unknown file type"):
        load(root, weights="weights.onnx")


def test_pickle_is_refused_unless_allowed_and_not_run(root):
    marker = root / "ran"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save(load(root).state_dict() | {"payload": Payload()}, root / "weights.pt")
    with pytest.raises(ModelError, match="would run pickled code, refused") as refused:
        load(root, weights="weights.pt")
    assert refused.value.hint is not None and "`allow_pickle: true` under `model:`" in refused.value.hint
    assert not marker.exists()


def test_whole_pickled_module_loads_when_allowed(root):
    model = load(root)
    torch.save(model, root / "weights.pt")
    with pytest.raises(ModelError, match="refused"):
        load(root, weights="weights.pt")
    assert load(root, weights="weights.pt", allow_pickle=True).state_dict().keys() == model.state_dict().keys()


def test_submodule(root):
    model = load(root)
    assert submodule(model, "") is model
    assert submodule(model, "second.0") is model.second[0]
    with pytest.raises(ModelError, match=r"submodule 'secnd': Network.secnd does not exist") as refused:
        submodule(model, "secnd")
    assert refused.value.hint is not None and "did you mean 'second'?" in refused.value.hint
    with pytest.raises(ModelError, match=r"first.weight is a Parameter, not a module"):
        submodule(model, "first.weight")


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = Encode()
        self.join = Join()
        self.pair = PairUp()


class Encode(nn.Module):
    def forward(self, x):
        return x + 1


class Join(nn.Module):
    def forward(self, left, right):
        return {"total": left + right, "unused": left}


class PairUp(nn.Module):
    def forward(self, x):
        return x, 2 * x


def chain(*, join_outputs=("total",), pair_outputs=("same", "double")) -> TorchChain:
    return TorchChain(
        Parts(),
        [
            WiredModule("encoder", "encode", {"x": "image"}, {"y": "embedding"}),
            WiredModule("join", "join", {"left": "embedding", "right": "image"}, {n: n for n in join_outputs}),
            WiredModule("pair", "pair", {"x": "total"}, {n: n for n in pair_outputs}),
        ],
    )


def test_chain_runs_components_as_they_are_wired():
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    image.flags.writeable = False
    written = chain().run({"image": image})
    assert set(written) == {"embedding", "total", "same", "double"}
    np.testing.assert_array_equal(written["total"], 2 * image + 1)
    np.testing.assert_array_equal(written["double"], 2 * (2 * image + 1))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.mean(), r"component all: output 'y' is \[\] for a batch of 2: it has no batch axis"),
        (lambda x: x.flatten(), r"output 'y' is \[6\] for a batch of 2"),
        (lambda x: x.to(torch.bfloat16), "output 'y' is bfloat16, which no client of Triton can read"),
    ],
)
def test_chain_gives_rows_that_clients_can_read(answer, message):
    part = nn.Module()
    part.forward = answer
    with pytest.raises(ModelError, match=message):
        TorchChain(part, [WiredModule("all", "", {"x": "x"}, {"y": "y"})]).run({"x": np.ones((2, 3), np.float32)})


def test_chain_stops_before_a_component():
    assert set(chain().run({"image": np.ones((1, 3), np.float32)}, upto="pair")) == {"embedding", "total"}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"pair_outputs": ("one",)}, "component pair: the module returns 2 values, the recipe declares 1 output"),
        ({"join_outputs": ("totl",)}, "component join: the module returns no 'totl'"),
    ],
)
def test_outputs_that_are_not_as_declared(outputs, message):
    with pytest.raises(ModelError) as refused:
        chain(**outputs).run({"image": np.ones((1, 3), np.float32)})
    assert message in str(refused.value)


def test_module_that_fails_names_component_and_line():
    with pytest.raises(ModelError, match=r"component encoder: the module failed on inputs z \[1\]"):
        TorchChain(Parts(), [WiredModule("encoder", "encode", {"z": "image"}, {"y": "e"})]).run(
            {"image": np.ones(1, np.float32)}
        )
