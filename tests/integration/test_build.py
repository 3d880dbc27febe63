"""Builds of a tiny recipe from YAML to a published, served ensemble, with a real Triton."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import living_processes
import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from settled_counts import settled
from user_view import read_until, wait_until

import mmdeploy
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.cache_notes import OPTIONS_FILE
from mmdeploy.building.provenance import BOM, PROVENANCE
from mmdeploy.building.settings import Settings
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import ExportError, InferenceError, ModelError, StepError
from mmdeploy.engines import openvino
from mmdeploy.record.observer import Silent
from mmdeploy.record.report_file import read_report
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.golden import GOLDEN, disagreements, read_golden
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.lint import lint
from mmdeploy.triton.repository import resolve, verify
from mmdeploy.triton.response_cache import settings_of

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]


def build(recipe: Path, workdir: Path, *overrides: str, **settings: object) -> Outcome:
    loaded = mmdeploy.load_recipe(recipe, overrides)
    return run_build(
        loaded,
        Settings(workdir=workdir, destination=recipe.parents[1] / "published", **settings),  # type: ignore[arg-type]
        Silent(),
    )


def statuses(outcome: Outcome) -> dict[str, str]:
    return {step.id: step.status for step in outcome.report.steps}


def raise_error(outcome: Outcome) -> None:
    if outcome.error is not None:
        raise outcome.error


def test_a_recipe_becomes_a_published_ensemble_that_answers(tiny_recipe: Path, shared_workdir: Path) -> None:
    outcome = build(tiny_recipe, shared_workdir)
    raise_error(outcome)
    report = outcome.report
    assert report.verdict is Verdict.PASS
    assert report.exit_code == 0
    assert report.published is not None
    assert {gate.gate for gate in report.gates} == {"parity", "accuracy"}
    assert [finding for finding in lint(report.published) if finding.severity == "error"] == []
    assert read_report(report.published / "report.json").published == report.published
    holds_what_it_was_made_of(report.published, tiny_recipe)
    sure = json.loads((report.published / "confidence.json").read_text())["outputs"]["logits"]
    assert sum(sure["counts"]) == sure["samples"] > 0 and sure["from"] == "logits"
    golden = read_golden(report.published / GOLDEN)
    with triton_server.start(resolve(report.published.parent), log=shared_workdir / "triton.log") as server:
        runner = GrpcRunner(server.grpc_url, "two_towers")
        feeds = {name: np.random.default_rng(0).standard_normal((3, 8), np.float32) for name in "ab"}
        assert runner.infer(feeds)["logits"].shape == (3, 4)
        assert disagreements(golden, runner.infer) == ()
        other = replace(
            golden, requests=tuple(replace(one, outputs=golden.requests[0].outputs) for one in golden.requests)
        )
        assert len(disagreements(other, runner.infer)) == len(golden.requests) - 1
        runner.close()


def holds_what_it_was_made_of(release: Path, recipe: Path) -> None:
    statement = json.loads((release / PROVENANCE).read_text())
    manifest = json.loads((release / "manifest.json").read_text())["files"]
    subject = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert {name.partition("/")[0] for name in subject} >= {"two_towers", "two_towers.fusion", "two_towers.left"}
    assert subject.items() <= manifest.items()
    needed = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    digests = {one["uri"]: one.get("digest", {}).get("sha256") for one in needed}
    for file in ("recipe.yaml", "model.py", "data.py"):
        assert digests[file] == file_sha256(recipe.parent / file)
    assert "data.py:evaluation" in digests and f"pkg:pypi/numpy@{np.__version__}" in digests
    assert not [uri for uri in digests if uri.startswith("pkg:pypi/mmdeploy@")]  # somebody else's
    bill = (release / BOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    content = json.loads(bill)
    metrics = content["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert any(one["type"] == "accuracy: top1" and "confidenceInterval" in one for one in metrics)
    models = {one["name"]: one["hashes"] for one in content["components"] if one["type"] == "machine-learning-model"}
    assert models["left"] == [{"alg": "SHA-256", "content": manifest["two_towers.left/1/model.onnx"]}]


def test_two_clean_builds_in_two_folders_give_the_same_bytes(tiny_recipe: Path, tmp_path: Path) -> None:
    served = []
    for place in ("one", "another/and deeper"):
        shutil.copytree(tiny_recipe.parent, tmp_path / place)
        outcome = build(tmp_path / place / tiny_recipe.name, tmp_path / place / "work", "gates=[]")
        raise_error(outcome)
        ran = statuses(outcome)
        assert {status for step, status in ran.items() if "engine" in step} == {"ran"}
        told = {
            log.stem for log in (outcome.folder / "logs").glob("*.log") if "is known from the step" in log.read_text()
        }
        assert told >= {"left.engine", "right.engine", "fusion.engine"}, "an engine asked what its graph had answered"
        statement = json.loads((outcome.folder / PROVENANCE).read_text())
        served.append({one["name"]: one["digest"]["sha256"] for one in statement["subject"]})
    assert served[0] == served[1]
    assert {name.rpartition("/")[2] for name in served[0]} >= {"model.onnx", "config.pbtxt", "samples.npz"}


def test_a_recipe_that_caches_says_what_its_server_needs_and_was_judged_without(
    tiny_recipe: Path, shared_workdir: Path
) -> None:
    cached = ("components.left.serving.response_cache=true", "response_cache={size_mib: 2, ensemble: true}")
    outcome = build(tiny_recipe, shared_workdir, *cached)
    raise_error(outcome)
    published = outcome.report.published
    assert published is not None
    option = f"--cache-config=local,size={2 * 2**20}"
    assert (published / OPTIONS_FILE).read_text() == f"{option}\n"
    (note,) = (note for note in outcome.report.notes if "are cached" in note)
    assert note.startswith("Answers of two_towers, two_towers.left are cached, in 2 MiB")
    assert option in note
    assert verify(published) == ()
    for log in (outcome.folder / "logs").glob("triton-*.log"):
        assert "cache_enabled                    | 0" in log.read_text()  # the gates' servers have no cache
    settings = settings_of(resolve(published))
    with triton_server.start(
        resolve(published), log=shared_workdir / "triton.log", response_cache_bytes=settings.bytes
    ) as server:
        runner = GrpcRunner(server.grpc_url, "two_towers")
        feeds = {name: np.random.default_rng(0).standard_normal((3, 8), np.float32) for name in "ab"}
        first, again = runner.infer(feeds)["logits"], runner.infer(feeds)["logits"]
        np.testing.assert_array_equal(first, again)
        runner.infer(feeds | {"b": feeds["b"] + 1})
        runner.close()
        stats = settled(lambda: ask_json(f"{server.http_url}/v2/models/stats")["model_stats"])
        hits = {one["name"]: int(one["inference_stats"]["cache_hit"]["count"]) for one in stats}
        assert hits == {"two_towers": 1, "two_towers.left": 1, "two_towers.right": 0, "two_towers.fusion": 0}


def test_an_unchanged_recipe_runs_nothing_again(tiny_recipe: Path, shared_workdir: Path) -> None:
    raise_error(build(tiny_recipe, shared_workdir))
    again = build(tiny_recipe, shared_workdir)
    assert set(statuses(again).values()) == {"reused"}
    assert {step.why for step in again.report.steps} == {"nothing changed"}


def test_changed_options_run_only_what_depends_on_them(tiny_recipe: Path, shared_workdir: Path) -> None:
    raise_error(build(tiny_recipe, shared_workdir, "gates=[]"))
    outcome = build(tiny_recipe, shared_workdir, "gates=[]", "components.left.quantize.samples=48")
    ran = {step.id: step.why for step in outcome.report.steps if step.status == "ran"}
    why = "option samples: 64 → 48; data/calibration changed"  # its first 48 samples, of the same set
    assert ran == {"left/quantize": why, "left/engine": "left/quantize changed"}


def test_a_changed_model_file_is_noticed(tiny_recipe: Path, shared_workdir: Path) -> None:
    raise_error(build(tiny_recipe, shared_workdir, "gates=[]"))
    source = tiny_recipe.with_name("model.py")
    source.write_text(source.read_text().replace("manual_seed(7)", "manual_seed(8)"))
    outcome = build(tiny_recipe, shared_workdir, "gates=[]")
    assert "reused" not in {status for step, status in statuses(outcome).items() if step.endswith("/export")}


def test_a_damaged_entry_is_rebuilt(tiny_recipe: Path, shared_workdir: Path) -> None:
    outcome = build(tiny_recipe, shared_workdir)
    raise_error(outcome)
    key = next(step.key for step in outcome.report.steps if step.id == "left/engine")
    model = shared_workdir / "store" / "entries" / key / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    again = build(tiny_recipe, shared_workdir)
    raise_error(again)
    assert {step for step, status in statuses(again).items() if status == "ran"} == {"left/engine"}
    assert again.report.verdict is Verdict.PASS


def test_a_failed_gate_publishes_nothing_and_keeps_what_was_live(tiny_recipe: Path, shared_workdir: Path) -> None:
    raise_error(build(tiny_recipe, shared_workdir, "gates=[]"))
    live = (tiny_recipe.parents[1] / "published" / "two_towers").readlink()
    outcome = build(tiny_recipe, shared_workdir, "gates.0.min_cosine=0.9999999")
    assert outcome.error is None
    assert outcome.report.exit_code == 1
    assert outcome.report.published is None
    assert (outcome.report.staged / "two_towers" / "config.pbtxt").is_file()
    assert (tiny_recipe.parents[1] / "published" / "two_towers").readlink() == live


def test_two_builds_at_once_share_the_work(tiny_recipe: Path, tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    gateless = "gates=[]"
    threads = [
        threading.Thread(target=lambda: outcomes.append(build(tiny_recipe, tmp_path / "work", gateless, jobs=1)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outcome in outcomes:
        raise_error(outcome)
    made = [step for outcome in outcomes for step, status in statuses(outcome).items() if status == "ran"]
    assert len(made) == len(set(made)) == len(statuses(outcomes[0]))


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino (the extra cpu brings it)")
def test_openvino_is_built_served_judged_and_published(tiny_recipe: Path, shared_workdir: Path) -> None:
    outcome = build(tiny_recipe, shared_workdir, "components.left.engine={method: openvino, fixed_batches: [1]}")
    raise_error(outcome)
    report = outcome.report
    assert (report.verdict, report.substitute) == (Verdict.PASS, None)
    assert report.published is not None
    model = report.published / "two_towers.left"
    assert {file.name for file in (model / "1").iterdir()} == {"model.xml", "model.bin"}
    config = (model / "config.pbtxt").read_text()
    assert 'backend: "openvino"' in config
    assert "ENABLE_BATCH_PADDING" in config
    assert "FIXED_BATCHES" in config
    assert [finding for finding in lint(report.published) if finding.severity == "error"] == []
    feeds = {name: np.random.default_rng(0).standard_normal((3, 8), np.float32) for name in "ab"}
    entry = shared_workdir / "store" / "entries" / next(s.key for s in report.steps if s.id == "left/engine")
    artifact = Artifact.from_json((entry / "artifact.json").read_text(), entry)
    in_process = openvino.load(artifact, openvino.Options())
    asked = [{"values": feeds["a"][:size]} for size in (1, 3)]
    with triton_server.start(resolve(report.published.parent), log=shared_workdir / "openvino.log") as server:
        runner = GrpcRunner(server.grpc_url, "two_towers.left")
        for feed in asked:
            there, here = (one.infer(feed)["embedding"] for one in (runner, in_process))
            np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-6)
        with pytest.raises(InferenceError, match="NaN"):
            runner.infer({"values": np.full((1, 8), np.nan, np.float32)})
        runner.close()
        runner = GrpcRunner(server.grpc_url, "two_towers")
        assert runner.infer(feeds)["logits"].shape == (3, 4)
        runner.close()


def test_an_engine_that_cannot_run_here_is_judged_by_a_substitute(tiny_recipe: Path, shared_workdir: Path) -> None:
    target = ("target=tensorrt_rtx",)
    outcome = build(tiny_recipe, shared_workdir, *target)
    raise_error(outcome)
    report = outcome.report
    assert report.substitute is not None
    assert "left" in report.substitute
    assert (report.exit_code, report.verdict, report.published) == (5, Verdict.INCONCLUSIVE, None)
    assert (report.staged / "two_towers.left" / "1" / "model.plan").is_file()
    assert 'backend: "tensorrt_rtx"' in (report.staged / "two_towers.left" / "config.pbtxt").read_text()
    insisted = build(tiny_recipe, shared_workdir, *target, publish_unverified=True).report
    assert insisted.exit_code == 5
    assert insisted.published is not None


def test_the_size_that_is_judged_is_that_of_what_would_be_published(tiny_recipe: Path, shared_workdir: Path) -> None:
    """An engine that cannot run here is many times as large as the graph that stands in for it."""
    gates = 'gates=[{"method": "size", "max_ratio_to_reference": 1.0}]'
    report = build(tiny_recipe, shared_workdir, "target=tensorrt_rtx", gates).report
    staged = sum(path.stat().st_size for path in report.staged.glob("*/1/model.plan"))
    (gate,) = report.gates
    assert (gate.verdict, report.exit_code) == (Verdict.FAIL, 1)
    assert gate.details["candidate_bytes"] == staged
    assert gate.checks[0].measured == pytest.approx(staged / sum(size.reference_bytes or 0 for size in report.sizes))


# ---- what goes wrong


def replaced(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_factory_that_kills_its_process_is_one_failed_step(tiny_recipe: Path, shared_workdir: Path) -> None:
    replaced(tiny_recipe.with_name("model.py"), "    torch.manual_seed(7)", "    import os; os.abort()")
    outcome = build(tiny_recipe, shared_workdir, "gates=[]")
    assert isinstance(outcome.error, StepError)
    assert "died: signal SIGABRT" in outcome.error.message
    assert outcome.error.log is not None
    assert Path(outcome.error.log).is_file()
    assert outcome.report.failure is not None
    assert outcome.report.exit_code == 3
    assert [step.id for step in outcome.report.steps if step.status == "failed"] == [outcome.error.step]


def test_shapes_that_clash_are_found_when_the_graphs_are_known(tiny_recipe: Path, shared_workdir: Path) -> None:
    replaced(tiny_recipe.with_name("model.py"), "self.hidden = nn.Linear(32, 32)", "self.hidden = nn.Linear(48, 32)")
    outcome = build(tiny_recipe, shared_workdir, "gates=[]")
    assert isinstance(outcome.error, StepError)
    assert outcome.error.step == "fusion/export"


def test_a_declared_shape_that_the_graph_does_not_have_is_told(tiny_recipe: Path, shared_workdir: Path) -> None:
    declared = "components.right.outputs.embedding={tensor: right_embedding, dtype: FP32, shape: [24]}"
    outcome = build(tiny_recipe, shared_workdir, "gates=[]", declared)
    assert isinstance(outcome.error, ExportError)
    assert "output 'embedding' is FP32 [16], the recipe declares FP32 [24]" in outcome.error.message
    assert outcome.error.step == "right/export"


def run_cli(recipe: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "from mmdeploy.cli import main; main()", "build", str(recipe), *arguments],
        cwd=recipe.parents[1],
        env=os.environ | {"PYTHONPATH": str(Path(mmdeploy.__file__).parents[1]), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("moment", "told"),
    [("right/export", r"interrupted while (left/export, )?right/export ran"), ("gates/latency", "interrupted")],
    ids=["export", "gates"],
)
def test_ctrl_c_leaves_no_process_and_nothing_half_written(
    tiny_recipe: Path, shared_workdir: Path, moment: str, told: str
) -> None:
    work = shared_workdir if moment == "gates/latency" else tiny_recipe.parents[1] / "work"
    gates = "gates=[{method: latency, max_ratio_to_reference: 0.001, requests: 100000, max_seconds: 100}]"
    exporting = tiny_recipe.with_name("exporting")
    if moment != "gates/latency":  # which takes its time
        replaced(
            tiny_recipe.with_name("model.py"),
            "        return torch.relu(",
            "        if torch.compiler.is_exporting():\n"
            "            import pathlib, time\n"
            f"            pathlib.Path({str(exporting)!r}).touch()\n"
            "            time.sleep(300)\n"
            "        return torch.relu(",
        )
    process = run_cli(tiny_recipe, "--workdir", str(work), "--jobs", "2", "--set", gates)
    read_until(process, f"{moment}: started")
    if moment == "gates/latency":
        time.sleep(2.0)
    else:
        wait_until(exporting.exists, "the export")
    family = living_processes.below(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    living_processes.assert_ended(family)
    report = read_report(work / "runs" / "two_towers" / "latest")
    assert report.failure is not None
    assert re.fullmatch(told, report.failure.message)
    assert not (tiny_recipe.parents[1] / "model_repository" / "two_towers").exists()


def test_a_report_is_written_for_every_end(tiny_recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_recipe.parent, tmp_path / "broken")
    replaced(tmp_path / "broken" / "recipe.yaml", "factory: model.py:build", "factory: broken.py:build")
    (tmp_path / "broken" / "broken.py").write_text("def build():\n    raise RuntimeError('x')\n")
    with pytest.raises(ModelError):
        mmdeploy.build(
            mmdeploy.load_recipe(tmp_path / "broken" / "recipe.yaml"), Settings(workdir=tmp_path / "work", jobs=1)
        )
    folder = tmp_path / "work" / "runs" / "two_towers" / "latest"
    assert {path.name for path in folder.iterdir()} >= {"report.json", "report.md", "report.html", "junit.xml"}
    assert json.loads((folder / "report.json").read_text())["failure"]["step"].endswith("/export")
