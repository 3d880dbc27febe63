"""Where a model fails on samples is told by its module, what that takes, and which inputs it was made of."""

import pytest
import torch
from torch import Tensor, nn

from mmdeploy.model.failing import failure


class Meter(nn.Module):
    """A picture [N, 1, 8, 8], readings [N, 5] and words [N, W], joined."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4))
        self.readings = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 4))
        self.words, self.order = nn.Embedding(50, 4), nn.GRU(4, 4, batch_first=True)
        self.classify = nn.Linear(12, 3)

    def forward(self, picture: Tensor, readings: Tensor, words: Tensor) -> Tensor:
        read = self.order(self.words(words))[1][-1]
        return self.classify(torch.cat([self.picture(picture), self.readings(readings), read], 1))


def told(**changed: Tensor) -> tuple[str, dict[str, object]]:
    feed = {"picture": torch.rand(2, 1, 8, 8), "readings": torch.rand(2, 5), "words": torch.ones(2, 6).long()} | changed
    model = Meter().eval()
    found = failure(model, lambda: model(**feed), feed)
    assert found is not None and not model._modules["classify"]._forward_hooks
    return found.text, {name: value for name, value in vars(found).items() if name != "text" and value}


@pytest.mark.parametrize(
    ("changed", "text", "known"),
    [
        ({"readings": torch.rand(2, 6)},
         "readings.0 (LayerNorm) takes 5 in the last axis, and was given float32 [2, 6] (the input 'readings')",
         {"inputs": ("readings",), "direct": True, "axis": 1, "width": 5}),
        ({"picture": torch.rand(2, 8, 8, 1)},
         "picture.0 (Conv2d) takes 1 in axis 1, its channels, and was given float32 [2, 8, 8, 1] (the input 'picture')",
         {"inputs": ("picture",), "direct": True, "axis": 1, "width": 1}),
        ({"picture": torch.rand(2, 1, 9, 8)},
         "picture.2 (Linear) takes 72 in the last axis, and was given float32 [2, 84] (made of 'picture')",
         {"inputs": ("picture",), "axis": 1, "width": 72}),
        ({"picture": torch.ones(2, 1, 8, 8, dtype=torch.uint8)},
         "picture.0 (Conv2d) takes float32, and was given uint8 [2, 1, 8, 8] (the input 'picture')",
         {"inputs": ("picture",), "direct": True, "takes": "float32"}),
        ({"words": torch.rand(2, 6)},
         "words (Embedding) takes ids, whole numbers of int64, and was given float32 [2, 6] (the input 'words')",
         {"inputs": ("words",), "direct": True, "takes": "int64"}),
        ({"words": torch.full((2, 6), 70)},
         "words (Embedding) takes ids from 0 to 49 (these are 70 to 70), and was given int64 [2, 6] "
         "(the input 'words')",
         {"inputs": ("words",), "direct": True}),
        ({"readings": torch.rand(3, 5)},
         "in Meter, cat was given float32 [2, 4] (made of 'picture'), float32 [3, 4] (made of 'readings'), "
         "float32 [2, 4] (made of 'words')", {}),
        ({"picture": torch.rand(2, 1, 2, 2)},
         "picture.0 (Conv2d) was given float32 [2, 1, 2, 2] (the input 'picture')",
         {"inputs": ("picture",), "direct": True}),
    ],
)  # fmt: skip
def test_the_module_what_it_takes_and_what_it_was_given(
    changed: dict[str, Tensor], text: str, known: dict[str, object]
) -> None:
    assert told(**changed) == (text, known)


def test_what_fails_outside_of_torch_or_not_again_is_not_explained() -> None:
    feed = {"values": torch.rand(2, 5)}
    model = nn.Linear(5, 4)
    assert failure(model, lambda: model(**{}), feed) is None
    assert failure(model, lambda: model(feed["values"]), feed) is None
    assert failure(model, lambda: {}["missing"], feed) is None
