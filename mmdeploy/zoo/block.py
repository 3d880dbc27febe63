"""What the zoo says of a block: how one is made, what it is asked, and which forms it can be deployed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from mmdeploy.core.sizes import Size


@dataclass(frozen=True)
class Block:
    """A block, and all that `mmdeploy.testing.check_block` needs to take it through every form.

    Attributes:
        name: The class, or what tells two entries of one class apart: ``Experts (dense mask)``.
        what: One line: what it does.
        paper: Authors, year and arXiv id (or venue): ``Vaswani et al., 2017, arXiv:1706.03762``.
        deploys: One line: why its form deploys, or what was written otherwise than in the paper for that.
        make: Makes a small instance in eval mode, the same each time: it seeds PyTorch itself. Widths of 16 to 64.
        samples: Makes named inputs of ``forward``, batch on axis 0, of realistic values, by batch size and seed; sizes
            that vary come as keywords and have defaults: ``samples(2, 0, frames=7)``.
        outputs: Names of what ``forward`` returns, in its order.
        varies: Sizes that vary beside the batch, by input and axis: ``{"sound": {1: Size("samples", 400, 1600)}}``.
        not_pruned: Why structured pruning does not apply, such as that nothing is trained; empty where it is tried.
            That it finds nothing to cut is a refusal.
        not_quantized: Why INT8 does not apply, such as having no weights; empty where it does.
        float_nodes: Globs on nodes of the graph, ``<attribute path>/<operator>``, that stay out of INT8.
        int8_cosine: Least cosine, over each output of a batch, between an INT8 form and FP32.
        refusals: What an engine is known to say, in part, by form: ``{"tensorrt_rtx": "no importer"}``;
            forms are those of `mmdeploy.testing.blocks.FORMS`.
    """

    name: str
    what: str
    paper: str
    deploys: str
    make: Callable[[], nn.Module]
    samples: Callable[..., dict[str, Tensor]]
    outputs: tuple[str, ...]
    varies: Mapping[str, Mapping[int, Size]] = field(default_factory=dict)
    not_pruned: str = ""
    not_quantized: str = ""
    float_nodes: tuple[str, ...] = ()
    int8_cosine: float = 0.99
    refusals: Mapping[str, str] = field(default_factory=dict)
