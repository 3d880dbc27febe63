"""Every built-in metric against an independent implementation: scikit-learn, torchmetrics or a plain loop."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.segmentation import mean_iou as torch_iou
from torchmetrics.text import BLEUScore, WordErrorRate

from mmdeploy.core.errors import DataError, MetricError
from mmdeploy.data.labels import stacked_labels
from mmdeploy.scoring.metric_spec import spec_of
from mmdeploy.scoring.task_metric import open_metric

SENTENCES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=7), min_size=2, max_size=6)


def scored(metric, outputs, labels, root=Path(), /, **arguments):
    named = outputs if isinstance(outputs, dict) else {"out": outputs}
    spec = spec_of(metric, tuple(named), outputs=tuple(named), arguments=arguments)
    return open_metric(spec, root).scored(named, labels)


def draws(found, seed=0, count=5):
    return np.random.default_rng(seed).integers(0, found.units, (count, found.units))


def classes(samples=60, number=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, number)).astype(np.float32), rng.integers(0, number, samples)


def test_the_worst_class_is_found_and_named():
    outputs, labels = classes()
    recalls = sk.recall_score(labels, outputs.argmax(1), average=None)
    found = scored("worst_class_recall", outputs, labels)
    assert found.score == pytest.approx(recalls.min())
    assert f"class {recalls.argmin()} has the lowest recall" in found.note
    for rows, value in zip(draws(found), found.of(draws(found)), strict=True):
        present = np.unique(labels[rows])
        recalls = sk.recall_score(labels[rows], outputs[rows].argmax(1), labels=present, average=None, zero_division=0)
        assert value == pytest.approx(recalls.min())


@pytest.mark.parametrize("bins", [10, 15])
def test_ece_is_that_of_scikit_learns_calibration_curve_and_of_torchmetrics(bins):
    outputs, labels = classes(samples=200)
    probabilities = torch.tensor(outputs).double().softmax(dim=1).numpy()
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, sure, n_bins=bins)
    counts = np.histogram(sure, np.linspace(0, 1, bins + 1))[0]
    wanted = np.sum(np.abs(accuracy - confidence) * counts[counts > 0]) / len(labels)
    found = scored("ece", outputs, labels, bins=bins)
    assert found.score == pytest.approx(wanted)
    peer = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), 5, n_bins=bins)
    assert found.score == pytest.approx(float(peer), abs=1e-6)
    assert scored("ece", probabilities, labels, bins=bins).score == pytest.approx(wanted)
    assert found.note == f"mean confidence {sure.mean():.3f}, accuracy {right.mean():.3f}"
    rows = draws(found)[0]
    assert found.of(rows[None])[0] == pytest.approx(scored("ece", outputs[rows], labels[rows], bins=bins).score)


def test_ece_is_small_where_confidence_is_accuracy_and_large_where_it_is_not():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    drawn = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # classes by their probabilities
    assert scored("ece", logits, drawn).score < 0.02
    assert scored("ece", 3 * logits, drawn).score > 0.1


@pytest.mark.parametrize("metric", ["top1", "f1_macro", "worst_class_recall"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_classes_that_were_decided_on_are_scored_like_the_scores_behind_them(metric, shape):
    outputs, labels = classes()
    chosen = outputs.argmax(axis=1).astype(np.int32).reshape(shape)
    assert scored(metric, chosen, labels).score == pytest.approx(scored(metric, outputs, labels).score)


def test_a_class_below_zero_was_not_decided_on():
    with pytest.raises(DataError, match="sample 1 is answered -1, and classes are numbered from 0"):
        scored("top1", np.array([0, -1]), np.array([0, 1]))


def test_of_labels_with_names_the_one_of_the_output_is_scored_or_the_one_that_is_named():
    outputs, labels = classes()
    several = stacked_labels([{"intent": int(one), "urgency": 0} for one in labels], "f")
    wanted = scored("top1", outputs, labels).score
    assert scored("top1", {"intent": outputs}, several).score == pytest.approx(wanted)
    assert scored("top1", outputs, several, label="intent").score == pytest.approx(wanted)
    assert scored("top1", {"urgency": outputs}, several).score != pytest.approx(wanted)
    with pytest.raises(DataError, match="none is called 'out': found mappings with 'intent', 'urgency'") as told:
        scored("top1", outputs, several)
    assert told.value.hint == "name it: `arguments: {label: intent}`"
    with pytest.raises(DataError, match="is to score the label 'intent', but labels have no names"):
        scored("top1", outputs, labels, label="intent")


def test_f1_macro_is_scikit_learns_and_is_resampled_from_counts():
    outputs, labels = classes(samples=80)
    labels[labels == 3] = 1
    found = scored("f1_macro", outputs, labels)
    assert found.score == pytest.approx(sk.f1_score(labels, outputs.argmax(1), average="macro"))
    for rows, value in zip(draws(found), found.of(draws(found)), strict=True):
        wanted = sk.f1_score(labels[rows], outputs[rows].argmax(1), average="macro", zero_division=0)
        assert value == pytest.approx(wanted)
    two = np.eye(5)[[0, 1, 1]]  # classes that occur nowhere do not count
    assert scored("f1_macro", two, np.array([0, 1, 0])).score == pytest.approx(2 / 3)


def test_map_is_scikit_learns_with_ties_and_several_classes_a_sample():
    outputs, _ = classes(seed=1)
    outputs = outputs.round(1)  # ties
    positive = np.random.default_rng(2).random(outputs.shape) < 0.3
    positive[:, 2] = False  # a class that does not occur is left out
    wanted = np.mean([sk.average_precision_score(positive[:, c], outputs[:, c]) for c in (0, 1, 3, 4)])
    found = scored("map", outputs, positive.astype(np.int64))
    assert found.score == pytest.approx(wanted)
    as_sets = stacked_labels([np.flatnonzero(row).tolist() for row in positive], "f")
    assert scored("map", outputs, as_sets).score == pytest.approx(wanted)
    rows = draws(found)[0]
    present = [c for c in range(5) if positive[rows, c].any()]
    again = np.mean([sk.average_precision_score(positive[rows, c], outputs[rows, c]) for c in present])
    assert found.of(rows[None])[0] == pytest.approx(again)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_recall_at_k_of_two_embeddings_in_both_directions(k, direction):
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 12, 20)
    image = rng.normal(size=(12, 6))[ids] + rng.normal(size=(20, 6))
    caption = rng.normal(size=(20, 6))
    caption[:, :3] = image[:, :3]
    found = scored("recall_at_k", {"image": image, "text": caption}, ids, k=k, direction=direction)
    asks, answers = (image, caption) if direction == "forward" else (caption, image)
    similarity = sk.pairwise.cosine_similarity(asks, answers)
    hits = [any(ids[at] == ids[query] for at in np.argsort(-row)[:k]) for query, row in enumerate(similarity)]
    assert found.per_unit.tolist() == [float(hit) for hit in hits]
    strings = stacked_labels([f"item {one}" for one in ids], "f")
    assert (
        scored("recall_at_k", {"image": image, "text": caption}, strings, k=k, direction=direction).score == found.score
    )


def test_recall_at_k_over_items_gives_an_image_that_recurs_one_place():
    images = np.array([[1.0, 0.1], [1.0, 0.1], [0.9, 0.4], [0.0, 1.0]])
    texts = np.array([[1.0, 0.1], [1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    given_ = {"texts": texts, "images": images}
    assert scored("recall_at_k", given_, np.array([7, 7, 8, 9]), k=2).per_unit.tolist() == [1.0, 1.0, 0.0, 1.0]
    items = scored("recall_at_k", given_, np.array([7, 7, 8, 9]), k=2, gallery="labels")
    assert items.per_unit.tolist() == [1.0, 1.0, 1.0, 1.0]


def test_an_encoder_that_maps_all_to_one_point_finds_nothing():
    same = {"image": np.ones((6, 4)), "text": np.ones((6, 4))}
    assert scored("recall_at_k", same, np.arange(6), k=3).score == 0.0


def test_recall_at_k_of_similarities_is_top_k_accuracy_and_backward_asks_the_columns():
    outputs, labels = classes(40, 6, seed=4)
    wanted = sk.top_k_accuracy_score(labels, outputs, k=2, labels=range(6))
    assert scored("recall_at_k", outputs, labels, k=2).score == pytest.approx(wanted)
    backward = scored("recall_at_k", outputs, labels, k=2, direction="backward")
    hits = [any(labels[at] == c for at in np.argsort(-outputs[:, c])[:2]) for c in np.unique(labels)]
    assert backward.score == pytest.approx(np.mean(hits))


def padded(sentences, pad=0):
    longest = max(map(len, sentences)) + 1
    return np.array([[*one, *[pad] * (longest - len(one))] for one in sentences])


def words(sentences):
    return [" ".join(map(str, one)) for one in sentences]


@settings(deadline=None)
@given(SENTENCES, st.randoms())
def test_wer_is_torchmetrics(sentences, random):
    answers = [random.choice(sentences) for _ in sentences]
    wer = WordErrorRate()
    wanted = float(wer(words(answers), words(sentences)))
    found = scored("wer", padded(answers), padded(sentences), pad=0)
    assert found.score == pytest.approx(wanted, abs=1e-6)
    ragged = stacked_labels(sentences, "f")
    assert scored("wer", padded(answers), ragged, pad=0).score == found.score
    for rows, value in zip(draws(found), found.of(draws(found)), strict=True):
        picked = [[one[row] for row in rows] for one in (answers, sentences)]
        assert value == pytest.approx(float(wer(*map(words, picked))), abs=1e-6)


@settings(deadline=None)
@given(SENTENCES, st.randoms(), st.integers(1, 4))
def test_bleu_is_torchmetrics(sentences, random, longest):
    answers = [random.choice(sentences) for _ in sentences]
    bleu = BLEUScore(n_gram=longest)
    wanted = float(bleu(words(answers), [[one] for one in words(sentences)]))
    found = scored("bleu", padded(answers), padded(sentences), pad=0, n=longest)
    assert found.score == pytest.approx(wanted, abs=1e-5)
    for rows, value in zip(draws(found), found.of(draws(found)), strict=True):
        picked = [[words(one)[row] for row in rows] for one in (answers, sentences)]
        assert value == pytest.approx(float(bleu(picked[0], [[one] for one in picked[1]])), abs=1e-5)


def common_subsequence(ours, theirs):
    return max(
        (
            len(one)
            for size in range(len(ours) + 1)
            for one in itertools.combinations(ours, size)
            if in_order(one, theirs)
        ),
        default=0,
    )


def in_order(part, whole):
    rest = iter(whole)
    return all(one in rest for one in part)


@settings(deadline=None)
@given(SENTENCES, st.randoms(), st.sampled_from(["rouge1", "rouge2", "rougeL"]))
def test_rouge_is_the_f1_of_what_both_hold(sentences, random, form):
    answers = [random.choice(sentences) for _ in sentences]

    def f1(ours, theirs):
        if form == "rougeL":
            hits, sizes = common_subsequence(ours, theirs), (len(ours), len(theirs))
        else:
            n = int(form[-1])
            grams = [Counter(tuple(one[at : at + n]) for at in range(len(one) - n + 1)) for one in (ours, theirs)]
            hits, sizes = (grams[0] & grams[1]).total(), tuple(one.total() for one in grams)
        if not hits:
            return 0.0
        precision, recall = hits / sizes[0], hits / sizes[1]
        return 2 * precision * recall / (precision + recall)

    found = scored("rouge", padded(answers), padded(sentences), pad=0, form=form)
    assert found.per_unit == pytest.approx([f1(*pair) for pair in zip(answers, sentences, strict=True)])


def test_strings_are_compared_by_words_with_a_vocabulary_and_several_references(tmp_path):
    (tmp_path / "words.txt").write_text("<pad>\n<end>\na\ncat\nsat\ndog\n")
    answers = np.array([[2, 3, 4, 1, 5], [2, 5, 1, 0, 0]])  # a cat sat; a dog
    arguments = {"vocabulary": "words.txt", "end": 1, "pad": 0}
    strings = stacked_labels(["a cat sat", "a  dog sat"], "f")
    assert scored("wer", answers, strings, tmp_path, **arguments).score == pytest.approx(1 / 6)
    lists = stacked_labels([["the cat", "a cat sat"], ["a dog sat"]], "f")
    assert scored("rouge", answers, lists, tmp_path, **arguments).per_unit == pytest.approx([1.0, 0.8])
    bleu = BLEUScore(n_gram=2)
    wanted = float(bleu(["a cat sat", "a dog"], [["the cat", "a cat sat"], ["a dog sat"]]))
    assert scored("bleu", answers, lists, tmp_path, n=2, **arguments).score == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(DataError, match="wer takes one reference a sample, found 2"):
        scored("wer", answers, lists, tmp_path, **arguments)
    with pytest.raises(DataError, match="references are strings") as caught:
        scored("wer", answers, strings)
    assert "vocabulary" in caught.value.hint
    with pytest.raises(DataError, match="holds token 6, the vocabulary has 6"):
        scored("wer", answers + 4, strings, tmp_path, vocabulary="words.txt")


def test_ctc_merges_repeats_and_leaves_blanks_out():
    frames = np.full((1, 8, 4), -5.0, np.float32)
    for place, token in enumerate([1, 1, 0, 1, 2, 2, 0, 0]):
        frames[0, place, token] = 5.0
    assert scored("wer", frames, np.array([[1, 1, 2]]), blank=0).score == 0.0
    assert scored("wer", frames, np.array([[1, 2, 2]]), blank=0).score == pytest.approx(1 / 3)


def test_the_vqa_accuracy_counts_annotators():
    outputs = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
    given_answers = [[0] * 10, [1, 1, *[0] * 8], [2, *[0] * 9], [-1] * 10, [0, 0, 0, *[1] * 7]]
    wanted = [1.0, 2 / 3, 1 / 3, 0.0, 1.0]
    assert scored("vqa_accuracy", outputs, np.array(given_answers)).per_unit == pytest.approx(wanted)
    fewer = stacked_labels([one[:-1] if row == 3 else one for row, one in enumerate(given_answers)], "f")
    assert scored("vqa_accuracy", outputs, fewer).per_unit == pytest.approx(wanted)
    counts = np.array([[one.count(c) for c in range(4)] for one in given_answers])
    assert scored("vqa_accuracy", outputs, counts, labels="counts").per_unit == pytest.approx(wanted)


@pytest.mark.parametrize("ignore", [None, 255])
def test_iou_is_that_of_the_confusion_matrix(ignore):
    rng = np.random.default_rng(5)
    outputs, labels = rng.normal(size=(7, 4, 5, 6)).astype(np.float32), rng.integers(0, 3, (7, 5, 6))
    if ignore is not None:
        labels[:, 0] = ignore
    judged = labels != ignore if ignore is not None else np.ones_like(labels, dtype=bool)
    answers = outputs.argmax(1)
    wanted = sk.jaccard_score(labels[judged], answers[judged], labels=range(4), average="macro")
    given_arguments = {} if ignore is None else {"ignore": ignore}
    found = scored("iou", outputs, labels, **given_arguments)
    assert found.score == pytest.approx(wanted)
    assert scored("iou", answers, labels, classes=4, **given_arguments).score == pytest.approx(wanted)
    rows = draws(found)[0]
    again = sk.jaccard_score(labels[rows][judged[rows]], answers[rows][judged[rows]], labels=range(4), average="macro")
    assert found.of(rows[None])[0] == pytest.approx(again)
    if ignore is None:
        assert found.per_unit is None
        one = torch_iou(torch.tensor(answers[:1]), torch.tensor(labels[:1]), num_classes=4, input_format="index")
        assert scored("iou", outputs[:1], labels[:1]).score == pytest.approx(float(one), abs=1e-6)


def test_iou_of_one_score_a_place_is_that_of_the_foreground():
    rng = np.random.default_rng(6)
    scores, mask = rng.normal(size=(5, 1, 8, 8)).astype(np.float32), rng.random((5, 8, 8)) < 0.4
    wanted = sk.jaccard_score(mask.ravel(), (scores[:, 0] > 0.2).ravel())
    assert scored("iou", scores, mask, threshold=0.2).score == pytest.approx(wanted)


LOGITS, CLASS_IDS = classes(8, 3)


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "arguments", "message"),
    [
        ("top1", LOGITS, stacked_labels(["a"] * 8, "f"), {}, "one integer class id a sample, found strings"),
        (
            "mse",
            LOGITS,
            stacked_labels([{"a": 1}] * 8, "f"),
            {},
            "scores one label, and none is called .out.: found mappings with .a.",
        ),
        ("map", LOGITS, np.zeros((8, 2)), {}, "map takes the classes of each sample"),
        ("map", LOGITS, stacked_labels([[9], *[[0, 1]] * 7], "f"), {}, "sample 0 has label 9"),
        ("wer", LOGITS, CLASS_IDS, {}, r"wer takes token ids .* found \[8, 3\] of type float32"),
        ("wer", np.ones((8, 3), int), CLASS_IDS, {}, "references as token ids or strings"),
        ("wer", np.ones((8, 3), int), np.zeros((8, 3), int), {"pad": 0}, "every reference is empty"),
        ("iou", LOGITS, CLASS_IDS, {}, r"scores \[samples, classes, ...\], found \[8, 3\]"),
        ("iou", np.ones((8, 3), int), np.ones((8, 3), int), {}, "the output is class ids"),
        ("iou", np.ones((8, 3), int), np.full((8, 3), 9), {"classes": 3}, "sample 0 has label 9"),
        ("vqa_accuracy", LOGITS, CLASS_IDS, {}, "a list of class ids a sample"),
        ("vqa_accuracy", LOGITS, CLASS_IDS, {"labels": "counts"}, "a count for each answer"),
        ("recall_at_k", LOGITS, CLASS_IDS + 9, {}, "but the output scores 3 documents"),
        ("recall_at_k", LOGITS, np.zeros((8, 3), int), {}, "no document belongs to sample 0"),
        ("recall_at_k", {"a": LOGITS, "b": LOGITS[:, :2]}, CLASS_IDS, {}, "two embeddings of one shape"),
        ("recall_at_k", {"a": LOGITS, "b": LOGITS}, np.zeros((8, 2)), {}, "one number or string a sample"),
    ],
)
def test_what_a_metric_cannot_take_is_said(metric, outputs, labels, arguments, message):
    with pytest.raises(DataError, match=message):
        scored(metric, outputs, labels, **arguments)


def test_a_vocabulary_that_is_not_there(tmp_path):
    with pytest.raises(MetricError, match=r"vocabulary words.txt cannot be read"):
        scored("wer", np.ones((1, 2), int), stacked_labels(["a"], "f"), tmp_path, vocabulary="words.txt")


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        ("top1", {"k": 3}, "top1 has no argument 'k'; accepted: label"),
        ("recall_at_k", {"kk": 3}, "recall_at_k has no argument 'kk'; did you mean 'k'"),
        ("recall_at_k", {"k": 0}, "argument k of recall_at_k: .*greater than or equal to 1, got 0"),
        ("rouge", {"form": "rougeW"}, "argument form of rouge"),
    ],
)
def test_arguments_that_a_metric_does_not_take(metric, arguments, message):
    with pytest.raises(ValueError, match=message):
        scored(metric, LOGITS, CLASS_IDS, **arguments)
