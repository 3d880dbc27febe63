"""The tiny recipe with the splits that training and searches need; labels are what the model itself answers."""

from pathlib import Path

from user_view import replaced

_SPLITS = '''

def _labelled(seed: int, count: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    import torch
    from model import build

    model = build().eval()
    for feed in _samples(seed, count):
        with torch.inference_mode():
            left, right = (torch.from_numpy(feed[name])[None] for name in ("a", "b"))
            logits = model.fusion(model.left(left), model.right(right))
        yield feed, int(logits.argmax())


def training() -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield 256 samples with labels."""
    return _labelled(3, 256)


def validation() -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yield 128 samples with labels."""
    return _labelled(4, 128)
'''


def with_splits(recipe: Path, *, validation: str = "data.py:validation") -> None:
    """Add ``data.training`` and ``data.validation`` to a copy of the tiny recipe."""
    data = recipe.with_name("data.py")
    data.write_text(data.read_text() + _SPLITS)
    evaluation = "  evaluation: data.py:evaluation\n"
    replaced(recipe, evaluation, f"{evaluation}  training: data.py:training\n  validation: {validation}\n")
