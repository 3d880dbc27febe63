"""Installed packages: which distribution gives an import, and what tells two installations apart."""

from importlib.metadata import version
from pathlib import Path

import pytest

from mmdeploy.core.digests import FileFacts
from mmdeploy.model.distributions import gives, installed_as, required_by, version_of


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def install(site: Path, name: str, top: str, record: str, version: str = "1.0") -> None:
    (site / top).mkdir(exist_ok=True)
    (site / top / "__init__.py").write_text("")
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "RECORD").write_text(f"{top}/__init__.py,{record},0\n{name}-{version}.dist-info/RECORD,,\n")


@pytest.mark.parametrize(
    ("top", "distribution"), [("torch", "torch"), ("yaml", "pyyaml"), ("PIL", "pillow"), ("google", "protobuf")]
)
def test_an_import_is_found_whatever_its_distribution_is_called(top: str, distribution: str) -> None:
    assert gives(top, FileFacts()) == distribution
    assert installed_as(top, FileFacts()).split()[0] == version(distribution)


def test_what_is_not_installed_has_no_version() -> None:
    assert (version_of("no_such_thing"), installed_as("no_such_thing", FileFacts())) == ("", "")


def test_a_distribution_of_another_name_is_found_by_its_files(site: Path) -> None:
    install(site, "odd_name_of_it", "imported_so", "sha256=a")
    assert gives("imported_so", FileFacts()) == "odd-name-of-it"


def test_the_same_version_with_other_files_is_another_installation(site: Path) -> None:
    seen = []
    for record in ("sha256=a", "sha256=b", "sha256=a"):
        install(site, "towers_built_again", "towers_built_again", record)
        seen.append(installed_as("towers_built_again", FileFacts()))
    assert seen[0] == seen[2] != seen[1]
    assert all(one.startswith("1.0 ") for one in seen)


def test_what_mmdeploy_requires_is_known_as_such() -> None:
    known = required_by("multimodal-deploy", FileFacts())
    assert {"torch", "numpy", "onnx", "safetensors"} <= known
    assert not {"pytest", "hypothesis"} & known, "what only developers have is not among it"
    assert not {"transformers", "peft", "soundfile", "ray", "s3fs"} & known, "nor what only some builds load"
    assert required_by("no-such-distribution", FileFacts()) == {"no-such-distribution"}
