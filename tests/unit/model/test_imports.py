"""The code behind a reference is found without running it, wherever it is edited in place."""

import os
from pathlib import Path

import pytest

from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import StepError
from mmdeploy.model.imports import code_behind, code_digest


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("/init/", "__init__")
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(root: Path, reference: str) -> list[str]:
    return sorted(code_behind(reference, root).files.values())


def test_siblings_are_followed_and_nothing_runs(tmp_path):
    write(
        tmp_path,
        model="import torch\nimport layers\nraise SystemExit('ran')\ndef build(): from late import x",
        layers="from blocks.attention import Attention",
        late="",
        unrelated="",
    )
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "__init__.py").write_text("")
    (tmp_path / "blocks" / "attention.py").write_text("from . import norm\nfrom .mlp import Mlp")
    (tmp_path / "blocks" / "norm.py").write_text("")
    (tmp_path / "blocks" / "mlp.py").write_text("import model  # a circle")
    assert names(tmp_path, "model.py:build") == [
        "blocks/__init__.py", "blocks/attention.py", "blocks/mlp.py", "blocks/norm.py",
        "late.py", "layers.py", "model.py",
    ]  # fmt: skip


def test_type_checking_imports_and_broken_siblings_do_no_harm(tmp_path):
    write(
        tmp_path,
        model="from typing import TYPE_CHECKING\nimport broken\nif TYPE_CHECKING:\n    import only_types",
        only_types="",
        broken="def (",
    )
    assert names(tmp_path, "model.py:build") == ["broken.py", "model.py"]


def test_package_reference_runs_the_packages_on_its_way(tmp_path):
    package = tmp_path / "acme"
    (package / "nets").mkdir(parents=True)
    (package / "__init__.py").write_text("from acme import everything")
    (package / "everything.py").write_text("")
    (package / "nets" / "__init__.py").write_text("")
    (package / "nets" / "clip.py").write_text("import helper\nfrom acme.layers import Linear")
    (package / "layers.py").write_text("")
    (tmp_path / "helper.py").write_text("")
    assert names(tmp_path, "acme.nets.clip:build") == [
        "acme/__init__.py", "acme/everything.py", "acme/layers.py", "acme/nets/__init__.py", "acme/nets/clip.py",
        "helper.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no.py:build", "there is no file no.py"),
        ("no_such_package.model:build", "there is no package 'no_such_package'"),
        ("mmdeploy.no_such_module:run", "there is no module 'mmdeploy.no_such_module'"),
        ("model:build:", "is not a reference"),
    ],
)
def test_missing_source(tmp_path, reference, message):
    with pytest.raises(StepError) as refused:
        code_behind(reference, tmp_path)
    assert message in str(refused.value)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, as PYTHONPATH or an editable install puts it there."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_package_that_is_edited_in_place_is_followed(tmp_path: Path, site: Path) -> None:
    recipe = tmp_path / "recipe"
    write(recipe, model="from mytower_edited.nets import clip")
    write(site / "mytower_edited", setup="")
    (site / "mytower_edited" / "nets").mkdir()
    (site / "mytower_edited" / "nets" / "clip.py").write_text("from ..shared import width\nimport mysecond_edited")
    (site / "mytower_edited" / "shared.py").write_text("")
    (site / "mytower_edited" / "__init__.py").write_text("")
    (site / "mysecond_edited.py").write_text("import numpy")
    code = code_behind("model.py:build", recipe)
    assert sorted(code.files.values()) == [
        "model.py", "mysecond_edited.py", "mytower_edited/__init__.py", "mytower_edited/nets/clip.py",
        "mytower_edited/shared.py",
    ]  # fmt: skip
    assert code.libraries == ("numpy",)


def test_installed_packages_are_named_and_the_standard_library_is_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        model="import json, torch.nn\nfrom onnx import helper\nimport not_installed_anywhere\nimport layers",
        layers="import importlib\nmodule = importlib.import_module('scipy.signal')\n__import__('plugins.one')",
        plugins__one="",
    )
    code = code_behind("model.py:build", tmp_path)
    assert code.libraries == ("onnx", "scipy", "torch")
    assert sorted(code.files.values()) == ["layers.py", "model.py", "plugins/one.py"]


def test_what_a_recipe_takes_of_mmdeploy_is_followed(tmp_path: Path) -> None:
    write(tmp_path, data="from mmdeploy.data.media import read_wav")
    assert "mmdeploy/data/media.py" in names(tmp_path, "data.py:calibration")


def test_a_name_beside_the_recipe_wins_over_one_on_the_path(tmp_path: Path, site: Path) -> None:
    write(tmp_path / "recipe", model="import twice_there", twice_there="")
    (site / "twice_there.py").write_text("import numpy")
    assert names(tmp_path / "recipe", "model.py:build") == ["model.py", "twice_there.py"]


def test_environment_variables_are_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        model="import os\nfrom os import environ, getenv\na = os.environ['A'], environ.get('B', 1), getenv('C')\n"
        "name = 'D'\nb = os.environ[name], {}.get('E'), os.getenv('F'), x.environ",
    )
    assert code_behind("model.py:build", tmp_path).variables == ("A", "B", "C", "F")


def test_a_file_and_its_copy_elsewhere_have_the_same_names(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, model="import layers", layers="")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    found = {tuple(names(tmp_path / folder, "model.py:build")) for folder in ("one", "two", "link")}
    assert found == {("layers.py", "model.py")}


SOURCE = "def build(x):  # comment\n    return x + 1\n"


@pytest.mark.parametrize(
    ("edited", "same"),
    [
        ("def build(x):\n\n    # another\n    return (x +\n            1)\n", True),
        ("\ufeff" + SOURCE, True),
        ("def build(x):\n    return x + 1.0\n", False),
        ("def build(x):\n    return x + True\n", False),
        ("def build(y):\n    return y + 1\n", False),
        ("def build(x):\n    'Told by __doc__.'\n    return x + 1\n", False),
        ("def build(x) -> int:\n    return x + 1\n", False),
        ("def build(x:\n", False),
    ],
)
def test_code_is_what_it_says_and_not_how_it_is_laid_out(tmp_path: Path, edited: str, same: bool) -> None:
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(SOURCE)
    after.write_text(edited)
    assert (code_digest(before, FileFacts()) == code_digest(after, FileFacts())) is same


def test_of_code_that_is_no_python_each_byte_counts(tmp_path: Path) -> None:
    digests = set()
    for number, text in enumerate(("def (", "def ( ", "x = 1\0", "(" * 5000)):
        (tmp_path / f"{number}.py").write_text(text)
        digests.add(code_digest(tmp_path / f"{number}.py", FileFacts()))
    assert len(digests) == 4


def test_what_was_read_is_kept_and_read_again_after_an_edit(tmp_path: Path) -> None:
    write(tmp_path, model="import one", one="", two="")
    facts = FileFacts(tmp_path / "facts.json")
    os.utime(tmp_path / "model.py", (1, 1))
    assert sorted(code_behind("model.py:build", tmp_path, facts).files.values()) == ["model.py", "one.py"]
    (tmp_path / "model.py").write_text("import two")
    os.utime(tmp_path / "model.py", (1, 1))
    assert sorted(code_behind("model.py:build", tmp_path, facts).files.values()) == ["model.py", "two.py"]
