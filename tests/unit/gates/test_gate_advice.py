"""Advice is about what was done: what was not is not blamed, and what nothing can help is said to be so."""

from dataclasses import replace

import numpy as np
import pytest
from gate_evidence import COMPONENTS, SteppedClock, TimedDeployment, deployment, evidence, fusion, image_encoder

from mmdeploy import gates
from mmdeploy.core.contracts import Check, GateResult, Verdict
from mmdeploy.gates import accuracy, advising, latency, parity


def compressed(**passes):
    return tuple(replace(one, passes=tuple(passes.get(one.name, ()))) for one in COMPONENTS)


def advised(options, given):
    (result,), _ = gates.run_all([options], given)
    assert result.verdict is not Verdict.PASS
    return result.advice


def losing(change):
    return deployment({"fusion": lambda image, audio: {"logits": change(fusion(image, audio)["logits"])}})


def shifted(logits):
    return np.roll(logits, 1, axis=1)


def test_an_original_that_misses_the_limit_is_not_blamed_on_what_was_done_to_it():
    given = evidence(components=compressed(image_encoder=["quantize static"]))
    told = advised(accuracy.Options(metric="top1", min=0.995), given)
    assert told.startswith("the PyTorch original itself scores 0.8958 and misses `min: 0.995`")
    assert "calibrator" not in told
    errors = evidence(labels=given.original["logits"] + 1)
    assert "misses `max: 0.5`" in advised(accuracy.Options(metric="mse", max=0.5), errors)


@pytest.mark.parametrize("options", [accuracy.Options(metric="top1", max_drop=0.01), parity.Options(min_cosine=0.99)])
def test_where_nothing_was_quantized_no_calibrator_is_tried(options):
    told = advised(options, evidence(candidate=losing(shifted)))
    assert told.startswith("nothing here was pruned or quantized")
    assert "mmdeploy debug RECIPE COMPONENT" in told
    for word in ("calibrator", "INT8 in", "ratio"):
        assert word not in told


def test_where_components_keep_parity_and_the_whole_does_not_they_are_not_blamed():
    def told(of_component: Verdict, passes: tuple[str, ...] = ()) -> str | None:
        checks = (
            Check("fusion: worst cosine", 0.999, ">= 0.99", of_component),
            Check("end to end.logits: worst cosine", 0.9, ">= 0.99", Verdict.FAIL),
        )
        result = GateResult("parity", checks, {advising.PASSES: {"fusion": list(passes)}})
        return parity.advice(parity.Options(min_cosine=0.99), result)

    assert "the ensemble does not: what lies between them" in told(Verdict.PASS)
    assert "nothing here was pruned or quantized" in told(Verdict.FAIL)
    assert "lies between" not in told(Verdict.PASS, ("quantize static",))


def test_what_the_reference_loses_too_was_lost_before_compression():
    both = {"candidate": losing(shifted), "reference": losing(shifted)}
    given = evidence(components=compressed(fusion=["quantize static"]), **both)
    told = advised(accuracy.Options(metric="top1", max_drop=0.01), given)
    assert "the FP32 reference, served, scores" in told
    assert "calibrator" not in told


def test_each_pass_has_the_advice_that_fits_and_the_commands_that_help():
    done = compressed(
        image_encoder=["prune structured", "quantize static"], audio_encoder=["quantize qat"], fusion=["precision bf16"]
    )
    told = advised(accuracy.Options(metric="top1", max_drop=0.01), evidence(candidate=losing(shifted), components=done))
    assert "INT8 in image_encoder, audio_encoder: `mmdeploy sensitivity RECIPE --component NAME`" in told
    for part in (
        "`exclude`",
        "`quantize: {method: auto}`",
        "ranges in image_encoder: try `equalize`",
        "`mmdeploy debug",
    ):
        assert part in told
    assert "trained INT8 in audio_encoder" in told
    assert "pruned image_encoder: a smaller `ratio`" in told
    assert "engine of fusion: `precision: fp32`" in told


def test_parity_advises_on_the_component_that_fails_alone():
    done = compressed(image_encoder=["quantize static"], fusion=["prune structured"])
    off = deployment({"image_encoder": lambda pixels: {"embedding": -image_encoder(pixels)["embedding"]}})
    told = advised(parity.Options(min_cosine=0.99), evidence(candidate=off, components=done))
    assert told.startswith("INT8 in image_encoder:")
    assert "pruned" not in told
    end = advised(parity.Options(min_cosine=0.99, scope="end_to_end"), evidence(candidate=off, components=done))
    assert "pruned fusion" in end


def test_the_noisiest_component_and_its_worst_node_are_named():
    passes = {one.name: ("quantize static",) for one in COMPONENTS}
    noise = {"image_encoder": 12.0, "audio_encoder": 41.0, "fusion": 43.0}
    nodes = {"image_encoder": {"layers.0[1]/MatMul": 9.5, "head/MatMul": 30.0}, "fusion": {"head/Gemm": 35.0}}
    parts = tuple(
        replace(one, passes=passes[one.name], sqnr_db=noise[one.name], worst_nodes=nodes.get(one.name, {}))
        for one in COMPONENTS
    )
    told = advised(
        accuracy.Options(metric="top1", max_drop=0.01), evidence(candidate=losing(shifted), components=parts)
    )
    assert told.startswith(
        "look at image_encoder first: INT8 leaves 12.0 dB of it, and 42.0 dB of the other components; "
        "the node of image_encoder that loses most by itself is layers.0[1]/MatMul (9.5 dB): "
        '`exclude: ["layers.0[[]1]/MatMul"]` leaves it in float; '
        "the node of fusion that loses most by itself is head/Gemm (35.0 dB)"
    )
    alone = advised(parity.Options(min_cosine=0.99), evidence(candidate=losing(shifted), components=parts))
    assert "fusion that loses most" in alone
    assert "image_encoder" not in alone


def test_ranges_of_few_samples_are_suspected_first():
    counts = {"image_encoder": 64, "audio_encoder": 100, "fusion": None}
    parts = tuple(
        replace(one, passes=("quantize static",), calibrated_on=counts[one.name], sqnr_db=30.0) for one in COMPONENTS
    )
    off = deployment({"image_encoder": lambda pixels: {"embedding": -image_encoder(pixels)["embedding"]}})
    told = advised(parity.Options(min_cosine=0.99), evidence(candidate=off, components=parts))
    assert told.startswith(
        "ranges in image_encoder come from 64 samples, and what lies far beyond them is clipped: up to 1 request in "
        "32 is beyond them in any given tensor; give `calibration` more, 100 to 500; "
    )
    assert "audio_encoder come from" not in told


@pytest.mark.parametrize(
    ("noise", "far"),
    [
        ({"a": 20.0, "b": 40.0}, ["a"]),
        ({"a": 20.1, "b": 40.0}, []),
        ({"a": 20.0, "b": None}, []),
        ({"a": 11.0}, []),
        ({"a": 15.0, "b": 36.0, "c": 21.0, "d": 50.0}, ["a"]),
        ({}, []),
    ],
)
def test_far_below_is_a_tenth_of_the_others_middle(noise, far):
    assert list(advising.far_below(noise)) == far


@pytest.mark.parametrize(
    ("passes", "words"),
    [([], "nothing was compressed: candidate and reference run the same graphs"), (["quantize static"], "of fusion")],
)
def test_a_slow_candidate_is_advised_on_what_was_compressed(passes, words):
    clock = SteppedClock()
    sides = {
        "candidate": TimedDeployment(deployment(), clock, lambda: 0.02),
        "reference": TimedDeployment(deployment(), clock, lambda: 0.01),
    }
    given = evidence(components=compressed(fusion=passes), **sides)
    options = latency.Options(max_ratio_to_reference=1.0, per_component=False, max_seconds=20)
    result = latency.check(options, given, clock=clock)
    assert result.verdict is Verdict.FAIL
    assert words in (latency.advice(options, result) or "")
