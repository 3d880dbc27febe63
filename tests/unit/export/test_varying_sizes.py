"""Components whose sizes vary: one graph that answers as PyTorch at every length, or an error that says why."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.contracts import Encoding, StepContext, Target
from mmdeploy.core.errors import ExportError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.sessions import open_session
from mmdeploy.core.sizes import Size
from mmdeploy.export import onnx_dynamo
from mmdeploy.model.torch_component import ComponentFacts, load_component

FRAMES = Size("frames", 1, 24)
HEAD = """
import torch
from torch import nn


class Module(nn.Module):
    def __init__(self):
        super().__init__()
{init}

    def forward(self, {inputs}):
{forward}


def build():
    torch.manual_seed(0)
    return nn.ModuleDict({{"part": Module()}})
"""


def source(init: str, forward: str, inputs: str = "x") -> str:
    def indented(text: str) -> str:
        return "\n".join(f"        {line}" for line in (text or "pass").splitlines())

    return HEAD.format(init=indented(init), forward=indented(forward), inputs=inputs)


class Exporter:
    """Exports a module whose inputs have sizes, as a step of a build does, and asks both sides."""

    def __init__(self, folder: Path, text: str, specs: Mapping[str, tuple[object, ...]], batch: int = 8) -> None:
        (folder / "model.py").write_text(text)
        self._folder, self._batch = folder, batch
        self._specs = tuple(
            TensorSpec(
                name, "FP32", tuple(-1 if isinstance(dim, Size) else int(str(dim)) for dim in dims),
                tuple(dim if isinstance(dim, Size) else None for dim in dims),
            )
            for name, dims in specs.items()
        )  # fmt: skip
        self._sizes = {size.name: size for spec in self._specs for size in spec.sizes if size is not None}

    def feed(self, batch: int, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        random = np.random.default_rng(sum(lengths.values()))
        return {
            spec.name: random.standard_normal(
                (
                    batch,
                    *(lengths[size.name] if size else dim for dim, size in zip(spec.shape, spec.sizes, strict=True)),
                )
            ).astype(np.float32)
            for spec in self._specs
        }

    def typical(self) -> dict[str, int]:
        return {name: size.nearest((size.min + size.max) / 2) for name, size in self._sizes.items()}

    def at_lengths(self, batch: int) -> Iterator[tuple[Mapping[str, int], dict[str, np.ndarray]]]:
        rows = [size.tried() for size in self._sizes.values()]
        for place in range(max(map(len, rows))):
            at = {name: row[min(place, len(row) - 1)] for name, row in zip(self._sizes, rows, strict=True)}
            yield at, self.feed(batch, at)

    def __call__(self, *outputs: str) -> Artifact:
        facts = ComponentFacts(
            "model.py:build", self._folder, None, "part", tuple(s.name for s in self._specs), outputs
        )
        artifact = Artifact(
            "torch", self._folder / "model.py", "", self._specs, (), "recipe", as_metadata(facts)
        )  # fmt: skip
        self.module = load_component(artifact)
        (self._folder / "work").mkdir()
        context = StepContext(
            component="part", workdir=self._folder / "work", target=Target.CPU, encoding=Encoding.UINT8_ASYMMETRIC,
            max_batch_size=self._batch, seed=0, threads=1, examples=lambda batch: self.feed(batch, self.typical()),
            at_lengths=self.at_lengths,
        )  # fmt: skip
        return onnx_dynamo.run(artifact, onnx_dynamo.Options(), context)

    def require_equal(self, made: Artifact) -> None:
        """See that the graph answers as PyTorch does at every length, in batches and alone."""
        import torch

        session = open_session(made.path, {})
        lowest, highest = (max(getattr(size, end) for size in self._sizes.values()) for end in ("min", "max"))
        for length in range(lowest, highest + 1):
            at = {name: size.nearest(length) for name, size in self._sizes.items()}
            feed = self.feed(1 + length % 3, at)
            with torch.no_grad():
                wanted = self.module(**{name: torch.from_numpy(array) for name, array in feed.items()})
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            for expected, answer in zip(wanted, session.run(None, feed), strict=True):
                np.testing.assert_allclose(answer, expected.numpy(), atol=2e-5, err_msg=f"at {at}")


@pytest.mark.parametrize(
    ("init", "forward", "low", "derived"),
    [
        pytest.param("self.p = nn.Linear(4, 3)", "return self.p(x)", 1, FRAMES, id="the same length"),
        pytest.param(
            "self.c = nn.Conv1d(4, 3, 5, 2, 2)", "return self.c(x.transpose(1, 2)).transpose(1, 2)", 1,
            Size("part_y_0(frames)", 1, 12), id="a strided convolution, down to one frame",
        ),
        pytest.param(
            "self.c = nn.Sequential(nn.Conv1d(4, 3, 4, 2), nn.ReLU(), nn.Conv1d(3, 3, 3, 2))",
            "return self.c(x.transpose(1, 2)).transpose(1, 2)", 8, Size("part_y_0(frames)", 1, 5),
            id="convolutions with a smallest length",
        ),
        pytest.param(
            "self.q = nn.Linear(4, 12)",
            "q, k, v = self.q(x).reshape(x.shape[0], x.shape[1], 3, 2, 2).permute(2, 0, 3, 1, 4)\n"
            "y = nn.functional.scaled_dot_product_attention(q, k, v)\n"
            "return y.transpose(1, 2).flatten(2)", 1, FRAMES, id="attention",
        ),
        pytest.param(
            "self.e = nn.Parameter(torch.randn(24, 4))", "return x + self.e[: x.shape[1]]", 1, FRAMES,
            id="positions limited by the largest length",
        ),
        pytest.param("self.r = nn.GRU(4, 5, batch_first=True)", "return self.r(x)[0]", 1, FRAMES, id="GRU"),
        pytest.param(
            "self.r = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)",
            "y, (h, c) = self.r(x)\nreturn y + h[-1].repeat(1, 2)[:, None] + c[0].repeat(1, 2)[:, None]", 1, FRAMES,
            id="LSTM, its state too",
        ),
        pytest.param(
            "self.r = nn.LSTM(4, 5, bias=False)",
            "h = torch.ones(1, x.shape[0], 5)\nreturn self.r(x.transpose(0, 1), (h, 2 * h))[0].transpose(0, 1)", 1,
            FRAMES, id="LSTM with a state of its own, time first, no biases",
        ),
        pytest.param(
            "self.r = nn.RNN(4, 5, nonlinearity='relu', bidirectional=True, batch_first=True)",
            "return self.r(x)[0]", 1, FRAMES, id="RNN",
        ),
    ],
)  # fmt: skip
def test_one_graph_for_every_length(tmp_path, init, forward, low, derived):
    frames = Size("frames", low, 24)
    part = Exporter(tmp_path, source(init, forward), {"x": (frames, 4)})
    made = part("y")
    part.require_equal(made)
    assert [spec.sizes for spec in made.inputs] == [(frames, None)]
    (output,) = made.outputs
    assert output.sizes[0] == (derived if derived is not FRAMES else frames) and output.shape[0] == -1
    assert len(made.metadata["parity"]) > 5  # batch sizes and lengths


def test_pictures_of_any_height_and_width(tmp_path):
    high, wide = Size("high", 6, 14), Size("wide", 8, 16, 4)
    text = source("self.c = nn.Conv2d(1, 2, 3, 2)", "return self.c(x[:, None]).mean((2, 3))")
    part = Exporter(tmp_path, text, {"x": (high, wide)})
    made = part("y")
    part.require_equal(made)
    assert (made.outputs[0].shape, made.outputs[0].sizes) == ((2,), ())


def test_one_size_of_two_inputs_and_another_beside(tmp_path):
    text = source("", "return (a * m[..., None]).sum(1) + b.mean(1)", "a, m, b")
    part = Exporter(tmp_path, text, {"a": (FRAMES, 3), "m": (FRAMES,), "b": (Size("words", 2, 9), 3)})
    part.require_equal(part("y"))


def test_axes_that_the_module_needs_equal_have_one_size(tmp_path):
    (tmp_path / "model.py").write_text(source("", "return a * m[..., None]", "a, m"))
    specs = (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("m", "FP32", (-1,)))
    facts = ComponentFacts("model.py:build", tmp_path, None, "part", ("a", "m"), ("y",))
    context = StepContext(
        component="part", workdir=tmp_path, target=Target.CPU, encoding=Encoding.UINT8_ASYMMETRIC, max_batch_size=4,
        seed=0, threads=1,
        examples=lambda batch: {"a": np.ones((batch, 7, 3), np.float32), "m": np.ones((batch, 7), np.float32)},
    )  # fmt: skip
    artifact = Artifact("torch", tmp_path / "model.py", "", specs, (), "recipe", as_metadata(facts))
    made = onnx_dynamo.run(artifact, onnx_dynamo.Options(), context)
    one, other = (spec.sizes[0] for spec in made.inputs)
    assert one == other and one is not None and not one.bounded


@pytest.mark.parametrize(
    ("init", "forward", "size", "told"),
    [
        pytest.param(
            "", "y = x[:, 0] * 0\nfor row in range(x.shape[1]):\n    y = y / 2 + x[:, row]\nreturn y", FRAMES,
            r"works only at the length of 'frames' that it was traced with, 13 \(axis 0 of input 'x'\)",
            id="a loop over the axis",
        ),
        pytest.param(
            "", "return x.sum(1) if x.shape[1] > 20 else x.mean(1)", FRAMES,
            r"output 'y' at batch 2: the graph differs from PyTorch .* \(at frames 24\)", id="a branch above a length",
        ),
        pytest.param(
            "", "return x.sum(1) if x.shape[1] % 2 else x.mean(1)", FRAMES,
            r"the graph differs from PyTorch .* \(at frames \d+\)", id="a branch on odd lengths",
        ),
        pytest.param(
            "", "return x.sum(1) if x.shape[1] % 8 == 0 else x.mean(1)", FRAMES,
            r"the graph differs from PyTorch .* \(at frames \d+\)", id="a branch on multiples",
        ),
        pytest.param(
            "self.e = nn.Parameter(torch.randn(20, 4))", "return x + self.e[: x.shape[1]]", FRAMES,
            r"\(at frames 24\)", id="more lengths than positions",
        ),
        pytest.param(
            "self.c = nn.Conv1d(4, 3, 5)", "return self.c(x.transpose(1, 2)).mean(2)", FRAMES, r"\(at frames 1\)",
            id="shorter than a kernel",
        ),
        pytest.param(
            "", "a, b = x.chunk(2, 1)\nreturn a.sum(1) - b.sum(1)", Size("frames", 4, 24, 2),
            r"torch.onnx failed: .* for node '.*SplitToSequence", id="halves of the axis",
        ),
        pytest.param(
            "self.r = nn.LSTM(4, 6, proj_size=3, batch_first=True)", "return self.r(x)[0]", FRAMES,
            "part: r is an LSTM with proj_size, which ONNX does not have", id="LSTM with a projection",
            marks=pytest.mark.filterwarnings("ignore:LSTM with projections"),
        ),
    ],
)  # fmt: skip
def test_a_module_that_is_wrong_at_a_length_is_refused_with_it(tmp_path, init, forward, size, told):
    with pytest.raises(ExportError, match=told) as caught:
        Exporter(tmp_path, source(init, forward), {"x": (size, 4)})("y")
    assert "proj_size" in told or f"`pad_to: {size.max}` under sizes.{size.name}" in str(caught.value.hint)


def test_sizes_that_are_one_in_the_module_are_told(tmp_path):
    text = source("", "return a + b", "a, b")
    specs = {"a": (Size("frames", 2, 9), 4), "b": (Size("words", 2, 9), 4)}
    with pytest.raises(ExportError, match=r"the sizes 'frames' .of input 'a'. and 'words' .of 'b'. are always equal"):
        Exporter(tmp_path, text, specs)("y")
