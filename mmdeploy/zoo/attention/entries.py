"""What the catalogue says of the attentions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmdeploy.core.sizes import Size
from mmdeploy.zoo.attention.blocks import BlockAttention, HierarchicalAttention
from mmdeploy.zoo.attention.crossing import ThreeWayAttention, TwoWayAttention
from mmdeploy.zoo.attention.gated import GatedDecoder
from mmdeploy.zoo.attention.heads import DecoderLayer
from mmdeploy.zoo.attention.low_rank import LowRankAttention
from mmdeploy.zoo.attention.merging import TokenMerging
from mmdeploy.zoo.attention.random_pattern import RandomAttention
from mmdeploy.zoo.attention.resampling import PerceiverResampler, QFormer
from mmdeploy.zoo.attention.reuse import FixedReuse, GrowingReuse
from mmdeploy.zoo.attention.rotary import RotaryAttention
from mmdeploy.zoo.attention.windows import WindowAttention
from mmdeploy.zoo.block import Block

_DIM, _HEADS, _CONTEXT_DIM, _LONGEST = 32, 4, 16, 16
_LENGTH = Size("length", 2, _LONGEST)
_MERGED = Size("length", 6, _LONGEST)
_PAST = Size("past", 1, _LONGEST)
_GROWING = {"tokens": {1: _LENGTH}, "past_keys": {1: _PAST}, "past_values": {1: _PAST}, "past_mask": {1: _PAST}}
_PADDED = {"tokens": {1: _LENGTH}, "mask": {1: _LENGTH}}
_WHOLE = Size("length", 4, _LONGEST, 4)
_IN_BLOCKS = {"tokens": {1: _WHOLE}, "mask": {1: _WHOLE}}
_OF_CONTEXT = {"context": {1: _LENGTH}, "mask": {1: _LENGTH}}


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return what makes a module with the same weights each time, in eval mode."""

    def made() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make().eval()

    return made


def drawn(generator: torch.Generator, batch: int, length: int, width: int) -> Tensor:
    """Return tokens that share a part of what they are within a sample, as those of one image or sentence do."""
    own = torch.randn(batch, length, width, generator=generator)
    return own + torch.randn(batch, 1, width, generator=generator)


def padding(generator: torch.Generator, batch: int, length: int) -> Tensor:
    """Return what is real, BOOL [N, L]: one token at least, all of them in the first sample."""
    lengths = torch.randint(1, length + 1, (batch, 1), generator=generator)
    lengths[0] = length
    return torch.arange(length) < lengths


def _padded(batch: int, seed: int, length: int = 10) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"tokens": drawn(made, batch, length, _DIM), "mask": padding(made, batch, length)}


def _in_blocks(batch: int, seed: int, length: int = 12) -> dict[str, Tensor]:
    return _padded(batch, seed, length)


def _of_context(batch: int, seed: int, length: int = 10) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"context": drawn(made, batch, length, _CONTEXT_DIM), "mask": padding(made, batch, length)}


def _modalities(names: tuple[str, ...], dims: tuple[int, ...]) -> Callable[..., dict[str, Tensor]]:
    def samples(batch: int, seed: int, **lengths: int) -> dict[str, Tensor]:
        made = torch.Generator().manual_seed(seed)
        sizes = [lengths.get(f"{name}_length", 5 + index) for index, name in enumerate(names)]
        tokens = {name: drawn(made, batch, size, dim) for name, size, dim in zip(names, sizes, dims, strict=True)}
        masks = {f"{name}_mask": padding(made, batch, size) for name, size in zip(names, sizes, strict=True)}
        return tokens | masks

    return samples


def _free(names: tuple[str, ...]) -> dict[str, dict[int, Size]]:
    sizes = {name: {1: Size(f"{name}_length", 2, _LONGEST)} for name in names}
    return sizes | {f"{name}_mask": axes for name, axes in sizes.items()}


def _patches(batch: int, seed: int, rows: int = 3, columns: int = 4) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"patches": drawn(made, batch, rows * columns, _DIM).reshape(batch, rows, columns, _DIM)}


def _merged(batch: int, seed: int, length: int = 10) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 4, (batch, length), generator=made).float()
    return {"tokens": drawn(made, batch, length, _DIM), "sizes": sizes}


def _growing(batch: int, seed: int, length: int = 3, past: int = 5) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    tokens, keys, values = (drawn(made, batch, size, _DIM) for size in (length, past, past))
    return {"tokens": tokens, "past_keys": keys, "past_values": values, "past_mask": padding(made, batch, past)}


def _fixed(batch: int, seed: int) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    token, keys, values = (drawn(made, batch, size, _DIM) for size in (1, 6, 6))
    position = torch.randint(6, (batch,), generator=made)
    return {"token": token[:, 0], "past_keys": keys, "past_values": values, "position": position}


def _seeing(batch: int, seed: int, tokens: int = 5, length: int = 4) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    context = _of_context(batch, seed, length)
    return {"tokens": drawn(made, batch, tokens, _DIM)} | context


def _opened() -> GatedDecoder:
    """Return a decoder as training leaves it, its gates open."""
    made = GatedDecoder([DecoderLayer(_DIM, _HEADS) for _ in range(2)], _DIM, _HEADS, _CONTEXT_DIM, 2)
    for name, parameter in made.named_parameters():
        if name.endswith("gate"):
            nn.init.constant_(parameter, 0.7)
    return made


TWO_WAY = Block(
    name="TwoWayAttention",
    what="two modalities that ask each other",
    paper="Lu et al., 2019, arXiv:1908.02265",
    deploys="an attention with four axes each way; lengths and padding of their own",
    make=seeded(lambda: TwoWayAttention((_DIM, _CONTEXT_DIM), _HEADS)),
    samples=_modalities(("first", "second"), (_DIM, _CONTEXT_DIM)),
    outputs=("first_asked", "second_asked"),
    varies=_free(("first", "second")),
)

THREE_WAY = Block(
    name="ThreeWayAttention",
    what="three modalities of which each asks the two others",
    paper="Tsai et al., 2019, arXiv:1906.00295",
    deploys="the six directions are six attentions, written out",
    make=seeded(lambda: ThreeWayAttention((_DIM, _CONTEXT_DIM, 24), _HEADS)),
    samples=_modalities(("first", "second", "third"), (_DIM, _CONTEXT_DIM, 24)),
    outputs=("first_asked", "second_asked", "third_asked"),
    varies=_free(("first", "second", "third")),
)

WINDOW = Block(
    name="WindowAttention",
    what="tokens that see their neighbours",
    paper="Beltagy et al., 2020, arXiv:2004.05150",
    deploys="neighbours are slices side by side: no loop over tokens, any length",
    make=seeded(lambda: WindowAttention(_DIM, _HEADS, 5)),
    samples=_padded,
    outputs=("found",),
    varies=_PADDED,
)

BLOCK = Block(
    name="BlockAttention",
    what="tokens that see those of their block",
    paper="Qiu et al., 2019, arXiv:1911.02972",
    deploys="blocks and heads are one axis, so attention has four; any number of blocks",
    make=seeded(lambda: BlockAttention(_DIM, _HEADS, 4)),
    samples=_in_blocks,
    outputs=("found",),
    varies=_IN_BLOCKS,
)

RANDOM = Block(
    name="RandomAttention",
    what="tokens that see a few others, drawn at random",
    paper="Zaheer et al., 2020, arXiv:2007.14062",
    deploys="the pattern is drawn once and kept as a buffer, so the graph has it",
    make=seeded(lambda: RandomAttention(_DIM, _HEADS, _LONGEST, 3)),
    samples=_padded,
    outputs=("found",),
    varies=_PADDED,
)

LOW_RANK = Block(
    name="LowRankAttention",
    what="tokens that see a fixed number of mixtures of all",
    paper="Wang et al., 2020, arXiv:2006.04768",
    deploys="filled up to the longest, so mixing is one linear layer along the length",
    make=seeded(lambda: LowRankAttention(_DIM, _HEADS, _LONGEST, 4)),
    samples=_padded,
    outputs=("found",),
    varies=_PADDED,
)

HIERARCHICAL = Block(
    name="HierarchicalAttention",
    what="tokens within blocks, then blocks to each other",
    paper="Chalkidis et al., 2022, arXiv:2210.05529",
    deploys="two attentions with four axes and a masked mean; any number of blocks",
    make=seeded(lambda: HierarchicalAttention(_DIM, _HEADS, 4)),
    samples=_in_blocks,
    outputs=("found",),
    varies=_IN_BLOCKS,
)

TOKEN_MERGING = Block(
    name="TokenMerging (scatter)",
    what="tokens that are alike become one",
    paper="Bolya et al., 2022, arXiv:2210.09461",
    deploys="scatter_add and a division: torch.onnx writes scatter_reduce(mean) wrongly",
    make=seeded(lambda: TokenMerging(_DIM, _HEADS, 3)),
    samples=_merged,
    outputs=("merged", "merged_sizes"),
    varies={"tokens": {1: _MERGED}, "sizes": {1: _MERGED}},
    not_pruned="the keys of all heads together say which tokens are alike",
    refusals={"tensorrt_rtx": "Unsupported reduction type", "static_tensorrt_rtx": "Unsupported reduction type"},
)

TOKEN_MERGING_PRODUCT = Block(
    name="TokenMerging (product)",
    what="the same, by a table of who joins whom",
    paper="Bolya et al., 2022, arXiv:2210.09461",
    deploys="a matrix product in place of scatter_add: same numbers, no scattering",
    make=seeded(lambda: TokenMerging(_DIM, _HEADS, 3, "product")),
    samples=_merged,
    outputs=("merged", "merged_sizes"),
    varies={"tokens": {1: _MERGED}, "sizes": {1: _MERGED}},
    not_pruned="the keys of all heads together say which tokens are alike",
)

ROTARY = Block(
    name="RotaryAttention (real)",
    what="patches that see how far apart they are",
    paper="Heo et al., 2024, arXiv:2403.13298",
    deploys="pairs are turned as two real halves by tables of the graph; any grid up to the largest",
    make=seeded(lambda: RotaryAttention(_DIM, _HEADS, (6, 6))),
    samples=_patches,
    outputs=("found",),
    varies={"patches": {1: Size("rows", 2, 6), 2: Size("columns", 2, 6)}},
)

ROTARY_COMPLEX = Block(
    name="RotaryAttention (complex)",
    what="the same in complex numbers, as papers write it",
    paper="Heo et al., 2024, arXiv:2403.13298",
    deploys="the reference that the real form is held against",
    make=seeded(lambda: RotaryAttention(_DIM, _HEADS, (6, 6), "complex")),
    samples=_patches,
    outputs=("found",),
    varies={"patches": {1: Size("rows", 2, 6), 2: Size("columns", 2, 6)}},
)

GROWING_REUSE = Block(
    name="GrowingReuse",
    what="a decoder's step that computes no key or value anew",
    paper="Pope et al., 2022, arXiv:2211.05102",
    deploys="keys and values go in and out: nothing is kept in the module",
    make=seeded(lambda: GrowingReuse(_DIM, _HEADS)),
    samples=_growing,
    outputs=("found", "keys", "values"),
    varies=_GROWING,
    not_pruned="keys and values go out, and outputs keep their widths",
)

FIXED_REUSE = Block(
    name="FixedReuse",
    what="the same for one token in a room of fixed size",
    paper="Pope et al., 2022, arXiv:2211.05102",
    deploys="every shape is fixed, as the state of a sequence is; a sample each may be at another token",
    make=seeded(lambda: FixedReuse(_DIM, _HEADS, 6)),
    samples=_fixed,
    outputs=("found", "keys", "values"),
    not_pruned="keys and values go out, and outputs keep their widths",
)

PERCEIVER_RESAMPLER = Block(
    name="PerceiverResampler",
    what="a context of any length to a fixed number of tokens",
    paper="Alayrac et al., 2022, arXiv:2204.14198",
    deploys="one shape comes out, whatever the length",
    make=seeded(lambda: PerceiverResampler(_DIM, _HEADS, _CONTEXT_DIM, 4, 2)),
    samples=_of_context,
    outputs=("resampled",),
    varies=_OF_CONTEXT,
)

Q_FORMER = Block(
    name="QFormer",
    what="learned queries that ask an image",
    paper="Li et al., 2023, arXiv:2301.12597",
    deploys="one shape comes out, whatever the number of patches",
    make=seeded(lambda: QFormer(_DIM, _HEADS, _CONTEXT_DIM, 4, 2, expansion=2)),
    samples=_of_context,
    outputs=("queries",),
    varies=_OF_CONTEXT,
)

GATED_DECODER = Block(
    name="GatedDecoder",
    what="a frozen decoder that learns to see",
    paper="Alayrac et al., 2022, arXiv:2204.14198",
    deploys="gates are constants of the graph; no image is a context of padding",
    make=seeded(_opened),
    samples=_seeing,
    outputs=("found",),
    varies={"tokens": {1: Size("tokens", 2, _LONGEST)}, **_OF_CONTEXT},
)
