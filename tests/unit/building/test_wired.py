"""Noise far above that of the other components is told of, with who judges it."""

import pytest

from mmdeploy.building.wired import noise_notes
from mmdeploy.core.contracts import WiredComponent


def part(name: str, sqnr_db: float | None) -> WiredComponent:
    return WiredComponent(name, {}, {}, ("quantize static",), sqnr_db=sqnr_db)


@pytest.mark.parametrize(
    ("gates", "who"),
    [
        (["size", "accuracy", "parity"], "the accuracy and parity gates judge that"),
        (["parity"], "the parity gate judges that"),
        (["size"], "no gate of the recipe judges answers"),
        ([], "no gate of the recipe judges answers"),
    ],
)
def test_a_component_far_below_its_siblings_is_named(gates: list[str], who: str) -> None:
    notes = list(noise_notes([part("text", 14.0), part("image", 41.0), part("fusion", 39.0)], gates))
    assert notes == [f"text: INT8 leaves 14.0 dB of it, and 40.0 dB of the other components; {who}."]


def test_components_that_are_alike_are_not_told_of() -> None:
    assert not list(noise_notes([part("text", 24.0), part("image", 41.0), part("head", None)], ["accuracy"]))
