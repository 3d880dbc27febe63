"""The files behind a reference are found without running them, and an error is placed in the user's code."""

from pathlib import Path

import pytest

from mmdeploy.core.errors import StepError
from mmdeploy.model.sources import resolve_callable, source_files, user_location


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("/init/", "__init__")
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(root: Path, reference: str) -> list[str]:
    return [str(path.relative_to(root)) for path in source_files(reference, root)]


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


def test_package_reference_stays_inside_the_package(tmp_path):
    package = tmp_path / "acme"
    (package / "nets").mkdir(parents=True)
    (package / "__init__.py").write_text("from acme import everything")
    (package / "everything.py").write_text("")
    (package / "nets" / "__init__.py").write_text("")
    (package / "nets" / "clip.py").write_text("import helper\nfrom acme.layers import Linear")
    (package / "layers.py").write_text("")
    (tmp_path / "helper.py").write_text("")
    assert names(tmp_path, "acme.nets.clip:build") == [
        "acme/__init__.py", "acme/layers.py", "acme/nets/__init__.py", "acme/nets/clip.py",
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
        source_files(reference, tmp_path)
    assert message in str(refused.value)


def test_location_is_the_users_frame_not_the_librarys(tmp_path):
    write(tmp_path, model="import json\n\ndef build():\n    return json.loads('{')\n")
    build = resolve_callable("model.py:build", tmp_path, error=StepError)
    with pytest.raises(ValueError, match="Expecting") as raised:
        build()
    assert user_location(raised.value, tmp_path) == "model.py:4 (build)"


def test_a_file_may_have_the_name_of_a_library(tmp_path):
    import json

    write(tmp_path, json="def build(): return 'mine'")
    assert resolve_callable("json.py:build", tmp_path, error=StepError)() == "mine"
    import json as again

    assert again is json and json.loads("1") == 1
