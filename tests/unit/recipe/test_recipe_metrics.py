"""What a recipe may say of metrics and outputs, checked without running its code."""

import pytest

GATE = "  - {method: size, max_ratio_to_reference: 0.5}\n"


@pytest.mark.parametrize(
    ("gate", "place", "message"),
    [
        ("accuracy, metric: topp1, min: 0.5", "gates.1.metric", "no metric is called 'topp1'; did you mean 'top1'?"),
        ("accuracy, metric: metrics.py:wr, max: 0.5", "gates.1.metric",
         "metrics.py defines no 'wr'; did you mean 'wer'?"),
        ("accuracy, metric: metric.py:wer, max: 0.5", "gates.1.metric", "did you mean 'metrics.py'?"),
        ("accuracy, metric: 'torchmetrics.retrieval:RetrievalRecal', min: 1", "gates.1.metric",
         "torchmetrics.retrieval defines no 'RetrievalRecal'; did you mean 'RetrievalRecall'?"),
        ("accuracy, metric: 'torchmetrics.retrievl:RetrievalRecall', min: 1", "gates.1.metric",
         "there is no module 'torchmetrics.retrievl'; did you mean 'torchmetrics.retrieval'?"),
        ("accuracy, metric: top1, outputs: [logit], min: 0.5", "gates.1.outputs.0",
         "the ensemble has no output 'logit'; did you mean 'logits'?"),
        ("parity, outputs: [image_embeddin], min_cosine: 0.9", "gates.1.outputs.0",
         "no component writes the tensor 'image_embeddin'; did you mean 'image_embedding'?"),
        ("accuracy, metric: top1, outputs: [logits, logits], min: 0.5", "gates.1", "top1 sees one output, not 2"),
        ("accuracy, metric: top1, larger_is_better: true, min: 0.5", "gates.1", "top1 says it itself"),
        ("accuracy, metric: recall_at_k, arguments: {K: 1}, min: 0.5", "gates.1", "recall_at_k has no argument 'K'"),
        ("accuracy, metric: wer, min: 0.5", "gates.1", "min makes no sense for wer: use max"),
        ("accuracy, metric: metrics.py:wer, larger_is_better: false, min: 0.5", "gates.1", "min makes no sense"),
        ("accuracy, metric: wer, arguments: {vocabulary: words.txt}, max: 1", "gates.1.arguments.vocabulary",
         "no such file: 'words.txt'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_gate_is_found_without_running_code(edited, problems, gate, place, message):
    recipe = edited((GATE, f"  - {{method: {gate}}}\n"))
    recipe.with_name("metrics.py").write_text("raise SystemExit('run')\n\n\ndef wer(outputs, labels): ...\n")
    (found,) = problems(recipe)
    assert found[0].endswith(place), found
    assert message in found[1]


@pytest.mark.parametrize(
    "gate",
    [
        "accuracy, metric: metrics.py:wer, larger_is_better: false, max: 0.5",
        "accuracy, metric: metrics.py:wer, min: 0.5",  # its direction is known when it runs
        "accuracy, metric: 'torchmetrics.retrieval:RetrievalRecall', arguments: {top_k: 5}, min: 0.5",
        "accuracy, metric: 'torchmetrics:Accuracy', arguments: {task: multiclass, num_classes: 2}, min: 0.5",
        "accuracy, metric: 'package_that_is_looked_for_later:wer', min: 0.5",
        "parity, outputs: [image_embedding, logits], min_cosine: 0.9, max_scale_error: 0.1",
    ],
)
def test_what_is_right_is_accepted(edited, gate):
    from mmdeploy.recipe.loader import load_recipe

    recipe = edited((GATE, f"  - {{method: {gate}}}\n"))
    recipe.with_name("metrics.py").write_text("def wer(outputs, labels): ...\n")
    assert len(load_recipe(recipe).gates) == 2
