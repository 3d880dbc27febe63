"""Every block of the zoo goes through every form in which it can be deployed, and docs/zoo.md says what came of it.

``UPDATE_GOLDEN=1 pytest -n 0 tests/contract/test_zoo_contract.py`` writes the table, with ``-k`` one row.
"""

import os

import pytest
import zoo_page

from mmdeploy import testing
from mmdeploy.core.sizes import Size
from mmdeploy.testing.block_figures import Figure, alike, still_holds
from mmdeploy.zoo.block import Block
from mmdeploy.zoo.catalogue import blocks

BLOCKS = blocks()
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))


@pytest.mark.parametrize("key", [key for key in BLOCKS if UPDATE or key not in zoo_page.UNPROVEN])
def test_every_form_deploys(key: str) -> None:
    row = testing.check_block(BLOCKS[key])
    if UPDATE:
        zoo_page.write(key, row)
    told = zoo_page.read()[key]
    assert set(told) == set(row.figures)
    for form, figure in row.figures.items():
        assert still_holds(told[form]["text"], figure), f"{form}: {figure}, and docs/zoo.md says {told[form]['text']}"
        assert told[form].get("reason", "") == figure.reason, form


def test_the_page_is_what_was_found() -> None:
    if UPDATE:
        zoo_page.PAGE.write_text(zoo_page.page())
    assert zoo_page.PAGE.read_text() == zoo_page.page()
    rows = set(zoo_page.read())
    assert rows | zoo_page.UNPROVEN == set(BLOCKS), "a block is not in the table, or a row is of none"
    assert not rows & zoo_page.UNPROVEN, "it has a row: take it out of UNPROVEN"


@pytest.mark.parametrize("key", BLOCKS)
def test_a_block_says_what_it_is(key: str) -> None:
    block = BLOCKS[key]
    for told in (block.what, block.paper, block.deploys, *block.refusals.values()):
        assert told and "\n" not in told and "|" not in told and not told.endswith(".")
    sizes = {size.name for axes in block.varies.values() for size in axes.values() if isinstance(size, Size)}
    made = block.samples(2, 0)
    assert set(block.varies) <= set(made)
    for name in sizes:
        assert block.samples(2, 0, **{name: 3}), "a size that varies is a keyword of samples"


def test_a_class_is_written_clear_of_its_limit_and_holds_a_little_beyond() -> None:
    assert alike(0.9994).text == "≥ 0.999"
    assert alike(0.9992).text == "≥ 0.99"
    assert still_holds("≥ 0.999", Figure(0.9987, "≥ 0.99"))
    assert not still_holds("≥ 0.999", Figure(0.9980, "≥ 0.99"))
    assert not still_holds("≥ 0.999", Figure(None, "refused"))
    assert still_holds("built", Figure(None, "built"))


def _changed(**changes: object) -> Block:
    import dataclasses

    return dataclasses.replace(BLOCKS["front_ends/resize_pixels"], **changes)  # type: ignore[arg-type]


def test_what_does_not_hold_is_said() -> None:
    import torch

    shared = torch.Generator().manual_seed(0)

    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("noise", torch.rand(3, 1, 1, generator=shared))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + self.noise

    with pytest.raises(AssertionError, match="make gives another module each time"):
        testing.check_block(_changed(make=lambda: Noisy().eval()))
    with pytest.raises(AssertionError, match="openvino is no longer refused"):
        testing.check_block(_changed(refusals={"openvino": "nothing"}))
    with pytest.raises(AssertionError, match="refusals name"):
        testing.check_block(_changed(refusals={"opnvino": "nothing"}))
    with pytest.raises(AssertionError, match="as qat: ResizePixels: nothing to quantize"):
        testing.check_block(_changed(not_quantized=""))
