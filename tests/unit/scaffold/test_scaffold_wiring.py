"""Models of many forms, and what init makes of them: components, wires, names, or a clear word why not."""

import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmdeploy.core.errors import DataError, ModelError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.scaffold.files import write_files
from mmdeploy.scaffold.own_model import Found, Sources, find, texts_of

RECIPES = Path(__file__).parents[3] / "recipes"
HEAD = "import torch\nfrom dataclasses import dataclass\nfrom torch import nn\nimport torch.nn.functional as F\n"
DATA = """
import numpy as np

def samples():
    random = np.random.default_rng(0)
    for index in range(12):
        yield {"image": random.random(6, np.float32), "text": random.random(4, np.float32)}, index % 3
"""
LEFT_AND_RIGHT = DATA.replace('"image"', '"left"').replace('"text": random.random(4', '"right": random.random(6')
TOWERS = """
class Tower(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, values):
        return self.layers(values)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(16, 3)

    def forward(self, seen, read):
        return self.classify(torch.cat([seen, read], 1))


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_encoder, self.text_encoder, self.head = Tower(6), Tower(4), Head()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image, text):
        FORWARD


def build():
    return Both()
"""
PLAIN = "return self.head(self.image_encoder(image), read=self.text_encoder(text))"


def written(folder: Path, model: str, data: str = DATA, **more: Any) -> Sources:
    (folder / "model.py").write_text(HEAD + textwrap.dedent(model))
    (folder / "data.py").write_text(data)
    recipe = folder / "recipe.yaml"
    return Sources(str(folder / "model.py:build"), str(folder / "data.py:samples"), output=recipe, **more)


def both(folder: Path, forward: str, data: str = DATA) -> Sources:
    """Write a model of two towers and a head whose forward is this."""
    return written(folder, TOWERS.replace("FORWARD", textwrap.indent(textwrap.dedent(forward), " " * 8).strip()), data)


def recipe_of(found: Found, *components: str, **chosen: Any) -> dict[str, Any]:
    """Write the recipe, have it validated, and return what it says."""
    write_files(texts_of(found, found.choose(components, **chosen)), force=True)
    load_recipe(found.sources.recipe)
    fields: dict[str, Any] = yaml.safe_load(found.sources.recipe.read_text())
    return fields


def wires(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: part["inputs"] for name, part in fields["components"].items()}


def test_two_towers_and_a_head(tmp_path: Path) -> None:
    fields = recipe_of(find(both(tmp_path, PLAIN)))
    assert wires(fields) == {
        "image_encoder": {"values": "image"},
        "text_encoder": {"values": "text"},
        "head": {"seen": "image_embedding", "read": "text_embedding"},
    }
    assert fields["outputs"] == {"output": {}}
    assert fields["inputs"] == {name: {"dtype": "FP32", "shape": [size]} for name, size in (("image", 6), ("text", 4))}
    assert [gate["method"] for gate in fields["gates"]] == ["parity", "accuracy", "size", "latency"]
    assert fields["components"]["head"]["quantize"] == {"method": "static", "samples": 6}
    assert fields["data"] == {"calibration": "init_data.py:calibration", "evaluation": "init_data.py:evaluation"}


def test_the_spoken_digits_are_wired_as_in_the_recipe_that_people_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(RECIPES / "spoken_digits", folder, ignore=shutil.ignore_patterns("__pycache__", "variants"))
    theirs = yaml.safe_load((folder / "recipe.yaml").read_text())
    sources = Sources(
        str(folder / "model.py:build"),
        str(folder / "data.py:calibration"),
        str(folder / "data.py:evaluation"),
        folder / "weights.safetensors",
        output=folder / "recipe.yaml",
    )
    ours = recipe_of(find(sources), name="spoken_digits")
    assert ours["model"] == theirs["model"]
    assert ours["data"].items() <= theirs["data"].items()
    for name, part in theirs["components"].items():
        made = {wire["tensor"]: key for key, wire in ours["components"][name]["outputs"].items()}
        assert ours["components"][name]["module"] == part["module"]
        assert [wire["shape"] for wire in ours["components"][name]["outputs"].values()] == [
            wire["shape"] for wire in part["outputs"].values()
        ]
        assert set(ours["components"][name]["inputs"]) == set(part["inputs"])
        assert len(made) == 1
    fusion = ours["components"]["fusion"]["inputs"]
    assert fusion == {"image": "image_features", "audio": "audio_features"}
    assert ours["inputs"]["image"] == theirs["inputs"]["image"]
    assert [gate["method"] for gate in ours["gates"]] == [gate["method"] for gate in theirs["gates"]]


def test_a_siamese_encoder_is_two_components_of_one_module(tmp_path: Path) -> None:
    model = TOWERS.replace(
        "image, text):\n        FORWARD",
        "left, right):\n        " + ("return self.head(self.image_encoder(left), self.image_encoder(right))"),
    )
    fields = recipe_of(find(written(tmp_path, model, LEFT_AND_RIGHT)))
    assert wires(fields)["image_encoder_left"] == {"values": "left"}
    assert wires(fields)["image_encoder_right"] == {"values": "right"}
    assert {part["module"] for part in fields["components"].values()} == {"image_encoder", "head"}


def test_encoders_in_a_dict_of_modules_and_answers_in_a_dict(tmp_path: Path) -> None:
    model = """
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoders = nn.ModuleDict({"image": nn.Linear(6, 8), "text": nn.Linear(4, 8)})
            self.head = nn.Bilinear(8, 8, 3)

        def forward(self, image, text):
            one, other = self.encoders["image"](image), self.encoders["text"](text)
            return {"scores": self.head(one, other), "embedding": one}

    def build():
        return Many()
    """
    fields = recipe_of(find(written(tmp_path, model)))
    assert [part["module"] for part in fields["components"].values()] == ["encoders.image", "encoders.text", "head"]
    assert [*fields["outputs"]] == ["scores", "embedding"]
    assert wires(fields)["head"] == {"input1": "embedding", "input2": "text_embedding"}


def test_of_a_dict_that_an_encoder_returns_what_is_used_is_named_and_of_a_tuple_all(tmp_path: Path) -> None:
    model = """
    class Image(nn.Module):
        def __init__(self, returned):
            super().__init__()
            self.layer, self.returned = nn.Linear(6, 8), returned

        def forward(self, pixels):
            tokens = self.layer(pixels)
            pooled = tokens.tanh()
            if self.returned == "dict":
                return {"tokens": tokens, "pooled": pooled, "none": None}
            return tokens, pooled

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = Image("dict"), Image("tuple"), nn.Bilinear(8, 8, 3)

        def forward(self, image, text):
            return self.head(self.first(image)["pooled"], self.second(image)[1])

    def build():
        return Both()
    """
    fields = recipe_of(
        find(
            written(
                tmp_path,
                model.replace("image, text):", "image):"),
                DATA.replace(', "text": random.random(4, np.float32)', ""),
            )
        )
    )
    assert [*fields["components"]["first"]["outputs"]] == ["pooled"]
    assert [*fields["components"]["second"]["outputs"]] == ["tokens", "pooled"]
    assert [*fields["outputs"]] == ["output", "second_tokens"]  # what nothing takes Triton would refuse


@pytest.mark.parametrize(
    ("forward", "paths"),
    [
        ("return self.head(F.normalize(self.image_encoder(image)), self.text_encoder(text)) * self.scale",
         ["image_encoder", "text_encoder", "head_part"]),
        ("a, b = self.image_encoder(image), self.text_encoder(text)\nreturn {'score': (a * b).sum(-1, keepdim=True)}",
         ["image_encoder", "text_encoder", "head_part"]),
        ("return self.head(self.image_encoder(image / 255 - 0.5), self.text_encoder(text)).softmax(-1)",
         ["image_encoder_part", "text_encoder", "head_part"]),
    ],
    ids=["between", "at the end", "before an encoder"],
)  # fmt: skip
def test_what_lies_between_modules_is_written_out_as_a_module(tmp_path: Path, forward: str, paths: list[str]) -> None:
    found = find(both(tmp_path, forward))
    fields = recipe_of(found)
    assert [part["module"] for part in fields["components"].values()] == paths
    assert fields["model"]["factory"] == "init_model.py:build"
    assert "TODO" not in (tmp_path / "recipe.yaml").read_text()
    assert "# The model's own modules alone make no components: " in (tmp_path / "recipe.yaml").read_text()
    compile((tmp_path / "init_model.py").read_text(), "init_model.py", "exec")


def test_a_part_that_takes_an_input_and_what_a_component_of_its_name_gives(tmp_path: Path) -> None:
    model = """
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.left, self.right = (nn.Sequential(nn.Linear(6, 8), nn.ReLU()) for _ in range(3))
            self.out = nn.Linear(24, 2)

        def forward(self, left, right):
            both = self.shared(left) - self.shared(right)
            return self.out(torch.cat([both, self.left(left), self.right(right)], 1)) + left.mean(1, keepdim=True)

    def build():
        return Both()
    """
    fields = recipe_of(find(written(tmp_path, model, LEFT_AND_RIGHT)))
    assert "TODO" not in (tmp_path / "recipe.yaml").read_text()
    assert fields["components"]["head"]["module"] == "head"


def test_parts_in_lists_of_modules_are_written_out_by_their_paths(tmp_path: Path) -> None:
    model = """
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.readers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(6, 8)])
            self.readers_0, self.other = nn.Linear(8, 8), nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8)])
            self.scales = nn.ParameterList([torch.ones(8)])
            self.out = nn.Linear(16, 3)

        def forward(self, left, right):
            seen = self.readers_0(sum(one(left) for one in self.readers))
            read = self.other[1](self.other[0](right).relu()) * self.scales[0]
            return self.out(torch.cat([seen, read], 1))

    def build():
        return Both()
    """
    fields = recipe_of(find(written(tmp_path, model, LEFT_AND_RIGHT)))
    assert "TODO" not in (tmp_path / "recipe.yaml").read_text()
    code = (tmp_path / "init_model.py").read_text()
    assert "self.readers_0 = getattr(model.readers, '0')\n" in code and "self.readers_0_2 = model.readers_0\n" in code
    assert fields["components"]["head"]["module"] == "head"


def test_what_cannot_be_written_out_is_marked_with_the_lines_that_do_it_and_no_build_runs_over_it(
    tmp_path: Path,
) -> None:
    branching = """
    read = self.text_encoder(text)
    if read.sum() > 1e9:
        read = -read
    read = read * 2
    return self.head(self.image_encoder(image), read)
    """
    found = find(both(tmp_path, branching))
    choice = found.choose()
    assert choice.code is None
    assert [gap.lines for gap in choice.proposal.wiring.gaps] == [("model.py:34: read = read * 2",)]
    write_files(texts_of(found, choice), force=False)
    text = (tmp_path / "recipe.yaml").read_text()
    assert "# TODO(init): head.read is made of text_embedding by mul, outside of all modules" in text
    with pytest.raises(Exception, match="nothing writes the tensor 'TODO_read': init could not see"):
        load_recipe(tmp_path / "recipe.yaml")
    whole = recipe_of(found, whole=True)
    assert wires(whole) == {"model": {"image": "image", "text": "text"}}


def test_layers_are_no_components_the_whole_is_one(tmp_path: Path) -> None:
    data = DATA.replace('"image"', '"input"').replace(', "text": random.random(4, np.float32)', "")
    layers = "def build():\n    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    fields = recipe_of(find(written(tmp_path, layers, data)))
    assert wires(fields) == {"model": {"input": "input"}}
    assert fields["model"]["factory"] == "init_model.py:build"


def test_sizes_that_vary_get_a_name_where_they_are_one_length(tmp_path: Path) -> None:
    folder = tmp_path / "varying"
    shutil.copytree(RECIPES.parent / "tests" / "varying_recipe", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "model.py").write_text(
        (folder / "model.py")
        .read_text()
        .replace(
            "self.text, self.sound, self.head = Text(), Sound(), Head()\n",
            "self.text, self.sound, self.head = Text(), Sound(), Head()\n\n"
            "    def forward(self, ids, mask, wave):\n"
            "        return self.head(self.text(ids, mask), self.sound(wave))\n",
        )
    )
    sources = Sources(
        str(folder / "model.py:build"), str(folder / "data.py:calibration"), output=folder / "recipe.yaml"
    )
    fields = recipe_of(find(sources))
    assert fields["sizes"]["tokens"] == {"min": 1, "max": 12}
    assert fields["sizes"]["wave_length"]["multiple_of"] == 4
    assert fields["inputs"]["ids"] == {"dtype": "INT64", "shape": ["tokens"], "range": [0, 29]}
    assert fields["inputs"]["mask"] == {"dtype": "INT64", "shape": ["tokens"], "range": [0, 1]}
    assert fields["components"]["text"]["outputs"]["output"]["shape"] == ["tokens", 16]
    assert "shape" not in fields["components"]["sound"]["outputs"]["output"]  # a function of the length


def test_components_are_those_that_were_asked_for(tmp_path: Path) -> None:
    found = find(both(tmp_path, PLAIN))
    asked = found.choose(["image_encoder.layers", "text_encoder", "head"], name="mine", target="cuda")
    assert [part.path for part in asked.proposal.wiring.parts] == ["image_encoder.layers", "text_encoder", "head"]
    assert (asked.proposal.told.name, asked.proposal.told.target) == ("mine", "cuda")
    with pytest.raises(ModelError, match="no module 'heda'") as told:
        found.choose(["heda"])
    assert "did you mean 'head'" in str(told.value.hint)
    with pytest.raises(ModelError, match="only one can be a component"):
        found.choose(["image_encoder", "image_encoder.layers"])


def test_a_function_calls_a_model_that_cannot_be_called(tmp_path: Path) -> None:
    forwardless = TOWERS[: TOWERS.index("    def forward(self, image")] + "\n\ndef build():\n    return Both()\n"
    answer = "\n\ndef answer(model, image, text):\n    " + PLAIN.replace("self.", "model.") + "\n"
    with pytest.raises(ModelError, match="Both has no forward") as told:
        find(written(tmp_path, forwardless))
    assert "def answer(model, image, text): return model.head(…)" in str(told.value.hint)
    fields = recipe_of(find(written(tmp_path, forwardless + answer, call=str(tmp_path / "model.py:answer"))))
    assert wires(fields)["head"] == {"seen": "image_embedding", "read": "text_embedding"}


@pytest.mark.parametrize(
    ("forward", "data", "message", "hint"),
    [
        ("return self.head(self.image_encoder(image), self.text_encoder(text)).mean(0)", DATA, "it has no row a sample",
         "batch first"),
        ("return self.head(self.image_encoder(image), self.text_encoder(text))[0].view(1, -1)", DATA,
         "it has no row a sample", "batch first"),
        (PLAIN, DATA.replace('"image": random.random(6, np.float32)', '"image": random.random(6)'),
         "image float64", "give image.astype(np.float32)"),
        (PLAIN, DATA.replace("random.random(6, np.float32)", "random.integers(0, 9, 6)"),
         "image_encoder.layers.0 (Linear) takes float32, and was given int64 [2, 6] (the input 'image')",
         "give image.astype(np.float32), scaled as in training"),
        (PLAIN, DATA.replace("random.random(6, np.float32)", "random.random(7, np.float32)"),
         "image_encoder.layers.0 (Linear) takes 6 in the last axis, and was given float32 [2, 7] (the input 'image')",
         "a sample has 6 in axis 0"),
        (PLAIN, DATA.replace("random.random(6, np.float32)", "random.random((6, 3), np.float32)"),
         "takes 6 in the last axis", "give np.moveaxis(image, 0, 1)"),
        (PLAIN.replace("(image)", "(image[:, :5] + image[:, 1:])"), DATA,
         "takes 6 in the last axis, and was given float32 [2, 5] (made of 'image')", "in the size that the model"),
        (PLAIN, DATA.replace("random.random(6, np.float32)", "random.random((1, 6), np.float32)").replace(
            "random.random(4, np.float32)", "random.random((1, 4), np.float32)"), "the model failed", "give array[0]"),
        (PLAIN, DATA.replace("random.random(6, np.float32)", "random.random((5, 6), np.float32)").replace(
            "random.random(4, np.float32)", "random.random((5, 4), np.float32)"), "the model failed",
         "each of the 5 rows as a sample"),
        (PLAIN, DATA.replace('"text"', '"txt"'), "it needs 'text'; it does not know 'txt'", "did you mean 'text'"),
        (PLAIN, DATA.replace("}, index % 3", ', "label": np.array([1])}'), "it does not know 'label'", "(dict, label)"),
        (PLAIN, DATA.replace("random.random(4, np.float32)", '"a cat"'), "input 'text' is a str", "preprocess"),
        (PLAIN, DATA.replace("random.random(4, np.float32)", "3"), "sample 0, input 'text' is an int", "NumPy array"),
        (PLAIN, DATA.replace("range(12)", "range(0)"), "gives no sample", "yield a dict"),
        (PLAIN, DATA.replace("yield {", "yield 3, {"), "sample 0 is a tuple", "a sample is a dict"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_told_with_what_to_do(
    tmp_path: Path, forward: str, data: str, message: str, hint: str
) -> None:
    with pytest.raises((ModelError, DataError)) as told:
        find(both(tmp_path, forward, data))
    assert message in told.value.message
    assert hint in str(told.value.hint)


def test_inputs_without_names_are_told(tmp_path: Path) -> None:
    model = (
        "class Any(nn.Module):\n    def forward(self, *xs):\n        return xs[0]\n\ndef build():\n    return Any()\n"
    )
    with pytest.raises(ModelError, match=r"without names \(\*xs\)"):
        find(written(tmp_path, model))


def test_weights_that_nothing_calls_are_named(tmp_path: Path) -> None:
    choice = find(both(tmp_path, "return self.image_encoder(image) + 0 * text.sum()")).choose()
    assert {"text_encoder", "head"} <= {*choice.proposal.wiring.left_out}


@pytest.mark.parametrize(
    ("forward", "layers", "place"),
    [
        (f"image = image if image.sum() > 0 else -image\n        {PLAIN}", "", "image.sum() > 0 else -image`"),
        (PLAIN, "values = values * float(values[0, 0])\n        ", "values * float(values[0, 0])`"),
        (f"assert image.shape[1] == 6\n        {PLAIN}", "", ""),
    ],
    ids=["between", "inside", "of sizes alone"],
)
def test_what_follows_from_the_values_of_samples_is_told(tmp_path: Path, forward: str, layers: str, place: str) -> None:
    model = TOWERS.replace("FORWARD", forward).replace("return self.layers", f"{layers}return self.layers")
    found = find(written(tmp_path, model))
    decided = [note for note in found.choose().notes if note.startswith("What a sample holds decides at model.py:")]
    assert [place in note for note in decided] == [True] * bool(place)
    text = " ".join(texts_of(found, found.choose())[found.sources.recipe].replace("# ", "").split())
    assert (decided[0] in text) if decided else ("decides" not in text)
