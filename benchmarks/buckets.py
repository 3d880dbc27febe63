"""What buckets win: requests of 1 to 77 tokens to a text transformer, by many clients at once.

Run it as ``python benchmarks/buckets.py [--clients 8] [--width 192] [--depth 4] [--json FILE]``. One graph is served by
three real Tritons: with buckets (the ensemble pads to 16, 32 or 77 tokens, and the batcher joins requests of one
bucket), padded to the maximum (one bucket of 77: all requests join, and each costs 77 tokens), and without a bucket
(each request at its true length, joined only with those of exactly its length). Clients send the same sentences in a
closed loop; lengths are those of captions, log-normal around 12 tokens. The variants take turns, in an order that turns
over; ratios are of samples a second over all rounds, and to "no bucket". Answers of all three are compared first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmdeploy.building.judge import ServedDeployment, staged
from mmdeploy.core.artifact import Array, Artifact, TensorSpec, file_sha256
from mmdeploy.core.sizes import Size
from mmdeploy.core.target import this_hardware
from mmdeploy.scoring.load import Clients
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.buckets import bucketed
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.options import DynamicBatching, InstanceGroup, Serving

HEADS, VOCABULARY, MOST = 4, 1000, 77
TOKENS = Size("tokens", 1, MOST)
VARIANTS: Mapping[str, tuple[int, ...]] = {"buckets": (16, 32, 77), "padded to 77": (77,), "no bucket": ()}


@dataclass
class Measured:
    """What one variant did."""

    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Samples a second."""
        return len(self.latencies_ms) / self.seconds


def main() -> None:
    """Serve the variants, measure them in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each variant in each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    feeds = sentences(256)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        graph = export(Path(folder) / "model.onnx", arguments.width, arguments.depth)
        served = {name: serve(stack, graph, Path(folder) / str(at), VARIANTS[name]) for at, name in enumerate(VARIANTS)}
        worst = compared(served, feeds[:32])
        clients = {
            name: Clients(one, None, feeds, concurrency=arguments.clients, clock=time.perf_counter)
            for name, one in served.items()
        }
        found = measure(clients, arguments)
        for one in clients.values():
            one.close()
    rows = table(found)
    print(f"largest difference of an answer between variants: {worst:.2g}")
    if arguments.json:
        facts = vars(arguments) | {"json": None, "hardware": str(this_hardware()), "largest_difference": worst}
        arguments.json.write_text(json.dumps(facts | {"rows": rows}, indent=1))


def sentences(count: int) -> list[dict[str, Array]]:
    """Draw sentences, each a request."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(12), 0.7, count).round(), 1, MOST).astype(int)
    ids = [random.integers(1, VOCABULARY, (1, length)) for length in lengths]
    return [{"ids": one, "mask": np.ones_like(one)} for one in ids]


def export(path: Path, width: int, depth: int) -> Artifact:
    """Write the text encoder as a graph of any batch and length."""
    import torch
    from torch import Tensor, nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(MOST, width)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(width, HEADS, 4 * width, batch_first=True, norm_first=True)
                for _ in range(depth)
            )

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            found = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
            for layer in self.layers:
                found = layer(found, src_key_padding_mask=mask == 0)
            real = mask.unsqueeze(-1).to(found.dtype)
            return (found * real).sum(1) / real.sum(1)

    torch.manual_seed(0)
    module = Encoder().train()  # in eval mode the layers take a fused path that has no graph
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    batch, tokens = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("tokens", min=2, max=MOST)
    example = torch.ones(3, 9, dtype=torch.int64)
    shapes = {name: {0: batch, 1: tokens} for name in ("ids", "mask")}
    program = torch.onnx.export(
        module, (example, example), dynamic_shapes=shapes, input_names=["ids", "mask"], output_names=["vector"],
        dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(path)
    inputs = tuple(TensorSpec(name, "INT64", (-1,), (TOKENS,)) for name in ("ids", "mask"))
    outputs = (TensorSpec("vector", "FP32", (width,)),)
    return Artifact("onnx", path, file_sha256(path), inputs, outputs, "benchmark")


def serve(stack: ExitStack, graph: Artifact, folder: Path, buckets: Sequence[int]) -> ServedDeployment:
    """Serve the graph with some buckets, or none."""
    component = ServedComponent(
        "texts.text", "onnxruntime", "model.onnx", graph, {"ids": "ids", "mask": "mask"}, {"vector": "vector"},
        Serving(
            max_batch_size=16, dynamic_batching=DynamicBatching(max_queue_delay_us=2000),
            instance_group=InstanceGroup(count=1),
        ),
        {"intra_op_thread_count": "1", "session.intra_op.allow_spinning": "0"},
        sample={name: np.ones(4, np.int64) for name in ("ids", "mask")},
    )  # fmt: skip
    plain = ServedEnsemble("texts", graph.inputs, graph.outputs, (component,))
    folder.mkdir()
    made = staged(folder / "repository", bucketed(plain, {TOKENS.name: buckets} if buckets else {}))
    server = stack.enter_context(triton_server.start([made.repository.path], log=folder / "triton.log"))
    return ServedDeployment(server, made.ensemble)


def compared(served: Mapping[str, ServedDeployment], feeds: Sequence[Mapping[str, Array]]) -> float:
    """Return the largest difference of an answer from that without a bucket."""
    answers = {}
    for name, deployment in served.items():
        runner = deployment.runner()
        answers[name] = np.concatenate([np.array(runner.infer(feed)["vector"]) for feed in feeds])
        runner.close()
    assert answers["no bucket"].std(axis=0).min() > 0, "all sentences are answered alike"
    return max(float(np.abs(found - answers["no bucket"]).max()) for found in answers.values())


def measure(clients: Mapping[str, Clients], arguments: argparse.Namespace) -> dict[str, Measured]:
    """Let the variants take turns."""
    found = {name: Measured() for name in clients}
    order = list(clients)
    for one in clients.values():
        one.block(0, 100)
    for at in range(arguments.rounds):
        for name in order if at % 2 == 0 else reversed(order):
            until, sent = time.perf_counter() + arguments.seconds, 0
            while time.perf_counter() < until:
                block = clients[name].block(sent, 64)
                sent += 64
                found[name].latencies_ms += block.latencies_ms.tolist()
                found[name].seconds += block.seconds
    return found


def table(found: Mapping[str, Measured]) -> list[dict[str, object]]:
    """Print a row a variant, and return them."""
    rows: list[dict[str, object]] = []
    print(f"{'variant':<14}{'samples/s':>11}{'ratio':>8}{'p50 ms':>9}{'p95 ms':>9}{'requests':>10}")
    for name, one in found.items():
        p50, p95 = np.percentile(one.latencies_ms, (50, 95))
        ratio = one.per_second / found["no bucket"].per_second
        print(f"{name:<14}{one.per_second:>11.1f}{ratio:>8.2f}{p50:>9.1f}{p95:>9.1f}{len(one.latencies_ms):>10}")
        rows.append({"variant": name, "per_second": one.per_second, "ratio": ratio, "p50_ms": p50, "p95_ms": p95})
    return rows


if __name__ == "__main__":
    main()
