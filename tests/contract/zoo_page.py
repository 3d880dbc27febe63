"""docs/zoo.md, made of the catalogue and of what the contract found; see test_zoo_contract."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmdeploy.testing.block_figures import BlockRow
from mmdeploy.testing.blocks import FORMS
from mmdeploy.zoo.block import Block
from mmdeploy.zoo.catalogue import FAMILIES

ROOT = Path(__file__).parents[2]
GOLDEN, PAGE = ROOT / "tests" / "golden" / "zoo.json", ROOT / "docs" / "zoo.md"
Rows = Mapping[str, Mapping[str, str]]

#: Blocks whose forms are not held to the contract: their own tests compare them with references, and no more is known.
UNPROVEN: frozenset[str] = frozenset()
TITLES = {
    "front_ends": "Front ends",
    "encoders": "Encoders",
    "fusion": "Fusions",
    "attention": "Attentions",
    "experts": "Experts",
    "alignment": "Alignment",
}
_HEAD = """# The zoo

`mmdeploy.zoo` has the parts that people build multimodal models of, as short blocks in PyTorch that are known to
deploy; a model imports them. A family is a package, and the catalogue says what each block is and how a small one is
made:

```python
from mmdeploy.zoo.catalogue import blocks
from mmdeploy.zoo.fusion import GatedFusion

fusion = GatedFusion(widths=(512, 128), width=256)
for name, block in blocks().items():
    assert block.what and block.paper, name
```

## A block of your own

`testing.check_block` takes a block of yours through the same, and says what does not hold:

```python
import torch

from mmdeploy import testing
from mmdeploy.zoo.block import Block


def head() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()


def samples(batch: int, seed: int) -> dict[str, torch.Tensor]:
    return {"input": torch.randn(batch, 16, generator=torch.Generator().manual_seed(seed))}


block = Block("Head", "scores", "ours", "two linear layers", head, samples, outputs=("scores",))


def test_head_deploys() -> None:
    testing.check_block(block)
```

## How it was found

The tables are made by `UPDATE_GOLDEN=1 pytest -n 0 tests/contract/test_zoo_contract.py`, and compared by the same
without it. Each block, in a small size, is exported for any batch, and any length where one varies, and compared with
PyTorch at several; its graph is run by ONNX Runtime and OpenVINO and built by TensorRT for RTX, in FP32 and in static
INT8; it is quantized dynamically; half of its units are pruned, and what is left learns for a few steps with INT8 in
mind, is exported and run again. All are mmdeploy's own passes and engines with their defaults, but for the calibrator
(`percentile`, no equalization) and few samples.

- `≤`: the largest difference in FP32, relative to the largest value of an output, over all batches and lengths.
- `≥`: the least cosine between an output in INT8 and in FP32; for trained INT8 to the trained module in FP32; of
  outputs that are integers, the share that are equal. Weights are random: what a cosine costs in accuracy, your model
  says.
- A percentage: what pruning by half leaves of the parameters, ends included, which cannot be cut.
- `built`: TensorRT for RTX parsed the graph and built an engine for it, without a GPU, where none can be run.
- A number: why there is no figure, below the table.
- `?`: not taken through the forms yet.
"""


def read() -> dict[str, dict[str, dict[str, str]]]:
    """Return what was found when it was written last, by block and form."""
    found: dict[str, dict[str, dict[str, str]]] = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    return found


def write(key: str, row: BlockRow) -> None:
    """Write what was found of one block."""
    rows = read() | {
        key: {
            form: {"text": figure.text} | ({"reason": figure.reason} if figure.reason else {})
            for form, figure in row.figures.items()
        }
    }
    GOLDEN.write_text(json.dumps(dict(sorted(rows.items())), indent=1, ensure_ascii=False) + "\n")


def page() -> str:
    """Return the page."""
    rows = read()
    parts = [_HEAD]
    for family, found in FAMILIES.items():
        parts.append(f"\n## {TITLES[family]}\n\n`mmdeploy.zoo.{family}`\n")
        parts += [_said(block) for block in found.values()]
        named = [(block.name, rows.get(f"{family}/{key}", {})) for key, block in found.items()]
        parts += _table(named)
    return "".join(parts)


def _said(block: Block) -> str:
    return f"\n- **{block.name}**: {block.what} ({block.paper}). Its form: {block.deploys}."


def _table(found: Iterable[tuple[str, Mapping[str, Mapping[str, str]]]]) -> Iterable[str]:
    reasons: list[str] = []
    yield f"\n\n| block | {' | '.join(FORMS.values())} |\n|---|{'---|' * len(FORMS)}\n"
    for block, row in found:
        cells = []
        for form in FORMS:
            figure = row.get(form, {"text": "?"})
            cells.append(figure["text"])
            if reason := figure.get("reason"):
                if reason not in reasons:
                    reasons.append(reason)
                cells[-1] = f"{figure['text']} ({reasons.index(reason) + 1})"
        yield f"| {block} | {' | '.join(cells)} |\n"
    if reasons:
        yield "\n" + "".join(f"{number}. {reason}\n" for number, reason in enumerate(reasons, 1))
