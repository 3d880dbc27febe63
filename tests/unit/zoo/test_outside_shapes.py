"""A block that is used outside its shapes says so in its own words, whatever within it would have failed."""

import pytest
import torch

from mmdeploy.zoo.catalogue import blocks
from mmdeploy.zoo.outside import ShapesError, tells_shapes

BLOCKS = blocks()
#: Two vectors each, which do not meet.
APART = {"alignment/cca", "alignment/deep_cca"}


def given(key: str, name: str, change: str) -> dict[str, torch.Tensor]:
    feed = BLOCKS[key].samples(2, 0)
    tensor = feed[name]
    feed[name] = {"row": torch.cat([tensor, tensor[:1]]), "axis": tensor[..., None]}[change]
    return feed


@pytest.mark.parametrize("key", BLOCKS)
def test_what_does_not_fit_is_one_value_error_that_names_shapes(key: str) -> None:
    block = BLOCKS[key].make()
    names = [*BLOCKS[key].samples(2, 0)]
    changes = [(name, "axis") for name in names] + [(name, "row") for name in names if len(names) > 1]
    for name, change in changes:
        if change == "row" and key in APART:
            continue
        with torch.no_grad(), pytest.raises(ValueError, match=r"\d"):
            block(**given(key, name, change))


def test_the_block_that_was_called_says_what_it_was_given_and_what_it_takes() -> None:
    block, feed = BLOCKS["encoders/text_transformer"].make(), given("encoders/text_transformer", "mask", "row")
    with pytest.raises(ShapesError) as told:
        block(**feed)
    assert str(told.value).startswith("TextTransformer cannot take these together: ids [2, 7], mask [3, 7]; made for ")
    assert "mask: INT64 [N, T], 1 where a token is real" in str(told.value)


def test_other_errors_are_not_taken_for_shapes() -> None:
    class Failing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        tells_shapes(Failing)()(torch.ones(1))
