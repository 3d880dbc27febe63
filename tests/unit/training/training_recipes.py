"""The tiny recipe with splits to train on."""

from pathlib import Path

from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe

DATA = '''

def _labelled(seed: int, count: int):
    import torch
    from model import build

    model = build().eval()
    for feed in _samples(seed, count):
        with torch.inference_mode():
            left, right = (torch.from_numpy(feed[name])[None] for name in ("a", "b"))
            logits = model.fusion(model.left(left), model.right(right))
        yield feed, int(logits.argmax())


def training():
    """Yield 200 samples with labels."""
    return _labelled(11, 200)


def validation():
    """Yield 100 samples with labels."""
    return _labelled(12, 100)


def leaking():
    """Yield two samples of its own, then one of the evaluation split."""
    yield from _labelled(13, 2)
    yield from _labelled(2, 1)


def leaking_validation():
    """Yield one sample of the validation split."""
    return _labelled(12, 1)


def unlabelled():
    """Yield samples without labels."""
    return _samples(14, 5)


def regression():
    """Yield float labels of the output's shape."""
    for feed in _samples(15, 5):
        yield feed, np.zeros(4, np.float32)


def loss(outputs, labels):
    """The mean of the logits, whatever the labels."""
    return outputs["logits"].mean()


def broken_loss(outputs, labels):
    """Fails."""
    return outputs["logit"]


def loss_of_each(outputs, labels):
    """Not one number."""
    return outputs["logits"].sum(dim=1)
'''


def recipe_that_trains(path: Path, **references: str) -> Recipe:
    """Load the tiny recipe at ``path`` with data to train on; references change single entries of ``data``."""
    source = path.with_name("data.py")
    if "def leaking" not in source.read_text():
        source.write_text(source.read_text() + DATA)
    named = {"training": "data.py:training", "validation": "data.py:validation"} | references
    return load_recipe(path, [f"data.{key}={value}" for key, value in named.items() if value])
