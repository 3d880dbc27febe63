"""Bad input as a user of ``mmdeploy build`` meets it: one message that says where, what and what to do, once."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from user_view import REPOSITORY, replaced, without

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
RETURN = "        return torch.relu(self.norm(self.project(values)))"


@pytest.fixture
def refused(mmdeploy_command: Command, tiny_recipe: Path, shared_workdir: Path) -> Callable[..., str]:
    """Builds the recipe, expects it to fail, and returns what standard error said."""

    def run(*overrides: str, code: int = 3, gates: bool = False, only: str = "", **options: object) -> str:
        settings = [word for override in overrides for word in ("--set", override)]
        if only:  # what fails in any component is tried in one
            settings += ["--only", only]
        if not gates:
            settings += ["--set", "gates=[]"]
        done = mmdeploy_command("build", tiny_recipe, "--workdir", shared_workdir, *settings, **options)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        error = done.stderr.partition("error: ")[2].splitlines()[0]
        assert error
        assert (done.stdout + done.stderr).count(error.rpartition("failed: ")[2][:60]) == 1, "it is told once"
        if code == 3:
            log = re.search(r"^log: (.*)$", done.stderr, re.MULTILINE)
            assert log is not None
            assert Path(log[1]).exists()
        return done.stderr

    return run


def test_everything_wrong_with_a_recipe_is_told_at_once(refused: Callable[..., str], tiny_recipe: Path) -> None:
    replaced(tiny_recipe, "  left:\n    module: left\n", "  left:\n    modul: left\n")
    replaced(tiny_recipe, "method: accuracy", "method: acuracy")
    replaced(tiny_recipe, "data.py:evaluation", "daten.py:evaluation")
    told = refused("components.right.quantize.samples=many", code=2, gates=True)
    assert told.startswith("error: 4 problems in the recipe\n")
    assert "recipe.yaml:14 components.left.modul\n    unknown key 'modul'; did you mean 'module'? accepted: " in told
    assert "recipe.yaml:32 gates.1.method\n    unknown method 'acuracy'; did you mean 'accuracy'? accepted: " in told
    assert "recipe.yaml:8 data.evaluation\n    no such file: 'daten.py' in " in told
    assert "--set components.right.quantize.samples=many\n    must be a whole number, not the string" in told


def test_a_factory_that_raises(refused: Callable[..., str], tiny_recipe: Path) -> None:
    replaced(tiny_recipe.with_name("model.py"), "    torch.manual_seed(7)", "    raise RuntimeError('no checkpoint')")
    told = refused(only="left/export")
    assert "/export failed: the factory model.py:build failed: RuntimeError at model.py:41 (build): no ch" in told


def test_a_factory_that_returns_no_module(refused: Callable[..., str], tiny_recipe: Path) -> None:
    replaced(tiny_recipe.with_name("model.py"), "    return TwoTowers()", "    return {'left': Tower()}")
    told = refused(only="left/export")
    assert "the factory model.py:build returned a dict, expected a torch.nn.Module" in told
    assert "hint: return the module itself" in told


def test_a_model_that_lacks_the_named_submodule(refused: Callable[..., str]) -> None:
    told = refused("components.fusion.module=fusoin", only="fusion/export")
    assert "error: step fusion/export failed: submodule 'fusoin': TwoTowers.fusoin does not exist" in told
    assert "hint: did you mean 'fusion'? accepted: fusion, left, right" in told


def test_weights_that_do_not_fit(refused: Callable[..., str], tiny_recipe: Path) -> None:
    import torch
    from safetensors.torch import save_file

    weights = {"left.project.weight": torch.zeros(16, 9), "left.projct.bias": torch.zeros(16)}
    save_file(weights, tiny_recipe.with_name("weights.safetensors"))
    told = refused("model.weights=weights.safetensors", only="left/export")
    assert "weights weights.safetensors do not fit TwoTowers:\n  11 missing: left.project.bias, " in told
    assert "\n  1 unexpected: left.projct.bias\n" in told
    assert "\n  1 of another shape: left.project.weight is [16, 9], the model has [16, 8]\n" in told


def test_calibration_data_that_would_ruin_the_ranges(refused: Callable[..., str], tiny_recipe: Path) -> None:
    """One of many: the rest of what is refused is in tests/unit/test_data.py."""
    replaced(
        tiny_recipe.with_name("data.py"),
        "    return _samples(1, 64)",
        "    for index, feed in enumerate(_samples(1, 64)):\n"
        "        yield feed | {'b': np.zeros(8, np.float32)} if index == 5 else feed",
    )
    told = refused(only="left/quantize")
    assert "step data/calibration failed: data.py:calibration: sample 5, input 'b' is all zero\nhint: silence, " in told
    assert told.rstrip().endswith("/logs/data.calibration.log")


def test_evaluation_without_labels_is_refused_before_anything_is_served(
    refused: Callable[..., str], tiny_recipe: Path, shared_workdir: Path
) -> None:
    replaced(tiny_recipe.with_name("data.py"), "yield feed, int(logits.argmax())", "yield feed")
    told = refused(gates=True)
    assert "step data/evaluation failed: the accuracy gate needs labels, but data.py:evaluation gives none" in told
    assert "hint: yield (feed, label) for each sample, or take the gate out of the recipe" in told
    assert list((shared_workdir / "runs" / "two_towers" / "latest" / "logs").glob("triton*")) == []


def test_an_operator_that_onnx_does_not_have(refused: Callable[..., str], tiny_recipe: Path) -> None:
    after = RETURN.replace("return ", "x = ") + "\n        return torch.linalg.eigvals(x[:, None] * x[..., None]).real"
    replaced(tiny_recipe.with_name("model.py"), RETURN, after)
    told = refused(only="left/export")
    assert "torch.onnx has no ONNX form of the operator aten.linalg_eig.default, used at model.py:17" in told
    assert "hint: write it with operators that ONNX has" in told


def test_an_operator_that_tensorrt_refuses(refused: Callable[..., str], tiny_recipe: Path) -> None:
    after = RETURN.replace("return ", "x = ") + "\n        return x + torch.linalg.det(x.reshape(-1, 4, 4))[:, None]"
    replaced(tiny_recipe.with_name("model.py"), RETURN, after)
    told = refused("target=tensorrt_rtx", "components.left.quantize=null", only="left/engine")
    assert "/engine failed: " in told
    assert "TensorRT cannot read the graph\n    operator Det (node " in told
    assert "hint: write it with other operators, or use engine.method: onnxruntime for this component" in told


def test_no_triton_is_told_before_anything_runs(
    refused: Callable[..., str], tiny_recipe: Path, shared_workdir: Path, tmp_path: Path
) -> None:
    told = refused("seed=99", code=4, gates=True, environment=without(tmp_path / "hide", "pytriton"))
    assert "error: no Triton Inference Server: tritonserver is not on PATH and nvidia-pytriton is not" in told
    assert "hint: pip install 'multimodal-deploy[cpu]'" in told
    assert list((shared_workdir / "runs" / "two_towers" / "latest" / "logs").iterdir()) == []


def test_missing_distributions_are_all_named_before_anything_runs(
    refused: Callable[..., str], tmp_path: Path, shared_workdir: Path
) -> None:
    told = refused("seed=99", code=4, environment=without(tmp_path / "hide", "torch", "onnxscript"))
    assert "error: not installed in this environment: torch (for " in told
    assert ", onnxscript (for " in told
    assert list((shared_workdir / "runs" / "two_towers" / "latest" / "logs").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; needs the right to mount."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system of 1 MiB here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_no_space_for_the_store(mmdeploy_command: Command, tiny_recipe: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(1_020_000))
    done = mmdeploy_command("build", tiny_recipe, "--workdir", small_disk / "work", "--set", "gates=[]")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "error: " in done.stderr
    assert "no space left" in done.stderr.lower()
    assert "Traceback" not in done.stdout + done.stderr
    entries = small_disk / "work" / "store" / "entries"
    assert all((entry / "seal.json").stat().st_size for entry in entries.glob("*"))
    assert not list((small_disk / "work" / "store" / "staging").glob("*"))


def test_no_space_to_publish_leaves_what_is_live(
    mmdeploy_command: Command, tiny_recipe: Path, shared_workdir: Path, small_disk: Path
) -> None:
    build = ("build", tiny_recipe, "--workdir", shared_workdir, "--output", small_disk / "live", "--set", "gates=[]")
    assert mmdeploy_command(*build).returncode == 0
    live = (small_disk / "live" / "two_towers").readlink()
    tiny_recipe.write_text(tiny_recipe.read_text() + "# else there is nothing to publish\n")
    with (small_disk / "ballast").open("wb") as ballast:
        try:
            while ballast.write(bytes(4096)):
                ballast.flush()
        except OSError:
            ballast.raw.close()
    done = mmdeploy_command(*build)
    assert done.returncode == 3, done.stdout
    assert "error: cannot publish two_towers in " in done.stderr
    assert "no space left" in done.stderr.lower()
    assert (small_disk / "live" / "two_towers").readlink() == live
    assert (small_disk / "live" / "two_towers" / "two_towers" / "config.pbtxt").read_text()
    assert [path.name for path in (small_disk / "live" / ".releases" / "two_towers").glob("[!.]*")] == [live.name]


@pytest.fixture
def as_nobody() -> Iterator[Callable[..., "subprocess.CompletedProcess[str]"]]:
    """Runs mmdeploy as a user without rights in the folder ``cwd``: root is asked to be somebody else."""
    prefix = []
    if os.getuid() == 0:
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        probe = [*prefix, sys.executable, "-c", "import mmdeploy.building.builder"]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        if shutil.which("setpriv") is None or subprocess.run(probe, env=environment, cwd="/").returncode:
            pytest.skip("root has every permission, and cannot run as somebody else here")
    folder = Path(tempfile.mkdtemp(prefix="badinput-"))

    def run(recipe: Path, *arguments: str, cwd: Path = folder) -> "subprocess.CompletedProcess[str]":
        shutil.copytree(recipe.parent, folder / "recipe", dirs_exist_ok=True)
        folder.chmod(0o555)
        return subprocess.run(
            [*prefix, sys.executable, "-c", "from mmdeploy.cli import main; main()", *arguments],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    yield run
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_store_without_permission(
    as_nobody: Callable[..., "subprocess.CompletedProcess[str]"], tiny_recipe: Path
) -> None:
    for verb in ("build", "plan"):
        done = as_nobody(tiny_recipe, verb, "recipe", "--workdir", "work")
        assert done.returncode == 3, done.stdout + done.stderr
        assert done.stderr.startswith("error: no permission to write "), done.stderr
        assert "\nhint: give yourself write permission there, or name another folder with --workdir\n" in done.stderr


def test_a_data_file_without_permission(
    as_nobody: Callable[..., "subprocess.CompletedProcess[str]"], tiny_recipe: Path, tmp_path: Path
) -> None:
    secret = tiny_recipe.with_name("samples.npy")
    np.save(secret, np.zeros(3))
    secret.chmod(0)
    with tempfile.TemporaryDirectory(prefix="badinput-") as work:
        Path(work).chmod(0o777)
        done = as_nobody(
            tiny_recipe, "plan", "recipe", "--set", "data.files=[samples.npy]", "--workdir", f"{work}/work"
        )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "recipe/samples.npy cannot be read: Permission denied" in done.stderr
    assert "hint: make it readable, or keep it where the recipe does not name it" in done.stderr
