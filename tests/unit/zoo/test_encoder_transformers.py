"""Encoders that are transformers, against torch's own and those of the library transformers, with the same weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import ASTConfig, ASTModel, TimesformerConfig, TimesformerModel, ViTConfig, ViTModel

from mmdeploy.zoo import LogMel
from mmdeploy.zoo.encoders import (
    AudioTower,
    LongVideo,
    SelfAttention,
    SpaceTimeTransformer,
    SpectrogramTransformer,
    TextTransformer,
    Transformer,
    VisionTransformer,
)

WIDTH, HEADS = 16, 2
SIZES = {
    "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2,
    "layer_norm_eps": 1e-5, "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0,
}  # fmt: skip


def randomised(module: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value of its own: a bias of 0 would hide one that is left out."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return module.eval()


def copied(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy a linear layer, a convolution or a normalization."""
    ours.load_state_dict(theirs.state_dict())


def of_torch(ours: Transformer) -> nn.TransformerEncoder:
    """Make torch's own encoder of the weights of ours."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0, activation="gelu", batch_first=True, norm_first=True
    )
    made = nn.TransformerEncoder(layer, len(ours.layers), ours.norm, enable_nested_tensor=False).eval()
    for their, our in zip(made.layers, ours.layers, strict=True):
        their.self_attn.in_proj_weight = our.attention.qkv.weight
        their.self_attn.in_proj_bias = our.attention.qkv.bias
        their.self_attn.out_proj.weight = our.attention.output.weight
        their.self_attn.out_proj.bias = our.attention.output.bias
        their.norm1, their.norm2 = our.before_attention, our.before_mlp
        their.linear1, their.linear2 = our.mlp[0], our.mlp[2]
    return made


def test_the_transformer_is_torchs_own():
    ours = randomised(Transformer(WIDTH, 2, HEADS))
    tokens = torch.randn(3, 5, WIDTH)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]]).bool()
    wanted = of_torch(ours)(tokens, src_key_padding_mask=~real)
    torch.testing.assert_close(ours(tokens, real[:, None, None]), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours(tokens), of_torch(ours)(tokens), atol=1e-4, rtol=1e-4)


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4), longer=st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_texts_are_read_as_if_there_were_no_padding(lengths, longer):
    encoder = randomised(TextTransformer(50, 12, width=WIDTH, depth=1, heads=HEADS))
    longest = max(*lengths, 1) + longer
    ids = torch.randint(0, 50, (len(lengths), longest))
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    found = encoder(ids, mask)
    for row, length in enumerate(lengths):
        if not length:
            assert not found[row].any()
            continue
        words = encoder.words.weight[ids[row, :length]] + encoder.positions[0, :length]
        wanted = of_torch(encoder.transformer)(words[None])[0].mean(dim=0)
        torch.testing.assert_close(found[row], wanted, atol=1e-4, rtol=1e-4)


def copy_layers(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy the layers and the last normalization of the library's ViT or AST, whose parts have the same names."""
    found = {name: part for name, part in theirs.named_modules() if isinstance(part, nn.Linear | nn.LayerNorm)}
    for index, layer in enumerate(ours.layers):
        parts = [part for name, part in found.items() if f".{index}." in name]
        linear = [part for part in parts if isinstance(part, nn.Linear)]
        *projections, output, first, second = linear
        layer.attention.qkv.weight.data = torch.cat([part.weight for part in projections])
        layer.attention.qkv.bias.data = torch.cat([part.bias for part in projections])
        copied(layer.attention.output, output)
        copied(layer.mlp[0], first)
        copied(layer.mlp[2], second)
        before, after = (part for part in parts if isinstance(part, nn.LayerNorm))
        copied(layer.before_attention, before)
        copied(layer.before_mlp, after)
    copied(ours.norm, theirs.layernorm)


@pytest.mark.parametrize("count", [1, 3])
def test_images_are_embedded_as_by_the_librarys_vit(count):
    theirs = randomised(ViTModel(ViTConfig(image_size=(8, 12), patch_size=4, **SIZES), add_pooling_layer=False))
    ours = VisionTransformer((8, 12), 4, width=WIDTH, depth=2, heads=HEADS).eval()
    copied(ours.patches, theirs.embeddings.patch_embeddings.projection)
    ours.token, ours.positions = theirs.embeddings.cls_token, theirs.embeddings.position_embeddings
    copy_layers(ours.transformer, theirs)
    images = torch.randn(count, 3, 8, 12)
    wanted = theirs(images).last_hidden_state
    torch.testing.assert_close(ours.tokens(images), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours(images), wanted[:, 0], atol=1e-4, rtol=1e-4)


def of_library(encoder: SpectrogramTransformer, frames: int, bands: int) -> ASTModel:
    """Make the library's AST, and give its weights to ours."""
    theirs = ASTModel(
        ASTConfig(patch_size=4, frequency_stride=3, time_stride=3, max_length=frames, num_mel_bins=bands, **SIZES)
    )
    randomised(theirs)
    copied(encoder.patches, theirs.embeddings.patch_embeddings.projection)
    embeddings = theirs.embeddings
    encoder.class_tokens.data = torch.cat([embeddings.cls_token, embeddings.distillation_token], dim=1)
    encoder.positions = embeddings.position_embeddings
    copy_layers(encoder.transformer, theirs)
    return theirs


@pytest.mark.parametrize(("count", "frames", "bands"), [(1, 10, 8), (2, 14, 6)])
def test_spectrograms_are_embedded_as_by_the_librarys_ast(count, frames, bands):
    ours = SpectrogramTransformer(frames, bands, patch=4, stride=3, width=WIDTH, depth=2, heads=HEADS).eval()
    theirs = of_library(ours, frames, bands)
    spectrogram = torch.randn(count, frames, bands)
    wanted = theirs(spectrogram).pooler_output
    torch.testing.assert_close(ours(spectrogram), wanted, atol=1e-4, rtol=1e-4)


def test_sounds_are_embedded_as_by_the_librarys_ast_on_their_spectrogram():
    front = LogMel(8000, window=64, hop=32, bands=8)
    tower = randomised(AudioTower(front, 320, 6, patch=4, stride=3, depth=2, heads=HEADS, hidden=WIDTH))
    theirs = of_library(tower.encoder, 11, 8)
    sound = torch.randn(2, 320)
    norm = tower.norm
    bands = (front(sound) - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    wanted = theirs(bands).pooler_output @ tower.projection.weight.T + tower.projection.bias
    found = tower(sound)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(found, wanted / wanted.norm(dim=1, keepdim=True), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_clips_are_embedded_as_by_the_librarys_timesformer(count):
    theirs = randomised(TimesformerModel(TimesformerConfig(image_size=8, patch_size=4, num_frames=3, **SIZES)))
    ours = SpaceTimeTransformer((8, 8), 3, 4, width=WIDTH, depth=2, heads=HEADS).eval()
    embeddings = theirs.embeddings
    copied(ours.patches, embeddings.patch_embeddings.projection)
    ours.token, ours.times = embeddings.cls_token, embeddings.time_embeddings
    ours.token_position.data = embeddings.position_embeddings[:, :1]
    ours.places.data = embeddings.position_embeddings[:, 1:]
    for our, their in zip(ours.layers, theirs.encoder.layer, strict=True):
        for attention, other in ((our.time, their.temporal_attention), (our.space, their.attention)):
            copied(attention.qkv, other.attention.qkv)
            copied(attention.output, other.output.dense)
        copied(our.after_time, their.temporal_dense)
        copied(our.mlp[0], their.intermediate.dense)
        copied(our.mlp[2], their.output.dense)
        copied(our.before_time, their.temporal_layernorm)
        copied(our.before_space, their.layernorm_before)
        copied(our.before_mlp, their.layernorm_after)
    copied(ours.norm, theirs.layernorm)
    video = torch.randn(count, 3, 3, 8, 8)
    torch.testing.assert_close(ours(video), theirs(video).last_hidden_state[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("numbers", [(1,), (3, 1, 2)])
def test_long_videos_are_their_clips_one_by_one(numbers):
    clips = SpaceTimeTransformer((4, 4), 2, 4, width=WIDTH, depth=1, heads=HEADS)
    ours = randomised(LongVideo(clips, WIDTH, 4, depth=1, heads=HEADS))
    video = torch.randn(len(numbers), max(numbers), 2, 3, 4, 4)
    mask = (torch.arange(max(numbers)) < torch.tensor(numbers)[:, None]).long()
    found = ours(video, mask)
    for row, number in enumerate(numbers):
        seen = torch.stack([clips(video[row, index][None])[0] + ours.positions[0, index] for index in range(number)])
        wanted = of_torch(ours.transformer)(seen[None])[0].mean(dim=0)
        torch.testing.assert_close(found[row], wanted, atol=1e-4, rtol=1e-4)


def ids(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: SelfAttention(10, 3), "width 10 and heads 3: the first is a multiple of the second"),
        (lambda: VisionTransformer((30, 32), 16), "pixels 30 and patch 16"),
        (lambda: SpectrogramTransformer(8, 64), "patches of 16 with stride 10 in 8 frames of 64 bands"),
        (
            lambda: VisionTransformer((8, 8), 4, width=8, depth=1, heads=1)(torch.zeros(1, 3, 8, 9)),
            r"images of shape \[1, 3, 8, 9\]: this block takes FP32 \[N, 3, 8, 8\]",
        ),
        (
            lambda: VisionTransformer((8, 8), 4, width=8, depth=1, heads=1)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
            r"images of uint8: this block takes FP32 \[N, 3, 8, 8\]",
        ),
        (lambda: TextTransformer(5, 4, width=8, depth=1, heads=1)(*ids(5)), "a text of 5 tokens: .* at most 4"),
        (
            lambda: TextTransformer(5, 4, width=8, depth=1, heads=1)(ids(4)[0], torch.ones(1, 4)),
            r"mask of float32: this block takes INT64 \[N, T\]",
        ),
        (lambda: LongVideo(nn.Identity(), 8, 2)(torch.zeros(1, 3, 1, 1, 1, 1), ids(3)[1]), "a video of 3 clips: "),
    ],
)
def test_what_is_outside_of_a_blocks_shapes_is_one_clear_error(call, said):
    with pytest.raises(ValueError, match=said):
        call()
