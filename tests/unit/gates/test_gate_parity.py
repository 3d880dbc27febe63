import dataclasses

import numpy as np
import pytest
from gate_evidence import SAMPLES, audio_encoder, deployment, evidence, fusion, image_encoder
from pydantic import ValidationError

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.gates import parity


def options(**given):
    return parity.Options(method="parity", **given)


def verdicts(result):
    return {check.name: check.verdict for check in result.checks}


def off_by(factor, noise=0.0):
    def image(pixels):
        embedding = image_encoder(pixels)["embedding"]
        return {"embedding": embedding * factor + noise * np.sin(np.arange(8)).astype(np.float32)}

    return image


def test_equal_models_pass_every_limit():
    result = parity.check(options(min_cosine=0.9999, min_sqnr_db=100, max_abs_error=0.0), evidence())
    assert result.verdict is Verdict.PASS
    assert len(result.checks) == 3 * 5  # four component outputs and the ensemble's
    assert all(check.measured is not None for check in result.checks)
    assert {check.samples for check in result.checks} == {SAMPLES}


def test_only_the_component_that_is_off_fails_and_the_ensemble_with_it():
    candidate = deployment({"image_encoder": off_by(1.0, noise=3.0)})
    result = parity.check(options(min_cosine=0.999), evidence(candidate=candidate))
    failed = {name.partition(":")[0] for name, verdict in verdicts(result).items() if verdict is Verdict.FAIL}
    assert failed == {"image_encoder", "end to end"}


def test_a_stream_keeps_the_limits_in_other_chunks_too():
    others = {
        "chunks of 1": deployment(),
        "chunks of 6": deployment({"fusion": lambda **given: wrong(fusion(**given))}),
    }

    def wrong(answers):
        return {name: -array for name, array in answers.items()}

    result = parity.check(options(min_cosine=0.9, scope="end_to_end"), dataclasses.replace(evidence(), recut=others))
    check = result.checks[0]
    assert check.verdict is Verdict.FAIL and check.note == "chunks of 6; 1 in the recipe's"


def test_a_wrong_scale_passes_the_cosine_and_fails_the_sqnr():
    candidate = deployment({"image_encoder": off_by(1.1)})
    result = parity.check(options(min_cosine=0.9999, min_sqnr_db=25, scope="components"), evidence(candidate=candidate))
    found = verdicts(result)
    assert found["image_encoder: worst cosine"] is Verdict.PASS
    assert found["image_encoder: worst SQNR"] is Verdict.FAIL
    sqnr = next(check for check in result.checks if check.name == "image_encoder: worst SQNR")
    assert sqnr.measured == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize(("factor", "kept"), [(1000.0, False), (2.0, False), (0.5, False), (1.1, True), (1.0, True)])
def test_cosine_alone_judges_the_norms_too(factor, kept):
    given = evidence(candidate=deployment({"image_encoder": off_by(np.float32(factor))}))
    result = parity.check(options(min_cosine=0.99, outputs=["image_embedding"]), given)
    cosine, norm = result.checks
    assert (cosine.verdict, norm.verdict) == (Verdict.PASS, Verdict.PASS if kept else Verdict.FAIL)
    assert (norm.name, norm.limit) == ("image_encoder: worst norm error", "<= 0.141")
    assert norm.measured == pytest.approx(abs(factor - 1), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("min_cosine", "allowed"), [(0.9, 0.436), (0.9999, 0.05), (1.0, 0.05), (0.0, 1.0), (-1.0, 1.0)]
)
def test_norms_may_differ_by_what_the_cosine_allows_and_by_five_percent(min_cosine, allowed):
    assert options(min_cosine=min_cosine).max_norm_error == pytest.approx(allowed, abs=1e-6)


@pytest.mark.parametrize("seen", [{"max_scale_error": 3.0}, {"min_sqnr_db": -10.0}, {"max_abs_error": 1e6}])
def test_a_limit_that_sees_the_size_takes_the_place_of_that_on_norms(seen):
    given = evidence(candidate=deployment({"image_encoder": off_by(np.float32(2.0))}))
    result = parity.check(options(min_cosine=0.99, outputs=["image_embedding"], **seen), given)
    assert len(result.checks) == 2
    assert result.verdict is Verdict.PASS


def wrong_in_batches(function, is_wrong):
    """An encoder that answers with other samples' embeddings in requests of some sizes."""

    def answer(pixels):
        found = function(pixels)
        return {"embedding": -found["embedding"]} if is_wrong(len(pixels)) else found

    return deployment({"image_encoder": answer})


@pytest.mark.parametrize("statistic", ["worst", "mean"])
@pytest.mark.parametrize(
    ("is_wrong", "note"),
    [
        (lambda size: size == 1, "batches of 1; 1 in the largest"),
        (lambda size: size % 2 == 1 and size > 1, "batches of 3 and 15; 1 in the largest"),
        (lambda size: size == 15, "batches of 3 and 15; 1 in the largest"),
        (lambda size: size == 16, ""),
    ],
)
def test_a_candidate_that_is_wrong_in_batches_of_one_size_fails(is_wrong, note, statistic):
    given = evidence(candidate=wrong_in_batches(image_encoder, is_wrong))
    result = parity.check(options(min_cosine=0.99, statistic=statistic), given)
    failed = {check.name: check.note for check in result.checks if check.verdict is Verdict.FAIL}
    assert failed[f"image_encoder: {statistic} cosine"] == note
    assert f"end to end: {statistic} cosine" in failed
    assert not any(name.startswith("audio_encoder") for name in failed)


def test_a_request_of_one_that_is_refused_fails_and_says_so():
    def refusing(pixels):
        if len(pixels) == 1:
            raise InferenceError("expected a batch of 16")
        return image_encoder(pixels)

    given = evidence(candidate=deployment({"image_encoder": refusing}))
    result = parity.check(options(min_cosine=0.99, scope="components"), given)
    (check,) = [check for check in result.checks if check.name.startswith("image_encoder")]
    assert check.verdict is Verdict.FAIL
    assert check.note.startswith("batches of 1: the candidate did not answer: sample 0 refused: expected a batch")


def test_a_mean_over_few_samples_that_is_beyond_is_taken_over_all():
    """The samples asked again are no fair share: three of the 32 are off, and of all 96 only these."""
    original = evidence().original["logits"]
    off = original[[0, 46, 95]]

    def off_alone(image, audio):
        logits = fusion(image, audio)["logits"]
        bad = (np.abs(logits[:, None] - off[None]).sum(axis=2) < 1e-3).any(axis=1, keepdims=True)
        return {"logits": np.where(bad & (len(logits) == 1), -logits, logits)}

    given = evidence(candidate=deployment({"fusion": off_alone}))
    wanted = {"outputs": ["logits"], "scope": "end_to_end", "max_scale_error": 1.0}
    assert parity.check(options(min_cosine=0.9, statistic="mean", **wanted), given).verdict is Verdict.PASS
    assert parity.check(options(min_cosine=0.9, **wanted), given).verdict is Verdict.FAIL


def test_one_bad_sample_fails_the_worst_and_not_the_mean():
    original = evidence().original["logits"]

    def one_bad(image, audio):
        logits = fusion(image, audio)["logits"]
        return {"logits": np.where(np.isclose(logits, original[5]).all(axis=-1, keepdims=True), -logits, logits)}

    given = evidence(candidate=deployment({"fusion": one_bad}))
    worst = parity.check(options(min_cosine=0.9, scope="end_to_end"), given)
    mean = parity.check(options(min_cosine=0.9, scope="end_to_end", statistic="mean"), given)
    assert (worst.verdict, mean.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert worst.checks[0].measured == pytest.approx(-1.0)
    assert mean.checks[0].measured == pytest.approx(1 - 2 / SAMPLES)


def test_a_refused_request_is_a_failed_check_and_the_others_are_still_judged():
    def refusing(waveform):
        raise InferenceError("request refused: too long")

    result = parity.check(options(min_cosine=0.9), evidence(candidate=deployment({"audio_encoder": refusing})))
    by_name = {check.name: check for check in result.checks}
    assert "samples 0 to 15 refused: request refused: too long" in by_name["audio_encoder: parity"].note
    assert by_name["audio_encoder: parity"].verdict is Verdict.FAIL
    assert by_name["end to end: parity"].verdict is Verdict.FAIL
    assert by_name["image_encoder: worst cosine"].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (lambda logits: np.where(logits > 20, np.nan, logits), "answers hold NaN or Inf"),
        (lambda logits: logits[:, :-1], "answers [5] a sample, the original [6]"),
        (lambda logits: logits[:-1], "of 16 samples has shape [15, 6]"),
    ],
)
def test_broken_answers_fail_with_the_reason(answer, note):
    def broken(image, audio):
        return {"logits": answer(fusion(image, audio)["logits"])}

    given = evidence(candidate=deployment({"fusion": broken}))
    result = parity.check(options(min_cosine=-1.0, scope="end_to_end"), given)
    assert result.verdict is Verdict.FAIL
    assert note in result.checks[0].note


def test_a_missing_output_fails():
    candidate = deployment({"fusion": lambda image, audio: {"energy": fusion(image, audio)["logits"]}})
    result = parity.check(options(min_cosine=0.0, scope="components"), evidence(candidate=candidate))
    check = next(check for check in result.checks if check.name.startswith("fusion"))
    assert (check.verdict, check.note) == (Verdict.FAIL, "the candidate's answer lacks the output 'logits'")


def test_requests_are_as_large_as_the_ensemble_takes_and_no_larger():
    rows = []

    def recording(pixels):
        rows.append(len(pixels))
        return image_encoder(pixels)

    candidate = deployment({"image_encoder": recording})
    parity.check(options(min_cosine=0.9, scope="end_to_end"), evidence(candidate=candidate, max_batch_size=40))
    assert rows == [40, 40, 16, *[1] * 32, 3, 39]


def test_few_samples_still_make_a_request_of_the_largest_size():
    rows = []

    def recording(pixels):
        rows.append(len(pixels))
        return image_encoder(pixels)

    given = evidence(candidate=deployment({"image_encoder": recording}), max_batch_size=200)
    result = parity.check(options(min_cosine=0.9999, scope="end_to_end", samples=5), given)
    assert result.verdict is Verdict.PASS
    assert rows == [200, *[1] * 5, 3, 2]


def test_an_ensemble_that_does_not_batch_is_asked_one_sample_at_a_time():
    # With max_batch_size 0 the graph's batch axis is served as a plain dimension, so it stays in the request.
    shapes = set()

    def recording(image, audio):
        shapes.add(image.shape)
        return fusion(image, audio)

    given = evidence(candidate=deployment({"fusion": recording}), max_batch_size=0)
    result = parity.check(options(min_cosine=0.9999), given)
    assert result.verdict is Verdict.PASS
    assert shapes == {(1, 8)}


def test_samples_are_spread_over_the_evaluation_set():
    seen = []

    def recording(pixels):
        seen.extend(pixels[:, 0])
        return image_encoder(pixels)

    given = evidence(candidate=deployment({"image_encoder": recording}))
    result = parity.check(options(min_cosine=0.9, scope="end_to_end", samples=3), given)
    assert seen[:3] == list(given.feeds["image"][[0, 48, 95], 0])
    assert set(seen) == set(seen[:3])
    assert result.details["samples"] == 3


@pytest.mark.parametrize(("scope", "asked"), [("components", 4), ("end_to_end", 1), ("both", 5)])
def test_scope(scope, asked):
    assert len(parity.check(options(min_sqnr_db=20, scope=scope), evidence()).checks) == asked


def test_no_samples_is_a_data_error():
    empty = {"image": np.zeros((0, 12), np.uint8), "audio": np.zeros((0, 20), np.float32)}
    with pytest.raises(DataError, match="no samples"):
        parity.check(options(min_cosine=0.9), evidence(feeds=empty))
    with pytest.raises(DataError, match="disagree"):
        parity.check(options(min_cosine=0.9), evidence(feeds={**empty, "audio": np.zeros((2, 20))}))


def test_a_limit_is_needed():
    with pytest.raises(ValidationError, match="at least one limit: min_cosine"):
        options()


def test_details_hold_what_reports_plot():
    tensors = parity.check(options(min_cosine=0.9), evidence()).details["tensors"]
    assert list(tensors) == [
        "image_encoder", "audio_encoder.embedding", "audio_encoder.energy", "fusion", "end to end",
    ]  # fmt: skip
    assert tensors["fusion"]["sqnr_db"] == {"worst": parity.SQNR_EXACT_DB, "mean": parity.SQNR_EXACT_DB}


def ids(change=lambda found: found):
    """An ensemble whose head gives the classes in the order of their scores, as ids."""

    def ranked(image, audio):
        return {"logits": change(np.argsort(-fusion(image, audio)["logits"], axis=1).astype(np.int64))}

    return deployment({"fusion": ranked})


def of_ids(candidate):
    given = evidence()
    ranked = np.argsort(-given.original["logits"], axis=1).astype(np.int64)
    return evidence(candidate=candidate, original={**given.original, "logits": ranked})


def test_ids_are_judged_by_exact_match_and_by_overlap():
    def first_two_swapped_in_the_first_request(found):
        return found[:, [1, 0, 2, 3, 4, 5]] if len(found) == 16 and not seen else found

    seen = []
    given = of_ids(ids(lambda found: (first_two_swapped_in_the_first_request(found), seen.append(1))[0]))
    wanted = options(outputs=["logits"], scope="end_to_end", min_exact_match=0.9, min_overlap_at_k=1.0, k=2)
    exact, overlap = parity.check(wanted, given).checks
    assert (exact.name, exact.measured, exact.verdict) == ("end to end: exact match", 80 / 96, Verdict.FAIL)
    assert (overlap.name, overlap.measured, overlap.verdict) == ("end to end: worst overlap at k", 1.0, Verdict.PASS)
    seen.clear()
    first = options(outputs=["logits"], scope="end_to_end", min_overlap_at_k=0.9, k=1, statistic="mean")
    assert parity.check(first, given).checks[0].measured == pytest.approx(80 / 96)


def test_scale_sees_what_cosine_does_not():
    def larger(waveform):
        found = audio_encoder(waveform)
        return found | {"embedding": found["embedding"] * np.float32(1.2)}

    given = evidence(candidate=deployment({"audio_encoder": larger}))
    result = parity.check(options(outputs=["audio_embedding"], min_cosine=0.999, max_scale_error=0.1), given)
    cosine, scale = result.checks
    assert cosine.verdict is Verdict.PASS
    assert (scale.name, scale.verdict) == ("audio_encoder.embedding: worst scale error", Verdict.FAIL)
    assert scale.measured == pytest.approx(0.2, abs=1e-5)


def test_only_the_tensors_that_are_named_are_judged():
    given = evidence()
    assert [check.name for check in parity.check(options(outputs=["energy"], max_abs_error=0.0), given).checks] == [
        "audio_encoder.energy: largest error"
    ]
    names = {
        check.name.partition(":")[0]
        for check in parity.check(options(outputs=["logits"], min_cosine=0.9), given).checks
    }
    assert names == {"fusion", "end to end"}
    with pytest.raises(DataError, match="judges energy, which nothing in its scope writes"):
        parity.check(options(outputs=["energy"], max_abs_error=0.0, scope="end_to_end"), given)


def test_the_overlap_of_scores_needs_a_k():
    with pytest.raises(DataError, match="'logits' holds scores") as caught:
        parity.check(options(outputs=["logits"], min_overlap_at_k=0.9), evidence())
    assert "`k`" in caught.value.hint
    assert parity.check(options(outputs=["logits"], min_overlap_at_k=1.0, k=3), evidence()).verdict is Verdict.PASS
    with pytest.raises(ValidationError, match="k belongs to min_overlap_at_k"):
        options(k=3, min_cosine=0.9)
