"""Sensitivity and the search, on a model in which INT8 destroys one layer by construction: ``blocks.1.down``."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from fused_samples import OUTLIER_RECIPE, exported, judged, search_context

from mmdeploy.core.contracts import Encoding, LatencyEstimate
from mmdeploy.core.errors import BudgetError, QuantizeError
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.quantize import auto, sensitivity, static
from mmdeploy.quantize.auto import Options
from mmdeploy.quantize.partial import PartialGraphs
from mmdeploy.recipe.loader import load_recipe

DESTROYED = "blocks.1.down"
GROUPS = [f"blocks.{block}.{layer}" for block in range(3) for layer in ("up", "down")]
STATIC = {"calibrator": "minmax", "samples": 64}


@pytest.fixture(scope="module")
def outlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outlier")
    recipe = load_recipe(OUTLIER_RECIPE)
    artifacts = {name: exported(recipe, name, folder / name) for name in recipe.components}
    return SimpleNamespace(recipe=recipe, **artifacts, graphs={name: one.path for name, one in artifacts.items()})


@pytest.fixture
def context_of(outlier, tmp_path):
    def make(**changes):
        changes.setdefault("fused", judged(outlier.recipe, "tower", outlier.graphs))
        component = changes.pop("component", "tower")
        return search_context(outlier.recipe, component, tmp_path / str(len(list(tmp_path.iterdir()))), **changes)

    return make


class CountedJudge:
    """The real judge; dies after so many scores, as if killed."""

    def __init__(self, judge, die_after=None):
        self.judge, self.die_after, self.scores = judge, die_after, 0

    def __getattr__(self, name):
        return getattr(self.judge, name)

    def score(self, graph, part=None):
        if self.scores == self.die_after:
            raise KeyboardInterrupt
        self.scores += 1
        return self.judge.score(graph, part)


def quantized_layers(path: Path) -> set[str]:
    """Return the layers whose product ONNX says has a dequantized weight: an inspection of the file alone."""
    graph = onnx.load(path).graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.name.rpartition("/")[0]
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in dequantized
    }


def pretended(milliseconds):
    """Return a stopwatch that gives each graph a latency by the layers that are INT8 in it, without noise."""

    def timed(graphs):
        taken = {label: milliseconds(quantized_layers(path)) for label, path in graphs.items()}
        first = next(iter(taken.values()))
        return {
            label: LatencyEstimate(ms, ms / first, (ms / first - 0.01, ms / first + 0.01))
            for label, ms in taken.items()
        }

    return timed


def test_the_layer_that_int8_destroys_ranks_first(outlier, context_of):
    found = sensitivity.run(outlier.tower, sensitivity.Options.model_validate(STATIC), context_of())
    ranked = found.metadata["sensitivity"]
    assert ranked[0]["group"] == DESTROYED
    assert sorted(row["group"] for row in ranked) == sorted(GROUPS)
    assert ranked[0]["drop"] > 0.15 > 20 * max(row["drop"] for row in ranked[1:])
    assert ranked[0]["sqnr_db"] < 10 < 40 < min(row["sqnr_db"] for row in ranked[1:])
    assert ranked[0]["drop_interval"][0] > 0.1
    assert found.metadata["whole"]["drop"] == pytest.approx(ranked[0]["drop"], abs=0.05)
    assert found.format == "sensitivity"
    assert json.loads(found.path.read_text()) == found.metadata
    assert [file.name for file in found.path.parent.iterdir()] == ["sensitivity.json"]


def test_a_group_is_scored_as_static_quantization_of_it_alone(outlier, context_of):
    """The same group by excluding all others, calibrated anew."""
    context = context_of()
    found = sensitivity.run(outlier.tower, sensitivity.Options.model_validate(STATIC), context)
    row = next(row for row in found.metadata["sensitivity"] if row["group"] == "blocks.2.up")
    others = [f"{name}/*" for name in GROUPS if name != "blocks.2.up"]
    alone = static.run(outlier.tower, static.Options.model_validate(STATIC | {"exclude": others}), context_of())
    score = context.fused.score(alone.path)
    assert (row["metric"], row["sqnr_db"]) == (score.metric, pytest.approx(score.sqnr_db, abs=0.01))


def test_a_killed_analysis_goes_on_where_it_was(outlier, context_of, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = sensitivity.Options.model_validate(STATIC)
    killed = CountedJudge(judged(outlier.recipe, "tower", outlier.graphs), die_after=4)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.run(outlier.tower, options, context_of(fused=killed, scratch=scratch))
    assert len((scratch / sensitivity.JOURNAL).read_text().splitlines()) == 5  # and the original's
    resumed = CountedJudge(judged(outlier.recipe, "tower", outlier.graphs))
    after = sensitivity.run(outlier.tower, options, context_of(fused=resumed, scratch=scratch))
    whole = sensitivity.run(outlier.tower, options, context_of())
    assert resumed.scores == len(GROUPS) + 1 - 4
    assert after.metadata["sensitivity"] == whole.metadata["sensitivity"]
    assert after.metadata["evaluations"] == whole.metadata["evaluations"] == len(GROUPS) + 2


def test_an_analysis_that_the_kernel_kills_goes_on_where_it_was(tmp_path):
    """Processes of their own: the first ends itself with SIGKILL at its fourth score."""
    script = Path(__file__).with_name("killed_analysis.py")
    (tmp_path / "scratch").mkdir()

    def analysis(name, die_after):
        arguments = [sys.executable, str(script), str(tmp_path / name), str(tmp_path / "scratch"), str(die_after)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False, env=environment)

    assert analysis("killed", 4).returncode == -signal.SIGKILL
    resumed = analysis("resumed", 99)
    assert resumed.stdout.split() == [str(len(GROUPS) + 1 - 4), str(len(GROUPS) + 2), DESTROYED], resumed.stderr


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_search_gives_the_destroyed_layer_back(outlier, context_of, encoding):
    context = context_of(encoding=encoding)
    found = auto.run(outlier.tower, Options.model_validate(STATIC | {"max_drop": 0.02}), context)
    assert DESTROYED in found.metadata["float_groups"]
    assert len(found.metadata["int8_groups"]) >= 4
    assert quantized_layers(found.path) == set(found.metadata["int8_groups"])
    assert found.metadata["held_back"]["drop"] <= 0.02
    assert context.fused.score(found.path, slice(1, None, 2)).metric == found.metadata["held_back"]["metric"]
    assert found.metadata["decisions"][0]["what"].startswith(DESTROYED)
    assert sorted(file.name for file in context.workdir.iterdir()) == ["found.npz", "model.onnx"]


@pytest.mark.parametrize("how", [{}, {"calibrator": "mse", "equalize": 0.5}], ids=["minmax", "mse, equalized"])
def test_the_plain_section_gives_the_same_bytes(outlier, context_of, how):
    found = auto.run(outlier.tower, Options.model_validate(STATIC | {"max_drop": 0.02} | how), context_of())
    section = json.loads(json.dumps(found.metadata["plain"]))
    assert section["exclude"] == [f"{name}/*" for name in GROUPS if name in found.metadata["float_groups"]]
    again = static.run(outlier.tower, static.Options.model_validate(section), context_of(fused=None))
    assert again.path.read_bytes() == found.path.read_bytes()
    assert again.sha256 == found.sha256


def test_another_encoding_of_a_result_is_written_without_a_search(outlier, context_of):
    options = Options.model_validate(STATIC | {"max_drop": 0.02})
    found = auto.run(outlier.tower, options, context_of())
    context = context_of(encoding=Encoding.INT8_SYMMETRIC, fused=None)
    other = auto.write(outlier.tower, found, options, context)
    plain = static.Options.model_validate(found.metadata["plain"])
    again = static.run(outlier.tower, plain, context_of(encoding=Encoding.INT8_SYMMETRIC))
    assert other.sha256 == again.sha256 != found.sha256
    assert other.metadata["plain"] == found.metadata["plain"]


def test_a_killed_search_goes_on_where_it_was(outlier, context_of, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = Options.model_validate(STATIC | {"max_drop": 0.02})
    timed = []

    def counted(graphs):
        timed.append(list(graphs))
        return pretended(lambda layers: 10 - len(layers))(graphs)

    killed = CountedJudge(judged(outlier.recipe, "tower", outlier.graphs), die_after=8)
    with pytest.raises(KeyboardInterrupt):
        auto.run(outlier.tower, options, context_of(fused=killed, scratch=scratch, timed=counted))
    before = len(timed)
    resumed = CountedJudge(judged(outlier.recipe, "tower", outlier.graphs))
    after = auto.run(outlier.tower, options, context_of(fused=resumed, scratch=scratch, timed=counted))
    whole = auto.run(outlier.tower, options, context_of(timed=pretended(lambda layers: 10 - len(layers))))
    assert after.sha256 == whole.sha256
    assert resumed.scores + 8 <= whole.metadata["evaluations"]
    assert before and all(asked not in timed[:before] for asked in timed[before:])


def test_groups_that_bring_no_speed_go_back_whatever_their_accuracy(outlier, context_of):
    def milliseconds(layers):
        return 10 - len(layers - {"blocks.0.up", "blocks.0.down"}) + 0.5 * ("blocks.0.up" in layers)

    options = Options.model_validate(STATIC | {"max_drop": 0.02})
    found = auto.run(outlier.tower, options, context_of(timed=pretended(milliseconds)))
    assert {"blocks.0.up", "blocks.0.down", DESTROYED} <= set(found.metadata["float_groups"])
    reasons = {decision["what"].split()[0]: decision["why"] for decision in found.metadata["decisions"]}
    assert "not measurably faster" in reasons["blocks.0.up"]
    assert "budget" in reasons[DESTROYED]
    assert found.metadata["latency"]["FP32 to the result"]["ratio"] > 1
    kept = auto.run(
        outlier.tower, options.model_copy(update={"must_pay": False}), context_of(timed=pretended(milliseconds))
    )
    assert "blocks.0.up" in kept.metadata["int8_groups"]
    assert kept.metadata["latency"] is None


def test_many_gains_too_small_to_see_are_kept_where_together_they_show(outlier, context_of):
    """Each layer brings half a percent, within the interval of one percent; all of them three."""
    options = Options.model_validate(STATIC | {"max_drop": 0.02})
    timed = pretended(lambda layers: 10 - 0.05 * len(layers))
    found = auto.run(outlier.tower, options, context_of(timed=timed))
    slow = [one for one in found.metadata["decisions"] if "measurably" in one["why"]]
    assert 0 < len(slow) < len(GROUPS)


def test_a_component_that_int8_does_not_speed_up_is_left_to_the_choice_of_engines(outlier, context_of):
    options = Options.model_validate(STATIC | {"max_drop": 0.02})
    found = auto.run(outlier.tower, options, context_of(timed=pretended(lambda layers: 10)))
    assert found.metadata["float_groups"] == [DESTROYED]


def test_the_budget_decides_how_much_goes_back(outlier, context_of):
    generous = auto.run(outlier.tower, Options.model_validate(STATIC | {"max_drop": 0.5}), context_of())
    assert generous.metadata["float_groups"] == []
    assert generous.metadata["decisions"] == []
    assert generous.metadata["plain"]["exclude"] == []


def test_a_budget_that_nothing_keeps_shows_the_best_found(outlier, context_of):
    """One group of all layers cannot be split, and it holds the destroyed one."""
    options = Options.model_validate(STATIC | {"max_drop": 0.02, "groups": ["*"]})
    with pytest.raises(BudgetError, match=r"max_drop 0\.02 of top1, cannot be kept .* best found has 1 of 1") as caught:
        auto.run(outlier.tower, options, context_of())
    assert caught.value.exit_code == 1
    assert caught.value.best["int8"] == ["*"]
    assert caught.value.best["drop"] > 0.15


def test_a_budget_that_is_lost_upstream_says_so(outlier, context_of, tmp_path):
    """The head is judged, and calibrated, behind a tower that INT8 has destroyed."""
    graphs = PartialGraphs(outlier.tower, Options.model_validate(STATIC), context_of())
    ruined = graphs.write([group.name for group in graphs.groups], tmp_path / "ruined.onnx")
    tower, before = SessionRunner(open_session(ruined, {})), context_of().calibration
    context = context_of(
        component="head",
        fused=judged(outlier.recipe, "head", outlier.graphs, {"tower": ruined}),
        calibration=lambda: (tower.infer(feed) for feed in before()),
    )
    with pytest.raises(BudgetError, match=r"head: the budget, max_drop 0\.02 of top1, is lost before it") as caught:
        auto.run(outlier.head, Options.model_validate(STATIC | {"max_drop": 0.02}), context)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("module", [auto, sensitivity])
def test_validation_data_is_asked_for_by_name(outlier, context_of, module):
    with pytest.raises(QuantizeError, match="validation data") as caught:
        module.run(outlier.tower, module.Options(), context_of(fused=None))
    assert "data.validation" in str(caught.value.hint)


def test_the_interval_rule_wants_more_samples_than_there_are(outlier, context_of):
    """100 samples cannot prove a loss of under one point, even where none is lost."""
    options = Options.model_validate(STATIC | {"max_drop": 0.01, "rule": "interval"})
    with pytest.raises(BudgetError, match="best found"):
        auto.run(outlier.tower, options, context_of())


def test_options_of_a_section_are_those_of_the_analysis():
    section = static.Options(calibrator="entropy", samples=17, exclude=("a.*",))
    taken = sensitivity.options_for(section)
    assert (taken.calibrator, taken.samples, taken.exclude) == ("entropy", 17, ("a.*",))
    assert sensitivity.options_for(None) == sensitivity.Options()
