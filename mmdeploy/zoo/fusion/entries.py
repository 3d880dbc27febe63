"""What the catalogue says of fusions of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mmdeploy.zoo.block import Block
from mmdeploy.zoo.fusion.early import EarlyFusion
from mmdeploy.zoo.fusion.intermediate import IntermediateFusion
from mmdeploy.zoo.fusion.late import LateFusion
from mmdeploy.zoo.fusion.modalities import Named
from mmdeploy.zoo.fusion.products import BilinearFusion, LowRankFusion, TensorFusion
from mmdeploy.zoo.fusion.weighted import AdaptiveFusion, AttentionFusion, GatedFusion

_WIDTHS = {"image": 24, "sound": 16, "text": 20}
_KINDS = 5
_SMALL: Mapping[str, int] = {"image": 8, "sound": 6, "text": 5}
_TWO = {"image": 24, "sound": 16}
_OUTPUT = {"pruned": "its width is that of the component's output"}


def made(make: Callable[[], nn.Module], names: tuple[str, ...]) -> Callable[[], nn.Module]:
    """Return what makes a fusion as a component, the same each time."""

    def seeded() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return Named(make(), names).eval()

    return seeded


def _features(widths: Mapping[str, int]) -> Callable[[int, int], dict[str, Tensor]]:
    """Make features as encoders give them: of a few kinds of samples, some values large and most small."""

    def samples(batch: int, seed: int) -> dict[str, Tensor]:
        made, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(17)
        kinds = torch.randint(_KINDS, (batch,), generator=made)
        found = {}
        for name, width in widths.items():
            centres = torch.randn(_KINDS, width, generator=fixed)
            found[name] = centres[kinds] + 0.4 * torch.randn(batch, width, generator=made)
        return found

    return samples


def _with_presence(batch: int, seed: int) -> dict[str, Tensor]:
    """Make features of which some are missing; what stands in their place is zeros."""
    found = _features(_WIDTHS)(batch, seed)
    made = torch.Generator().manual_seed(seed + 1)
    presence = (torch.rand(batch, len(_WIDTHS), generator=made) < 0.7).float()
    for place, name in enumerate(_WIDTHS):
        found[name] = found[name] * presence[:, place : place + 1]
    return {**found, "presence": presence}


_WIDE, _NAMES = tuple(_WIDTHS.values()), tuple(_WIDTHS)

EARLY = Block(
    name="EarlyFusion",
    what="features of all modalities side by side, then an MLP",
    paper="Ngiam et al., 2011, ICML",
    deploys="one Concat and two linear layers",
    make=made(lambda: EarlyFusion(_WIDE, 32, 5), _NAMES),
    samples=_features(_WIDTHS),
    outputs=("scores",),
)

LATE = Block(
    name="LateFusion",
    what="scores of each modality, summed by learned weights",
    paper="Snoek et al., 2005, ACM MM",
    deploys="weights depend on no input: engines fold their softmax into constants",
    make=made(lambda: LateFusion(_WIDE, 5, weight_per_class=True), _NAMES),
    samples=_features(_WIDTHS),
    outputs=("scores",),
    refusals=_OUTPUT,
)

INTERMEDIATE = Block(
    name="IntermediateFusion",
    what="a central network that listens to those of the modalities at chosen depths",
    paper="Vielzeuf et al., 2018, arXiv:1808.07275",
    deploys="depths are chosen when it is made: the graph has no branch",
    make=made(lambda: IntermediateFusion(_WIDE, 32, at=(1, 3), classes=5), _NAMES),
    samples=_features(_WIDTHS),
    outputs=("scores",),
)

ATTENTION = Block(
    name="AttentionFusion",
    what="a weighted mean of modalities, weights by attention to each",
    paper="Hori et al., 2017, arXiv:1701.03126",
    deploys="linear layers and a softmax over a fixed axis",
    make=made(lambda: AttentionFusion(_WIDE, 32, 16), _NAMES),
    samples=_features(_WIDTHS),
    outputs=("fused", "weights"),
)

GATED = Block(
    name="GatedFusion",
    what="each value of each modality times a gate that sees all of them",
    paper="Arevalo et al., 2017, arXiv:1702.01992",
    deploys="linear layers and sigmoids",
    make=made(lambda: GatedFusion(_WIDE, 32), _NAMES),
    samples=_features(_WIDTHS),
    outputs=("fused",),
    refusals=_OUTPUT,
)

ADAPTIVE = Block(
    name="AdaptiveFusion",
    what="a weighted mean of the modalities that are there, weights shared out anew among them",
    paper="Choi and Lee, 2019, arXiv:1904.09078",
    deploys="which are there is an input and a mask, not a branch; the mean over EmbraceNet's draws, not a draw",
    make=made(lambda: AdaptiveFusion(_WIDE, 32), (*_NAMES, "presence")),
    samples=_with_presence,
    outputs=("fused", "weights"),
    refusals=_OUTPUT,
)

BILINEAR = Block(
    name="BilinearFusion",
    what="each value that comes out is a bilinear form of two modalities",
    paper="Tenenbaum and Freeman, 2000, Neural Computation 12(6)",
    deploys="a linear layer makes a matrix a sample, in place of an Einsum that no engine has in INT8",
    make=made(lambda: BilinearFusion((24, 16), 8), tuple(_TWO)),
    samples=_features(_TWO),
    outputs=("fused",),
    refusals=_OUTPUT,
)

TENSOR = Block(
    name="TensorFusion",
    what="the outer product of all modalities, each with a 1 in front, then a linear layer",
    paper="Zadeh et al., 2017, arXiv:1707.07250",
    deploys="the outer product is of broadcast axes, not an Einsum",
    make=made(lambda: TensorFusion(tuple(_SMALL.values()), 16), tuple(_SMALL)),
    samples=_features(_SMALL),
    outputs=("fused",),
    refusals=_OUTPUT,
)

LOW_RANK = Block(
    name="LowRankFusion",
    what="tensor fusion by a sum of products of rank one: the outer product is never there",
    paper="Liu et al., 2018, arXiv:1806.00064",
    deploys="a linear layer a modality, then products of values",
    make=made(lambda: LowRankFusion(_WIDE, 16, rank=4), _NAMES),
    samples=_features(_WIDTHS),
    outputs=("fused",),
    refusals=_OUTPUT,
)
