"""What README and the pages show is run where it is quick: verbs on a small release, Python in a folder of its own."""

import importlib
import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import yaml
from documented_blocks import REPOSITORY, Block, blocks, calls

import mmdeploy
from mmdeploy.building.builder import run_build
from mmdeploy.building.settings import Settings
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.contracts import Verdict
from mmdeploy.data import samples
from mmdeploy.record.observer import Silent
from mmdeploy.worker.feeds import ensemble_inputs

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("documentation")]

NAME = "spoken_digits"
#: Verbs that are over in seconds, and the exit codes that they may have here.
QUICK = {
    "validate": {0}, "plan": {0}, "list": {0}, "schema": {0}, "lint": {0, 1}, "releases": {0}, "verify": {0},
    "report": {0}, "compare": {0}, "baseline": {0}, "gate": {0, 1, 5}, "doctor": {0, 4}, "gc": {0},
}  # fmt: skip
#: What these ask for is not in the folder: a plug-in, another machine's folder, a key, a second release, a forward.
ELSEWHERE = ("model.py:build", "torchscript", "s3://", "gates.py:", "/srv/", " models ", "--public-key", "--measure")
STANDS_FOR = {
    "RUN": f".mmdeploy/runs/{NAME}/latest",
    "RUN_OR_RELEASE": f"model_repository/{NAME}",
    r"\.mmdeploy/runs/NAME/latest": f".mmdeploy/runs/{NAME}/latest",
    rf"\.mmdeploy/runs/{NAME}/\d{{8}}-\d{{6}}-[0-9a-f]{{6}}": f".mmdeploy/runs/{NAME}/latest",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages speak of it: recipes/spoken_digits (the tiny recipe), recipe.yaml, a release."""
    root = tmp_path_factory.mktemp("project")
    folder = root / "recipes" / NAME
    shutil.copytree(REPOSITORY / "tests" / "tiny_recipe", folder, ignore=shutil.ignore_patterns("__pycache__"))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"name": NAME}
    recipe["components"]["fusion"]["quantize"] = {"method": "static", "samples": 64}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy(path, root)
    settings = Settings(workdir=root / ".mmdeploy", destination=root / "model_repository")
    outcome = run_build(mmdeploy.load_recipe(root / "recipe.yaml"), settings, Silent())
    assert outcome.report.verdict is Verdict.PASS
    return root


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, with what its modules are called free again afterwards."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield project
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(project)):
            del sys.modules[name]


def quick_commands() -> list[tuple[str, list[str]]]:
    """Return each different command that is over in seconds, with the first place that shows it."""
    found: dict[tuple[str, ...], str] = {}
    for block in blocks("sh"):
        for call in calls(block) if not block.unchecked else ():
            if call[0] == "mmdeploy" and call[1] in QUICK and not any(one in " ".join(call) + " " for one in ELSEWHERE):
                found.setdefault(tuple(call[1:]), str(block))
    accepted = sorted(found, key=lambda one: one[0] != "baseline")  # what others compare with is made first
    return [(found[one], [*one]) for one in accepted]


@pytest.mark.parametrize(
    ("place", "arguments"), quick_commands(), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_commands_do_what_pages_say(
    inside: Path, place: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [_meant(argument) for argument in arguments]
    code = run(commands, given)
    assert code in QUICK[arguments[0]], f"{place}: {code}\n{capsys.readouterr().err}"


def _meant(argument: str) -> str:
    """Put what is there in the place of what stands for it."""
    for pattern, value in STANDS_FOR.items():
        argument = value if re.fullmatch(pattern, argument) else argument
    return argument


def test_the_model_of_the_first_build_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in pythons("docs/begin.md"):
        if file := re.match(r"# (\w+\.py)\n", block.text):
            (tmp_path / file[1]).write_text(block.text)
    (command,) = [
        call for block in blocks("sh") if block.page == "docs/begin.md" for call in calls(block) if call[1] == "doctor"
    ]
    assert run(commands, command[1:]) == 0, capsys.readouterr().err
    assert "no form in it is known not to deploy" in capsys.readouterr().out


def test_the_commands_of_a_day_are_among_them() -> None:
    assert {arguments[0] for _, arguments in quick_commands()} == {*QUICK}


def pythons(page: str) -> list[Block]:
    return [block for block in blocks("python") if block.page == page and not block.unchecked]


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}))
def test_python_runs(inside: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that begins with a file's name is that file; the others run in turn, with what they speak of."""
    monkeypatch.chdir(tmp_path)
    sys.path.insert(0, str(tmp_path))
    (tmp_path / "recipes").symlink_to(inside / "recipes")
    known = {"__name__": "shown", "path": picture(tmp_path), "self": SimpleNamespace(), "Options": object}
    for block in pythons(page):
        file = re.match(r"# (\w+)\.py\n", block.text)
        if file:
            (tmp_path / f"{file[1]}.py").write_text(block.text)
            if file[1] == "model":
                checkpoint(tmp_path)
            importlib.invalidate_caches()
            sys.modules.pop(file[1], None)
            importlib.import_module(file[1])
            del sys.modules[file[1]]
        else:
            exec(compile(block.text, str(block), "exec"), known)


def picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 260, 3), dtype=np.uint8)).save(path)
    return path


def checkpoint(folder: Path) -> None:
    """Write the checkpoint's folder of a tiny CLIP pair, without weights."""
    from tokenizers import Tokenizer, models
    from transformers import CLIPConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 224, "patch_size": 32}
    CLIPConfig(text_config=small, vision_config=vision, projection_dim=16).save_pretrained(folder / "checkpoint")
    Tokenizer(models.WordLevel({"<unk>": 0, "cat": 1}, unk_token="<unk>")).save(
        str(folder / "checkpoint/tokenizer.json")
    )


def test_the_data_of_the_page_is_what_recipes_take(inside: Path, tmp_path: Path) -> None:
    (source,) = pythons("docs/data.md")
    folder = tmp_path / "recipe"
    shutil.copytree(inside / "recipes" / NAME, folder)
    (folder / "data.py").write_text(source.text)
    recipe = mmdeploy.load_recipe(folder / "recipe.yaml")
    specs, ranges = ensemble_inputs(recipe)
    for reference, count in (("data.py:calibration", 64), ("data.py:evaluation", 128)):
        taken = [*samples.stream(reference, root=folder, specs=specs, ranges=ranges)]
        assert len(taken) == count
        assert all((label is None) == (count == 64) for _, label in taken)


def test_the_hugging_face_page_is_a_project(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "docs/howto_huggingface.md"
    checkpoint(tmp_path)
    shown, adapted = (block.text for block in blocks("yaml") if block.page == page)
    (tmp_path / "recipe.yaml").write_text(shown)
    (tmp_path / "model.py").write_text(pythons(page)[0].text)
    (tmp_path / "data.py").write_text("def calibration():\n    yield {}\n\n\nevaluation = calibration\n")
    safetensors.numpy.save_file({"logit_scale": np.zeros(1, np.float32)}, tmp_path / "checkpoint" / "model.safetensors")
    assert run(commands, ["validate", str(tmp_path)]) == 0, capsys.readouterr().err
    known: dict[str, object] = {"__file__": str(tmp_path / "model.py"), "__name__": "shown"}
    exec(compile(pythons(page)[0].text, page, "exec"), known)
    model, recipe = known["build"](), yaml.safe_load(shown)  # type: ignore[operator]
    for part in recipe["components"].values():
        forward = inspect.signature(model.get_submodule(part["module"]).forward).parameters
        assert {*forward} == {*part["inputs"]}
    assert {*recipe["model"]["prefix"].values()} <= {name for name, _ in model.named_children()}
    with_adapters = yaml.safe_load(adapted)["model"]
    assert recipe["model"].items() <= with_adapters.items()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"model": with_adapters}, sort_keys=False))
    assert run(commands, ["validate", str(tmp_path)]) == 2
    assert f"model.adapters.clip\n    adapter lora: {tmp_path}/lora is not there" in capsys.readouterr().err
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "lora" / "adapter_model.safetensors").touch()
    assert run(commands, ["validate", str(tmp_path)]) == 0, capsys.readouterr().err
    assert {*with_adapters["adapters"]} <= {name for name, _ in model.named_modules()}


PARTS = [
    block
    for block in blocks("yaml")
    if block.page in ("docs/compression.md", "docs/howto_accuracy.md", "docs/howto_kubernetes.md", "docs/recipes.md")
    and not block.unchecked
]


@pytest.mark.parametrize("block", PARTS, ids=str)
def test_parts_of_recipes_fit_spoken_digits(block: Block, tmp_path: Path) -> None:
    (tmp_path / "variants").mkdir()
    for path in (REPOSITORY / "recipes" / NAME).iterdir():
        (tmp_path / path.name).symlink_to(path) if path.is_file() else None
        (tmp_path / "variants" / path.name).symlink_to(path) if path.suffix == ".py" else None
    part = {"base": "../recipe.yaml", "name": "shown", **yaml.safe_load(block.text)}
    (tmp_path / "variants" / "shown.yaml").write_text(yaml.safe_dump(part, sort_keys=False))
    for need in part.get("needs", {}).values():
        (tmp_path / "variants" / need["path"]).mkdir()  # as if it had been fetched
    mmdeploy.load_recipe(tmp_path / "variants" / "shown.yaml")


def test_the_recipe_of_the_readme_is_that_of_its_folder() -> None:
    (shown,) = (yaml.safe_load(block.text) for block in blocks("yaml") if block.page == "README.md")
    assert shown == yaml.safe_load((REPOSITORY / "recipes" / NAME / "recipe.yaml").read_text())


def test_python_builds(inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = pythons("docs/recipes.md")
    exec(compile(script.text, "script.py", "exec"), {"__name__": "__main__"})
    assert "pass" in capsys.readouterr().out
