"""What reports plot, read out of metadata: costs, and where accuracy went while training."""

from pathlib import Path

import pytest
from choice_records import chosen_metadata, measured
from recipe_samples import write_sample_files

from mmdeploy.building.figures import costs, stages
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.facts import as_metadata
from mmdeploy.prune.product import PruningFacts
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.record.build_report import ModuleCosts
from mmdeploy.training.record import EpochRecord, TrainingRecord

BEFORE = {"parameters": 1000, "nonzero_parameters": 1000, "flops": 2000, "bytes": 4000}
AFTER = {"parameters": 500, "nonzero_parameters": 500, "flops": 900, "bytes": 2000}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    write_sample_files(tmp_path)
    with (tmp_path / "data.py").open("a") as stream:
        stream.write("\n\ndef training(): ...\n\n\ndef validation(): ...\n")
    passes = "{method: structured, ratio: 0.4}"
    overrides = (
        "data.training=data.py:training",
        "data.validation=data.py:validation",
        f"components.image_encoder.prune={passes}",
        "components.image_encoder.recover={method: finetune}",
        "components.image_encoder.quantize={method: qat}",
    )
    return load_recipe(tmp_path / "recipe.yaml", overrides)


def made(**metadata: object) -> Artifact:
    return Artifact("onnx", Path("model.onnx"), "0" * 64, (), (), "test", metadata)


def trained(*metric: float | None) -> dict[str, object]:
    record = TrainingRecord("top1", True, steps_per_epoch=4, batch_size=32, processes=1, parameters=500)
    record.epochs += [EpochRecord(number, value, 0.5) for number, value in enumerate(metric)]
    return record.to_metadata()


def select(winner: str, *, compressed: bool, metric: float | None = 0.93, reference_compressed=False) -> Artifact:
    measurements = (
        measured("FP32", compressed=reference_compressed, metric=0.97),
        measured(
            "INT8", graph="quantized", compressed=compressed, ratio=0.4, ratio_interval=(0.38, 0.43), metric=metric
        ),
    )
    return made(**chosen_metadata(winner, *measurements, metric="top1", original_metric=0.97))


def test_costs_are_those_of_the_original_and_of_what_passes_left(recipe: Recipe) -> None:
    artifacts = {
        "image_encoder/original": made(costs=BEFORE),
        "image_encoder/prune": made(pruning=as_metadata(PruningFacts("magnitude", "zeros change nothing"))),
        "image_encoder/export": made(costs=AFTER),
        "image_encoder/engine": select("INT8", compressed=True),
        "fusion/export": made(costs=BEFORE),
        "audio_encoder/export": made(),
    }
    image, fusion = costs(recipe, artifacts)
    assert (image.component, image.before, image.after) == (
        "image_encoder", ModuleCosts(**BEFORE), ModuleCosts(**AFTER),
    )  # fmt: skip
    assert (image.latency_ratio, image.latency_ratio_interval) == (0.4, (0.38, 0.43))
    assert image.notes == ("zeros change nothing",)
    assert (fusion.before, fusion.after, fusion.latency_ratio, fusion.notes) == (ModuleCosts(**BEFORE), None, None, ())


def test_it_is_said_when_nothing_of_it_ships(recipe: Recipe) -> None:
    artifacts = {
        "image_encoder/original": made(costs=BEFORE),
        "image_encoder/export": made(costs=AFTER),
        "image_encoder/engine": select("FP32", compressed=True),
    }
    (image,) = costs(recipe, artifacts)
    assert image.notes == ("nothing of this ships: the component goes out uncompressed",)
    artifacts["image_encoder/export"] = made(costs=BEFORE)
    assert costs(recipe, artifacts)[0].notes == ()


def test_a_ratio_to_a_compressed_engine_is_not_the_gain_of_compression(recipe: Recipe) -> None:
    kept = select("INT8", compressed=True, reference_compressed=True)
    (image,) = costs(recipe, {"image_encoder/original": made(costs=BEFORE), "image_encoder/engine": kept})
    assert (image.latency_ratio, image.latency_ratio_interval) == (None, None)


def test_a_build_that_stopped_early_has_the_costs_it_got_to(recipe: Recipe) -> None:
    assert costs(recipe, {"image_encoder/export": made(costs=AFTER)}) == ()
    (image,) = costs(recipe, {"image_encoder/original": made(costs=BEFORE)})
    assert (image.before, image.after) == (ModuleCosts(**BEFORE), None)


def test_the_validation_metric_is_followed_through_passes_and_engine(recipe: Recipe) -> None:
    artifacts = {
        "image_encoder/prune": made(),
        "image_encoder/recover": made(training=trained(0.61, 0.9, 0.95, 0.94)),
        "image_encoder/train": made(training=trained(0.92, 0.91)),
        "image_encoder/engine": select("INT8", compressed=True),
    }
    (series,) = stages(recipe, artifacts, ())
    assert (series.component, series.metric) == ("image_encoder", "top1 in validation")
    assert [(stage.label, stage.value) for stage in series.stages] == [
        ("PyTorch FP32", 0.97),
        ("pruned", 0.61),
        ("recovered", 0.95),
        ("INT8, untrained", 0.92),
        ("INT8, trained", 0.92),
        ("engine", 0.93),
    ]
    assert "weights unchanged" in series.stages[4].note


def test_what_was_not_scored_is_no_stage(recipe: Recipe) -> None:
    artifacts = {
        "image_encoder/recover": made(training=trained(None, 0.9)),
        "image_encoder/engine": select("INT8", compressed=True, metric=None),
    }
    (series,) = stages(recipe, artifacts, ())
    assert [(stage.label, stage.value) for stage in series.stages] == [
        ("PyTorch FP32", 0.97), ("before training", None), ("trained", 0.9),
    ]  # fmt: skip
    del artifacts["image_encoder/recover"]
    assert stages(recipe, artifacts, ()) == ()
