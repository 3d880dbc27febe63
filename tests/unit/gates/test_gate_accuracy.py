import warnings

import numpy as np
import pytest
from gate_evidence import CLASSES, SAMPLES, deployment, evidence, fusion
from pydantic import ValidationError
from sklearn import metrics as sk

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.gates import accuracy, resolution
from mmdeploy.scoring import class_scores
from mmdeploy.scoring.comparison import Comparison


def options(metric="top1", **given):
    return accuracy.Options(method="accuracy", metric=metric, **given)


def losing(given, wrong):
    """A candidate that errs on the first ``wrong`` samples that the original gets right."""
    logits, labels = given.original["logits"], given.labels
    right = np.flatnonzero(logits.argmax(axis=1) == labels)[:wrong]
    answers = logits.copy()
    answers[right, (labels[right] + 1) % CLASSES] = 1e3
    return answering(given, answers)


def answering(given, answers):
    """A deployment whose logits are looked up by what the original would have answered."""
    order = given.original["logits"]

    def look_up(image, audio):
        logits = fusion(image, audio)["logits"]
        rows = np.abs(logits[:, None] - order[None]).sum(axis=2).argmin(axis=1)
        return {"logits": answers[rows]}

    return deployment({"fusion": look_up})


def check_with(answers_or_candidate, given=None, **limits):
    given = given or evidence()
    fields = {**given.__dict__, "candidate": answers_or_candidate}
    return accuracy.check(options(**limits), type(given)(**fields))


def test_an_equal_model_passes_and_the_figures_are_right():
    result = accuracy.check(options(min=0.85, max_drop=0.0, max_relative_drop=0.0), evidence())
    assert result.verdict is Verdict.PASS
    assert result.checks[0].measured == pytest.approx(86 / 96)
    assert {check.samples for check in result.checks} == {96}
    assert [table.title for table in result.tables] == ["recall per class", "samples whose answer changed"]
    assert result.details["scores"] == pytest.approx({"original": 86 / 96, "reference": 86 / 96, "candidate": 86 / 96})
    assert (result.details["lost"], result.details["won"], result.details["mcnemar_p_value"]) == (0, 0, 1.0)


def test_a_lossy_candidate_fails_each_limit_it_breaks():
    given = evidence()
    result = check_with(losing(given, 12), min=0.7, max_drop=0.1, max_relative_drop=0.2)
    assert [check.verdict for check in result.checks] == [Verdict.PASS, Verdict.FAIL, Verdict.PASS]
    drop = result.checks[1]
    assert drop.measured == pytest.approx(12 / 96)
    assert drop.interval[0] < 12 / 96 < drop.interval[1]
    assert result.checks[2].measured == pytest.approx(12 / 86)
    assert (result.details["lost"], result.details["won"]) == (12, 0)
    assert result.details["mcnemar_p_value"] == pytest.approx(2 / 2**12)


def test_a_drop_equal_to_the_limit_keeps_it_and_one_sample_more_does_not():
    given = evidence()
    limit = 6 / SAMPLES
    assert check_with(losing(given, 6), max_drop=limit).verdict is Verdict.PASS
    result = check_with(losing(given, 7), max_drop=limit)
    assert result.verdict is Verdict.FAIL
    assert "other samples could have decided otherwise" in result.checks[0].note


def test_the_interval_rule_is_inconclusive_where_the_samples_cannot_tell():
    given = evidence()
    verdict_by_limit = {
        limit: check_with(losing(given, 6), max_drop=limit, rule="interval").verdict for limit in (0.005, 0.0625, 0.3)
    }
    assert verdict_by_limit == {
        0.005: Verdict.FAIL, 0.0625: Verdict.INCONCLUSIVE, 0.3: Verdict.PASS,
    }  # fmt: skip


def test_served_reference_is_scored_apart_from_the_original():
    given = evidence()
    fields = {**given.__dict__, "reference": losing(given, 4)}
    result = accuracy.check(options(min=0.5), type(given)(**fields))
    assert result.details["scores"]["reference"] == pytest.approx(82 / 96)
    assert result.details["scores"]["candidate"] == pytest.approx(86 / 96)


def noisy_logits(given):
    rng = np.random.default_rng(0)
    return given.original["logits"] + rng.normal(0, 12, given.original["logits"].shape).astype(np.float32)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("top1", lambda y, z: sk.accuracy_score(y, z.argmax(axis=1))),
        ("accuracy", lambda y, z: sk.accuracy_score(y, z.argmax(axis=1))),
        ("top5", lambda y, z: sk.top_k_accuracy_score(y, z, k=5, labels=range(CLASSES))),
        ("f1_macro", lambda y, z: sk.f1_score(y, z.argmax(axis=1), average="macro")),
        ("auroc", lambda y, z: sk.roc_auc_score(y, softmax(z.astype(float)), multi_class="ovr")),
    ],
)
def test_classification_metrics_agree_with_scikit_learn(metric, expected):
    given = evidence()
    answers = noisy_logits(given)
    result = check_with(answering(given, answers), given, metric=metric, min=0.0, max_drop=1.0)
    score, drop = result.checks
    assert score.measured == pytest.approx(expected(given.labels, answers), abs=1e-6)
    original = expected(given.labels, given.original["logits"])
    assert drop.measured == pytest.approx(original - score.measured, abs=1e-6)
    assert drop.interval[0] < drop.measured < drop.interval[1]
    assert score.interval[0] < score.measured < score.interval[1]


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_errors_agree_with_scikit_learn_and_a_rise_is_a_drop_of_quality(metric):
    given = evidence()
    rng = np.random.default_rng(1)
    targets = given.original["logits"] + rng.normal(0, 0.5, given.original["logits"].shape).astype(np.float32)
    given = type(given)(**{**given.__dict__, "labels": targets})
    answers = given.original["logits"] + np.float32(0.5)
    result = check_with(answering(given, answers), given, metric=metric, max=0.6, max_drop=0.01)
    score = {"mse": sk.mean_squared_error, "mae": sk.mean_absolute_error}[metric]
    candidate, original = score(targets, answers), score(targets, given.original["logits"])
    assert result.checks[0].measured == pytest.approx(candidate, rel=1e-5)
    assert result.checks[0].verdict is Verdict.PASS
    assert result.checks[1].measured == pytest.approx(candidate - original, rel=1e-4)
    assert result.checks[1].measured > 0.01
    assert result.checks[1].verdict is Verdict.FAIL
    assert "lost" not in result.details


def test_auroc_leaves_out_classes_that_do_not_occur_without_a_warning():
    rng = np.random.default_rng(2)
    labels = np.array([0, 1] * 20)
    outputs = rng.normal(size=(40, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = class_scores.auroc(outputs, labels)
    probabilities = softmax(outputs)
    expected = np.mean([sk.roc_auc_score(labels == name, probabilities[:, name]) for name in (0, 1)])
    assert found.score == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["top1", "f1_macro"])
def test_the_same_evidence_gives_the_same_result(metric):
    given = evidence()
    candidate = answering(given, noisy_logits(given))
    results = [check_with(candidate, given, metric=metric, min=0.5, max_drop=0.1) for _ in range(2)]
    assert results[0] == results[1]


def test_no_labels_is_a_data_error_that_says_what_to_do():
    with pytest.raises(DataError, match="needs labels") as caught:
        accuracy.check(options(min=0.5), evidence(labels=None))
    assert "data.evaluation" in caught.value.hint


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        ("top1", np.zeros(5, int), "96 samples but 5 labels"),
        ("top1", np.full(SAMPLES, CLASSES), r"sample 0 has label 6, but the model's 6 classes are 0 to 5"),
        ("top1", np.full(SAMPLES, -1), "sample 0 has label -1"),
        ("top1", np.zeros((SAMPLES, 1), int), "one integer class id a sample"),
        ("top1", np.zeros(SAMPLES), "one integer class id a sample"),
        ("auroc", np.zeros(SAMPLES, int), "at least two classes"),
        ("mse", np.zeros(SAMPLES), "labels of the output's shape"),
        ("mae", np.full((SAMPLES, CLASSES), np.nan), "NaN or Inf"),
    ],
)
def test_labels_that_the_metric_cannot_take(metric, labels, message):
    limit = {"max": 1.0} if metric in ("mse", "mae") else {"min": 0.5}
    with pytest.raises(DataError, match=message):
        accuracy.check(options(metric, **limit), evidence(labels=labels))


def test_metrics_that_the_output_cannot_carry():
    with pytest.raises(DataError, match=r"one score a class, shape \[samples, classes\], found \[4\]"):
        class_scores.top_k("top1", np.zeros(4), np.zeros(4, int), 1)
    with pytest.raises(DataError, match="top5 needs at least 5 classes, the model has 3"):
        class_scores.top_k("top5", np.zeros((4, 3)), np.zeros(4, int), 5)


def test_refusals_and_broken_answers_fail_with_the_reason():
    def refusing(image, audio):
        raise InferenceError("no")

    result = check_with(deployment({"fusion": refusing}), min=0.0)
    assert (result.verdict, result.checks[0].measured) == (Verdict.FAIL, None)
    assert "the candidate did not answer: samples 0 to 15 refused: no" in result.checks[0].note
    given = evidence()
    answers = given.original["logits"].copy()
    answers[3, 0] = np.nan
    result = check_with(answering(given, answers), min=0.0)
    assert result.verdict is Verdict.FAIL
    assert "1 of the candidate's 96 answers hold NaN or Inf" in result.checks[0].note


def test_a_broken_reference_is_noted_and_does_not_fail_the_candidate():
    def refusing(image, audio):
        raise InferenceError("no")

    result = accuracy.check(options(min=0.5), evidence(reference=deployment({"fusion": refusing})))
    assert result.verdict is Verdict.PASS
    assert result.details["scores"]["reference"] is None
    assert "reference did not answer" in result.details["reference_problem"]


def test_a_relative_drop_from_nothing_is_inconclusive():
    given = evidence()
    wrong = (given.original["logits"].argmax(axis=1) + 1) % CLASSES
    result = accuracy.check(options(max_relative_drop=0.1), evidence(labels=wrong))
    assert (result.verdict, result.checks[0].note) == (Verdict.INCONCLUSIVE, "the original scores 0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one limit: min, max_drop"),
        ({"max": 0.5}, "max makes no sense for top1: use min"),
        ({"metric": "mse", "min": 0.5}, "min makes no sense for mse: use max"),
        ({"max_drop": -0.1}, "greater than or equal to 0"),
    ],
)
def test_limits_that_make_no_sense(given, message):
    with pytest.raises(ValidationError, match=message):
        options(**given)


def test_an_ensemble_that_does_not_batch():
    assert accuracy.check(options(max_drop=0.0), evidence(max_batch_size=0)).verdict is Verdict.PASS


def wrong_in_batches(given, is_wrong, *, share=1.0):
    """A candidate that errs in requests of some sizes, on a share of the samples."""
    order, rng = given.original["logits"], np.random.default_rng(5)
    chosen = rng.random(SAMPLES) < share

    def answer(image, audio):
        logits = fusion(image, audio)["logits"]
        rows = np.abs(logits[:, None] - order[None]).sum(axis=2).argmin(axis=1)
        return {"logits": np.where(chosen[rows][:, None] & is_wrong(len(logits)), -logits, logits)}

    return deployment({"fusion": answer})


@pytest.mark.parametrize(
    ("is_wrong", "words"),
    [(lambda size: size == 1, "batches of 1"), (lambda size: size in (3, 15), "batches of 3 and 15")],
)
def test_a_candidate_that_errs_in_batches_of_one_size_fails_each_limit(is_wrong, words):
    given = evidence()
    result = check_with(wrong_in_batches(given, is_wrong), given, min=0.8, max_drop=0.05, max_relative_drop=0.05)
    passed, failed = result.checks[:3], result.checks[3:]
    assert all(check.verdict is Verdict.PASS and check.measured in (86 / 96, 0.0) for check in passed)
    assert [check.name for check in failed] == [
        f"top1 in {words}", f"top1 drop in {words}", f"top1 relative drop in {words}",
    ]  # fmt: skip
    assert all(check.verdict is Verdict.FAIL for check in failed)
    assert failed[0].measured < 0.3
    assert failed[1].measured == pytest.approx(86 / 96 - failed[0].measured)


def test_what_some_samples_lose_is_confirmed_by_all_of_them():
    """Of many samples some are asked again, and all of them where these lose more than the limit allows."""
    given = evidence()
    repeated = {name: np.concatenate([array] * 4) for name, array in given.feeds.items()}
    more = {**given.__dict__, "feeds": repeated, "labels": np.concatenate([given.labels] * 4)}
    more["original"] = {name: np.concatenate([array] * 4) for name, array in given.original.items()}
    asked = []

    def counting(share):
        wrong = wrong_in_batches(given, lambda size: size == 1, share=share)
        inner = wrong.runner("fusion")

        def answer(image, audio):
            asked.append(len(image))
            return inner.infer({"image": image, "audio": audio})

        return deployment({"fusion": answer})

    result = accuracy.check(options(max_drop=0.5), type(given)(**{**more, "candidate": counting(0.1)}))
    assert result.verdict is Verdict.PASS
    assert asked.count(1) == 128
    asked.clear()
    result = accuracy.check(options(max_drop=0.01), type(given)(**{**more, "candidate": counting(0.1)}))
    assert result.verdict is Verdict.FAIL
    assert asked.count(1) == 128 + 4 * SAMPLES
    assert result.checks[-1].name == "top1 drop in batches of 1"


def test_a_refusal_in_odd_batches_alone_fails():
    def refusing(image, audio):
        if len(image) == 15:
            raise InferenceError("the plan has a profile for 16")
        return fusion(image, audio)

    result = check_with(deployment({"fusion": refusing}), max_drop=0.1)
    assert result.checks[-1].name == "top1 in batches of 3 and 15"
    assert (result.verdict, result.checks[-1].measured) == (Verdict.FAIL, None)
    assert "the plan has a profile for 16" in result.checks[-1].note


def with_counts(samples, lost, won, limit):
    """Judge a classifier of two classes that differs from the original on so many samples."""
    labels = np.zeros(samples, np.int64)
    original = np.tile(np.array([[1.0, 0.0]], np.float32), (samples, 1))
    original[lost : lost + won] = [0.0, 1.0]
    candidate = np.tile(np.array([[1.0, 0.0]], np.float32), (samples, 1))
    candidate[:lost] = [0.0, 1.0]
    comparison = Comparison(
        class_scores.top_k("top1", candidate, labels, 1), class_scores.top_k("top1", original, labels, 1),
        larger_is_better=True, confidence=0.95, seed=0,
    )  # fmt: skip
    return resolution.found(comparison, max_drop=limit)


def test_the_smallest_drop_that_samples_show_is_told_and_warned_of():
    few = with_counts(500, 5, 5, 0.01)
    assert 0.018 < few["smallest_drop"] < 0.025
    assert "with these 500 samples a true drop of less than 0.02" in few["warning"]
    assert "`rule: interval`" in few["warning"]
    many = with_counts(20_000, 200, 200, 0.02)
    assert 0.02 < many["smallest_drop"] < 0.025
    assert "warning" not in many
    assert "warning" in check_with(deployment(), max_drop=0.01).details
    assert "smallest_drop" not in check_with(deployment(), max_drop=0.01, rule="interval").details


def test_the_smallest_drop_fails_in_19_of_20_sets():
    """Drawn anew: of sets whose true drop is what was told, a twentieth passes."""
    smallest = with_counts(500, 8, 3, 0.01)["smallest_drop"]
    lost = np.random.default_rng(0).binomial(500, smallest, 20_000)
    assert (lost / 500 <= 0.01).mean() == pytest.approx(0.05, abs=0.03)
