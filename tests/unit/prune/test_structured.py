"""What is cut is the least important, and what remains answers as the original with those units silenced."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_pruning
from prune_cases import HEAD, answers, component, exported, normal, plain, pruned_by, step
from pydantic import ValidationError

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import PruneError
from mmdeploy.model.torch_component import load_component
from mmdeploy.prune import groups, importance, structured, tracing
from mmdeploy.prune.surgery import Removal, difference

MLP = plain("nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 4))")
VECTOR = normal(input=(6,))
IMAGE = normal(input=(3, 8, 8))

RESIDUAL = HEAD + """
class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
        self.second, self.second_norm = nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x):
        found = self.second_norm(self.second(torch.relu(self.first_norm(self.first(x)))))
        return torch.relu(found + self.shortcut(x))

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, input):
        return self.head(self.blocks(torch.relu(self.stem(input))).mean((2, 3)))

"""  # fmt: skip

ATTENTION = HEAD + """
class Attention(nn.Module):
    def __init__(self, counted="heads", packed=None):
        super().__init__()
        setattr(self, counted, 4)
        self.counted, self.packed = counted, packed
        if packed:
            self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        else:
            self.query, self.key, self.value, self.proj = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, tokens):
        heads = getattr(self, self.counted)
        if self.packed == "by role":
            query, key, value = self.qkv(tokens).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.packed == "by head":
            query, key, value = self.qkv(tokens).unflatten(-1, (heads, 3, -1)).permute(3, 0, 2, 1, 4).unbind(0)
        else:
            query, key, value = (
                layer(tokens).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
            )
        found = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1) @ value
        return self.proj(found.transpose(1, 2).flatten(2))

"""  # fmt: skip
TOKENS = normal(tokens=(5, 32))


def run(tmp_path, source, feeds, training=None, **options):
    artifact = component(tmp_path, source, *feeds(1))
    context = step(tmp_path, feeds, training)
    after, module = pruned_by(structured, artifact, context, **({"ratio": 0.4} | options))
    return after, module, load_component(artifact)


def with_part(head, expression):
    return head + plain(expression).removeprefix(HEAD)


def cuts(artifact):
    return {cut["group"]: (cut["before"], cut["after"]) for cut in artifact.metadata["pruning"]["pruned"]}


def removed(artifact, group):
    return next(cut["removed_units"] for cut in artifact.metadata["pruning"]["pruned"] if cut["group"] == group)


def check_equal(module, reference, feeds):
    for given, wanted in zip(answers(module, feeds(3)), answers(reference, feeds(3)), strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


def test_mlp_loses_the_units_of_the_smallest_norm_and_nothing_else_changes(tmp_path):
    after, module, original = run(tmp_path, MLP, VECTOR)
    up, down = (original[layer].weight.detach().numpy().astype(np.float64) for layer in (0, 2))
    norms = np.sqrt((up**2).sum(axis=1) + (down**2).sum(axis=0))
    expected = sorted(np.argsort(norms)[:16].tolist())  # 32 x 0.6 = 19.2, the nearest multiple of 8 is 16
    assert removed(after, "0") == expected
    kept = [unit for unit in range(32) if unit not in expected]
    assert torch.equal(module[0].weight, original[0].weight[kept])
    assert torch.equal(module[0].bias, original[0].bias[kept])
    assert torch.equal(module[2].weight, original[2].weight[:, kept])
    assert torch.equal(module[2].bias, original[2].bias)
    with torch.no_grad():
        original[2].weight[:, expected] = 0.0
    check_equal(module, original, VECTOR)


def test_costs_are_those_of_the_smaller_module(tmp_path):
    after, module, _ = run(tmp_path, MLP, VECTOR)
    before, now = after.metadata["costs"]["before"], after.metadata["costs"]["after"]
    assert before["flops"] == 2 * (6 * 32 + 32 * 4) and now["flops"] == before["flops"] // 2
    assert now["parameters"] == sum(parameter.numel() for parameter in module.parameters()) == 16 * 6 + 16 + 16 * 4 + 4
    assert now["bytes"] == 4 * now["parameters"]


@pytest.mark.parametrize("packed", [None, "by role", "by head"])
def test_whole_heads_go_and_the_rest_answers_as_if_they_gave_nothing(tmp_path, packed):
    source = with_part(ATTENTION, f"Attention(packed={packed!r})")
    after, module, original = run(tmp_path, source, TOKENS)
    assert cuts(after) == {groups.WHOLE: (4, 2)}
    gone = [8 * head + index for head in removed(after, groups.WHOLE) for index in range(8)]
    with torch.no_grad():
        original.proj.weight[:, gone] = 0.0
    check_equal(module, original, TOKENS)
    assert module.heads == 2
    projection = module.qkv if packed else module.query
    assert projection.out_features == projection.weight.shape[0] == (48 if packed else 16)
    exported(after, step(tmp_path, TOKENS))


def test_heads_counted_under_another_name(tmp_path):
    source = with_part(ATTENTION, "nn.ModuleDict({'a': Attention('parts')})['a']")
    with pytest.raises(PruneError, match="taking some of its channels out changes what the others give"):
        run(tmp_path, source, TOKENS)
    after, module, _ = run(tmp_path, source, TOKENS, heads={"": "parts"})
    assert cuts(after) == {groups.WHOLE: (4, 2)} and module.parts == 2
    with pytest.raises(PruneError, match=r"heads: \.pats is no integer attribute") as caught:
        run(tmp_path, source, TOKENS, heads={"": "pats"})
    assert "'parts'" in caught.value.hint
    with pytest.raises(PruneError, match="heads: there is no module 'querry'") as caught:
        run(tmp_path, source, TOKENS, heads={"querry": "parts"})
    assert "'query'" in caught.value.hint


def test_heads_may_stay(tmp_path):
    with pytest.raises(PruneError, match="prune_heads is false"):
        run(tmp_path, with_part(ATTENTION, "Attention()"), TOKENS, prune_heads=False)


def test_convolutions_with_batch_norm(tmp_path):
    source = plain(
        "nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32),"
        " nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))"
    ).replace(
        "    return Model()",
        "    model = Model()\n    for norm in (model.part[1], model.part[4]):\n"
        "        nn.init.normal_(norm.running_mean)\n        nn.init.uniform_(norm.weight)\n    return model",
    )
    after, module, original = run(tmp_path, source, IMAGE)
    assert cuts(after) == {"0": (16, 8), "3": (32, 16)}
    with torch.no_grad():
        original[3].weight[:, removed(after, "0")] = 0.0
        for channel in removed(after, "3"):
            original[7].weight[:, 16 * channel : 16 * (channel + 1)] = 0.0  # 4 x 4 positions of each channel
    check_equal(module, original, IMAGE)
    assert (module[1].num_features, module[3].in_channels, module[7].in_features) == (8, 8, 256)
    exported(after, step(tmp_path, IMAGE))


def test_residual_network(tmp_path):
    after, module, _ = run(tmp_path, with_part(RESIDUAL, "Residual()"), IMAGE)
    assert module.blocks[0].second.out_channels == module.stem.out_channels == 8
    assert module.blocks[1].shortcut.out_channels == module.blocks[1].second.out_channels == 16
    assert module.head.out_features == 10
    exported(after, step(tmp_path, IMAGE))


def test_grouped_and_depthwise_convolutions(tmp_path):
    source = plain(
        "nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3, groups=4), nn.GroupNorm(4, 64), nn.ReLU(),"
        " nn.Conv2d(64, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.BatchNorm2d(32), nn.Conv2d(32, 4, 1))"
    )
    after, module, original = run(tmp_path, source, IMAGE)
    grouped, depthwise = module[2], module[7]
    assert (grouped.groups, grouped.in_channels, grouped.out_channels, module[3].num_groups) == (4, 16, 40, 4)
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == module[8].num_features == 16
    for unit in removed(after, "0"):  # the same place in each of four groups of eight
        assert all(not torch.equal(row, original[0].weight[unit]) for row in module[0].weight)
    exported(after, step(tmp_path, IMAGE))


def test_concatenation_with_the_input(tmp_path):
    source = with_part(
        HEAD + "class Cat(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 24, 1)\n"
        "        self.c, self.d = nn.Conv2d(43, 16, 3), nn.Linear(16, 2)\n"
        "    def forward(self, input):\n"
        "        joined = torch.cat([torch.relu(self.a(input)), input, torch.relu(self.b(input))], 1)\n"
        "        return self.d(torch.relu(self.c(joined)).mean((2, 3)))\n\n",
        "Cat()",
    )
    after, module, original = run(tmp_path, source, IMAGE)
    assert module.c.in_channels == 8 + 3 + 16
    with torch.no_grad():
        original.c.weight[:, [*removed(after, "a"), *(19 + unit for unit in removed(after, "b"))]] = 0.0
        original.d.weight[:, removed(after, "c")] = 0.0
    check_equal(module, original, IMAGE)


@pytest.mark.parametrize("shape", [(6,), (5, 6)])
def test_gated_linear_unit_in_one_layer(tmp_path, shape):
    source = with_part(
        HEAD + "class Glu(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.up, self.down = nn.Linear(6, 64), nn.Linear(32, 6)\n"
        "    def forward(self, input):\n        value, gate = self.up(input).chunk(2, dim=-1)\n"
        "        return self.down(value * torch.sigmoid(gate))\n\n",
        "Glu()",
    )
    _, module, _ = run(tmp_path, source, normal(input=shape))
    assert module.up.out_features == 2 * module.down.in_features < 64


def test_a_norm_and_a_scale_on_hidden_channels(tmp_path):
    source = with_part(
        HEAD + "class Scaled(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.up, self.norm, self.down = nn.Linear(6, 32), nn.LayerNorm(32), nn.Linear(32, 6)\n"
        "        self.scale = nn.Parameter(torch.rand(32))\n"
        "    def forward(self, input):\n        return self.down(self.norm(self.up(input)) * self.scale)\n\n",
        "Scaled()",
    )
    after, module, original = run(tmp_path, source, VECTOR)
    assert module.norm.normalized_shape == (16,) and module.scale.shape == (16,)
    kept = [unit for unit in range(32) if unit not in removed(after, "up")]
    assert torch.equal(module.scale, original.scale[kept])


def test_transformer_layers_of_torch_lose_their_mlps_only(tmp_path):
    source = plain("nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)")
    feeds = normal(src=(5, 32))
    after, _, _ = run(tmp_path, source, feeds)
    assert cuts(after) == {f"layers.{layer}.linear1": (64, 40) for layer in range(2)}
    reasons = after.metadata["pruning"]["not_pruned"]
    assert "nn.MultiheadAttention ties" in reasons["layers.0.self_attn"]
    exported(after, step(tmp_path, feeds))


def test_clip_towers(tmp_path):
    pytest.importorskip("transformers")
    source = HEAD + (
        "from transformers import CLIPTextConfig, CLIPTextModelWithProjection\n"
        "class Tower(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.tower = CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=64, intermediate_size=128,\n"
        "            num_hidden_layers=2, num_attention_heads=4, vocab_size=99, max_position_embeddings=12,\n"
        "            projection_dim=32, bos_token_id=97, eos_token_id=98))\n"
        "    def forward(self, ids):\n        return self.tower(input_ids=ids).text_embeds\n\n"
    ) + plain("Tower()").removeprefix(HEAD)  # fmt: skip

    def feeds(batch):
        return {"ids": np.random.default_rng(batch).integers(0, 99, (batch, 12))}

    after, module, _ = run(tmp_path, source, feeds)
    heads = [cut for cut in after.metadata["pruning"]["pruned"] if cut["kind"] == "heads"]
    assert [(cut["before"], cut["after"]) for cut in heads] == [(4, 2)] * 2
    layer = next(part for name, part in module.named_modules() if name.endswith("layers.0.mlp.fc1"))
    assert layer.out_features == 80
    exported(after, step(tmp_path, feeds))


RECIPE = Path(__file__).parents[3] / "recipes" / "spoken_digits"
DIGITS = {
    "image_encoder": lambda batch: {
        "pixels": np.random.default_rng(batch).integers(0, 256, (batch, 8, 8), dtype=np.uint8)
    },
    "audio_encoder": lambda batch: {
        "waveform": np.random.default_rng(batch).uniform(-1, 1, (batch, 4000)).astype(np.float32)
    },
    "fusion": normal(image=(17, 192), audio=(25, 192)),
}


@pytest.mark.parametrize("name", DIGITS)
def test_spoken_digits(tmp_path, name):
    feeds = DIGITS[name]
    artifact = component(tmp_path, MLP, *feeds(1), module=name)
    facts = dict(artifact.metadata) | {"root": str(RECIPE), "weights": "weights.safetensors"}
    after, module = pruned_by(
        structured,
        Artifact("torch", RECIPE / "model.py", "", (), (), "recipe", facts),
        step(tmp_path, feeds),
        ratio=0.4,
    )
    heads = {group: sizes for group, sizes in cuts(after).items() if group.endswith("attention")}
    assert len(heads) == 2 and set(heads.values()) == {(6, 4)}
    widths = {group: sizes for group, sizes in cuts(after).items() if group not in heads}
    assert set(widths.values()) <= {(384, 232), (192, 112)} and widths
    if name != "fusion":
        assert module.norm.normalized_shape == (192,)
    costs = after.metadata["costs"]
    assert costs["after"]["flops"] < 0.8 * costs["before"]["flops"]
    exported(after, step(tmp_path, feeds))


def test_importance_agrees_with_torch_pruning(tmp_path):
    artifact = component(tmp_path, with_part(RESIDUAL, "Residual()"), "input")
    module = load_component(artifact)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight)
    feed = {"input": torch.from_numpy(IMAGE(2)["input"])}
    graph = tracing.trace(tracing.Subject("part", module, feed, ("y",), tmp_path))
    found = [group for group in groups.channel_groups(graph, module) if isinstance(group, groups.Group)]
    peer = torch_pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    theirs = {
        graph.paths[group[0].dep.target.module]: peer(group)
        for group in graph.dependencies.get_all_groups()
        if group[0].dep.target.module in graph.paths
    }
    assert len(found) == 4
    for group in found:
        expected = theirs[group.name].double().sqrt()
        torch.testing.assert_close(importance.magnitudes(group), expected, rtol=1e-5, atol=0)


def layer_groups(layer):
    return getattr(layer, "groups", 1)


class Regression:
    """A training setup whose loss is the mean square of a component's outputs against fixed labels."""

    def __init__(self, feeds, labels=True):
        self.feeds, self.labels = feeds, labels

    def network(self, module):
        return lambda given: {"y": module(**given)}

    def training(self, epoch, batch_size):
        for batch in range(3):
            feed = self.feeds(batch_size + batch)
            labels = np.full(len(next(iter(feed.values()))), batch)
            yield feed, labels if self.labels else None

    def task_loss(self, outputs, labels):
        return ((outputs["y"].flatten(1).mean(1) - labels) ** 2).mean()


@pytest.mark.parametrize(("source", "feeds", "name"), [
    (MLP, VECTOR, "0"),
    (with_part(ATTENTION, "Attention()"), TOKENS, groups.WHOLE),
    (plain("nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=2))"), IMAGE, "0"),
])  # fmt: skip
def test_taylor_is_the_slope_of_the_loss_as_units_fade(tmp_path, monkeypatch, source, feeds, name):
    seen = {}
    original = importance.taylor

    def remember(found, losses):
        seen["groups"], seen["scores"] = found, original(found, losses)
        return seen["scores"]

    monkeypatch.setattr(importance, "taylor", remember)
    setup = Regression(feeds)
    after, _, module = run(
        tmp_path, source, feeds, setup, importance="taylor", taylor_batches=2, taylor_batch_size=4, round_to=4
    )  # fmt: skip
    (group,) = seen["groups"]
    assert group.name == name
    (consumer,) = group.consumers
    layer = module.double().get_submodule(consumer.layer)
    slopes = np.zeros(group.units)
    samples = [
        ({key: torch.from_numpy(value[row : row + 1]).double() for key, value in feed.items()}, labels[row : row + 1])
        for feed, labels in list(setup.training(0, 4))[:2]
        for row in range(len(labels))
    ]
    for (given, label), unit in itertools.product(samples, range(group.units)):
        losses = []
        for change in (1e-4, -1e-4):
            faded = layer.weight.detach().clone()
            for channel in consumer.indices[unit].tolist():
                if layer_groups(layer) == 2:
                    faded[4 * (channel // 8) : 4 * (channel // 8) + 4, channel % 8] *= 1 + change
                else:
                    faded[:, channel] *= 1 + change
            answer = torch.func.functional_call(module, {f"{consumer.layer}.weight": faded}, (), given)
            losses.append(setup.task_loss({"y": answer}, torch.from_numpy(label)).item())
        slopes[unit] += abs((losses[0] - losses[1]) / 2e-4) / len(samples)
    np.testing.assert_allclose(seen["scores"][name].numpy(), slopes, rtol=1e-3, atol=1e-7)
    order = np.argsort(slopes, kind="stable")
    assert removed(after, name) == sorted(order[: len(removed(after, name))].tolist())


def test_taylor_without_training_data_or_labels(tmp_path):
    with pytest.raises(PruneError, match="importance: taylor needs training data") as caught:
        run(tmp_path, MLP, VECTOR, importance="taylor")
    assert "data.training" in caught.value.hint
    with pytest.raises(PruneError, match="taylor needs labels"):
        run(tmp_path, MLP, VECTOR, Regression(VECTOR, labels=False), importance="taylor")


TWO = plain("nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 4))").replace(
    "    return Model()", "    model = Model()\n    model.part[0].weight.data[:6] *= 0.01\n"
    "    model.part[2].weight.data[:, :6] *= 0.01\n    return model"
)  # fmt: skip


def test_global_scope_takes_more_where_units_matter_less(tmp_path):
    after, _, original = run(tmp_path, TWO, VECTOR, ratio=0.25, scope="global", round_to=1)
    first, second, third = (original[layer].weight.detach().numpy().astype(np.float64) for layer in (0, 2, 4))
    norms = [np.sqrt((a**2).sum(1) + (b**2).sum(0)) for a, b in ((first, second), (second, third))]
    relative = np.concatenate([norm / norm.mean() for norm in norms])
    gone = np.argsort(relative)[:24]  # a quarter of 96
    assert removed(after, "0") == sorted(unit for unit in gone.tolist() if unit < 32)
    assert removed(after, "2") == sorted(unit - 32 for unit in gone.tolist() if unit >= 32)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_ratio_that_empties_a_layer_names_it_and_the_largest_that_does_not(tmp_path, scope):
    with pytest.raises(PruneError, match=r"ratio 0\.9 leaves '.' .* channels; the least is round_to: 8") as caught:
        run(tmp_path, TWO, VECTOR, ratio=0.9, scope=scope)
    largest = float(caught.value.hint.split()[2])
    run(tmp_path, TWO, VECTOR, ratio=largest, scope=scope)
    with pytest.raises(PruneError, match="the least is round_to"):
        run(tmp_path, TWO, VECTOR, ratio=largest + 0.02, scope=scope)


def test_a_ratio_that_takes_every_head(tmp_path):
    with pytest.raises(PruneError, match=r"leaves 'the component itself' 0\.4 of 4 heads; the least is one head"):
        run(tmp_path, with_part(ATTENTION, "Attention()"), TOKENS, ratio=0.9)


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 2])
def test_ratio_outside_its_range(ratio):
    with pytest.raises(ValidationError):
        structured.Options(ratio=ratio)


def test_nothing_to_cut_is_told_with_the_reasons(tmp_path):
    with pytest.raises(PruneError, match=r"nothing to cut: .*width is that of the component's output 'y'"):
        run(tmp_path, plain("nn.Linear(6, 64)"), VECTOR)
    with pytest.raises(PruneError, match=r"it has 32 channels, round_to is 32"):
        run(tmp_path, MLP, VECTOR, round_to=32)
    with pytest.raises(PruneError, match=r"a ratio of 0\.05 rounds to nothing at round_to 8"):
        run(tmp_path, MLP, VECTOR, ratio=0.05)


def test_excluded_layers_keep_their_shape(tmp_path):
    after, module, _ = run(tmp_path, TWO, VECTOR, exclude=("4",))
    assert module[4].weight.shape == (4, 64) and cuts(after) == {"0": (32, 16)}
    assert "input of '4', which is excluded" in after.metadata["pruning"]["not_pruned"]["2"]
    with pytest.raises(PruneError, match="exclude: '7' matches no module"):
        run(tmp_path, TWO, VECTOR, exclude=("7",))


RECURRENT = HEAD + """
class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.recurrent = nn.Linear(6, 16), kind(16, 8, batch_first=True)
        self.wide, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, input):
        found = self.recurrent(torch.relu(self.first(input)))[0][:, -1]
        return self.last(torch.relu(self.wide(found)))

class Stepwise(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.recurrent = nn.Linear(6, 16), kind(16, 8)
        self.wide, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, input):
        state, inner = None, torch.relu(self.first(input))
        for step in range(input.shape[1]):
            state = self.recurrent(inner[:, step], state)
        return self.last(torch.relu(self.wide(state[0] if isinstance(state, tuple) else state)))

"""  # fmt: skip


@pytest.mark.parametrize("net", ["Net(nn.GRU)", "Net(nn.LSTM)", "Stepwise(nn.LSTMCell)"])
def test_recurrent_layers_keep_their_widths_and_the_rest_is_pruned(tmp_path, net):
    after, _, _ = run(tmp_path, with_part(RECURRENT, net), normal(input=(7, 6)))
    assert cuts(after) == {"wide": (16, 8)}
    assert "input of 'recurrent', which is recurrent" in after.metadata["pruning"]["not_pruned"]["first"]


EXPERTS = HEAD + """
class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(4, 16, 32)), nn.Parameter(torch.randn(4, 32, 16))
        self.router, self.rest = nn.Linear(16, 4), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, input):
        weights, index = torch.topk(self.router(input.mean(1)).softmax(-1), 2)
        found = torch.relu(input[:, None] @ self.up[index]) @ self.down[index]
        return self.rest((input + (found * weights[:, :, None, None]).sum(1)).mean(1))

"""  # fmt: skip


def test_weights_picked_by_an_index_end_in_a_reason_and_the_rest_is_pruned(tmp_path):
    after, _, _ = run(tmp_path, with_part(EXPERTS, "Experts()"), normal(input=(5, 16)))
    assert cuts(after) == {"rest.0": (32, 16)}
    assert "picked by an index" in after.metadata["pruning"]["not_pruned"]["router"]


UNTRACEABLE = HEAD + """
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 32)

    @torch.no_grad()
    def forward(self, x):
        return self.layer(x)

class Odd(nn.Linear):
    def forward(self, x):
        return {"y": super().forward(x)}

class Net(nn.Module):
    def __init__(self, odd):
        super().__init__()
        self.first = nn.ModuleList([Odd(6, 32) if odd else Frozen()])
        self.rest = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, input):
        found = self.first[0](input)
        return self.rest(found["y"] if isinstance(found, dict) else found)

"""  # fmt: skip


@pytest.mark.parametrize("odd", [True, False])
def test_a_module_that_cannot_be_traced_is_named_and_can_be_excluded(tmp_path, odd):
    source = with_part(UNTRACEABLE, f"Net({odd})")
    with pytest.raises(PruneError, match=r"cannot trace its module 'first\.0'") as caught:
        run(tmp_path, source, VECTOR)
    assert "exclude: [first.0]" in caught.value.hint
    after, module, original = run(tmp_path, source, VECTOR, exclude=("first.0",))
    assert cuts(after) == {"rest.0": (64, 40)}
    assert all(torch.equal(a, b) for a, b in zip(module.first.parameters(), original.first.parameters(), strict=True))


def test_frozen_parameters_are_pruned_and_stay_frozen(tmp_path):
    source = MLP.replace("    return Model()", "    return Model().requires_grad_(False)")
    after, module, _ = run(tmp_path, source, VECTOR, Regression(VECTOR), importance="taylor")
    assert cuts(after) == {"0": (32, 16)} and not any(part.requires_grad for part in module.parameters())


def test_a_shared_weight_and_a_buffer_stay_with_a_reason(tmp_path):
    source = with_part(
        HEAD + "class Shared(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b, self.c, self.d = (nn.Linear(32, 32) for _ in range(4))\n"
        "        self.b.weight = self.a.weight\n"
        "        self.register_buffer('scale', torch.rand(32), persistent=False)\n"
        "        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))\n"
        "    def forward(self, tokens):\n"
        "        return self.mlp(self.d(self.scale * self.c(torch.relu(self.b(torch.relu(self.a(tokens)))))))\n\n",
        "Shared()",
    )
    after, module, _ = run(tmp_path, source, TOKENS)
    reasons = after.metadata["pruning"]["not_pruned"]
    assert "shared by a.weight and b.weight" in reasons["a"]
    assert "cannot be resized" in reasons["c"] and "model.py" in reasons["c"]
    assert module.a.weight is module.b.weight and cuts(after)["mlp.0"] == (64, 40)


def test_the_check_catches_wrong_surgery_and_leaves_the_module_alone(tmp_path):
    artifact = component(tmp_path, MLP, "input")
    module = load_component(artifact)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    subject = tracing.Subject("part", module, {"input": torch.from_numpy(VECTOR(2)["input"])}, ("y",), tmp_path)
    graph = tracing.trace(subject)
    (group,) = (group for group in groups.channel_groups(graph, module) if isinstance(group, groups.Group))
    assert difference(subject, [Removal(group, (1, 4))]) is None
    shifted = [
        groups.Slice(part.layer, part.owner, part.axis, part.cut, (part.indices + (part.axis == "in")) % 32)
        for part in group.slices
    ]  # fmt: skip
    wrong = groups.Group(group.name, group.kind, tuple(shifted), group.units)
    assert "changes what the others give" in str(difference(subject, [Removal(wrong, (1, 4))]))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert (module[0].out_features, module[2].in_features) == (32, 32)


def test_two_passes_one_after_another(tmp_path):
    artifact = component(tmp_path, MLP, "input")
    first, _ = pruned_by(structured, artifact, step(tmp_path, VECTOR), ratio=0.25)
    second, module = pruned_by(structured, first, step(tmp_path, VECTOR), ratio=0.3)
    assert cuts(first) == {"0": (32, 24)} and cuts(second) == {"0": (24, 16)}
    assert module[0].out_features == 16 and answers(module, VECTOR(2))


def test_only_taylor_asks_for_data():
    assert structured.data_needs(structured.Options(ratio=0.4)) == frozenset()
    assert "training" in structured.data_needs(structured.Options(ratio=0.4, importance="taylor"))
