"""Parameters and FLOPs before and after pruning: in every rendering where they changed, nowhere where they did not."""

from report_samples import passed
from rich.console import Console

from mmdeploy.artifact import Artifact
from mmdeploy.build_report import BuildReport, CostRecord
from mmdeploy.costs import Costs
from mmdeploy.figures import costs
from mmdeploy.report import html, markdown, module_costs
from mmdeploy.report.terminal import Summary

FULL, SMALL = Costs(600_000, 600_000, 25_000_000, 2_400_000), Costs(360_000, 350_000, 15_000_000, 1_440_000)


def report(candidate: Costs = SMALL) -> BuildReport:
    records = [
        CostRecord(component="image", reference=FULL, candidate=candidate),
        CostRecord(component="fusion", reference=FULL, candidate=FULL),
    ]
    return passed().model_copy(update={"costs": tuple(records)})


def test_each_component_and_the_total() -> None:
    image, fusion, total = module_costs.changed(report())
    assert module_costs.cells(image) == (
        "600 k → 360 k (0.60)",
        "600 k → 350 k (0.58)",
        "25.0 M → 15.0 M (0.60)",
    )
    assert module_costs.cells(fusion) == ("600 k", "600 k", "25.0 M")
    assert total.component == "total"
    assert total.candidate.parameters == 960_000


def test_nothing_is_shown_where_nothing_was_pruned() -> None:
    assert module_costs.changed(report(FULL)) == []
    assert "Costs of the module" not in markdown.render(report(FULL))
    assert "What pruning took away" not in html.render(report(FULL))


def test_every_rendering_says_it() -> None:
    assert "| `image` | 600 k → 360 k (0.60) |" in markdown.render(report())
    assert "600 k → 360 k (0.60)" in html.render(report())
    console = Console(width=100, record=True, legacy_windows=False)
    with console.capture() as captured:
        console.print(Summary(report()))
    assert "FLOPs of a sample 50.0 M → 40.0 M (0.80)" in " ".join(captured.get().split())


def test_a_report_with_costs_is_read_back() -> None:
    assert BuildReport.model_validate_json(report().to_json()) == report()


class _Recipe:
    def __init__(self, component: object) -> None:
        self.components = {"image": component}


class _Pruned:
    prune, recover, quantize = object(), None, None


def test_what_ships_uncompressed_costs_what_the_original_does(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("mmdeploy.figures.original_graph", lambda recipe, name: f"{name}/original")

    def artifact(**metadata: object) -> Artifact:
        return Artifact("onnx", tmp_path, "", (), (), "test", metadata=metadata)

    artifacts = {
        "image/original": artifact(costs=FULL.to_metadata()),
        "image/export": artifact(costs=SMALL.to_metadata()),
        "image/engine": artifact(
            chosen="FP32",
            measurements=[{"label": "FP32", "compressed": False}, {"label": "INT8", "compressed": True}],
        ),
    }
    recipe = _Recipe(_Pruned())
    assert costs(recipe, artifacts)[0].candidate == FULL  # type: ignore[arg-type]
    artifacts["image/engine"].metadata["chosen"] = "INT8"  # type: ignore[index]
    assert costs(recipe, artifacts)[0].candidate == SMALL  # type: ignore[arg-type]
    artifacts["image/engine"] = artifact()
    assert costs(recipe, artifacts)[0].candidate == SMALL  # type: ignore[arg-type]
