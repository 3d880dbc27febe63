"""Encoders that take any length, against plain loops and torch's own layers on each sequence without its padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers.models.resnet.configuration_resnet import ResNetConfig
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer

from mmdeploy.zoo.encoders import (
    ActionLocalizer,
    ActionQuality,
    ConvNet,
    EventDetector,
    SpeechEncoder,
    TemporalShift,
    TimeFrequencyAttention,
    TimeFrequencyEncoder,
    TwoStream,
    TwoWayGru,
)
from mmdeploy.zoo.encoders.temporal_shift import shifted

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def randomised(module: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value of its own: a bias of 0 would hide padding that it fills."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return module.eval()


def padded(lengths: list[int], *values: int, longer: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a batch of sequences, with rubbish where the mask says padding."""
    longest = max(lengths) + longer
    return torch.randn(len(lengths), longest, *values), (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def alone(module: nn.Module, frames: torch.Tensor, length: int) -> tuple[torch.Tensor, ...]:
    """Answer for one sequence without its padding, the batch left out."""
    found = module(frames[None, :length], torch.ones(1, length, dtype=torch.long))
    return tuple(one[0] for one in (found if isinstance(found, tuple) else (found,)))


# Each with the values of a frame. That a block answers what its reference does is checked below, without padding too.
ANY_LENGTH = {
    "shift": (lambda: TemporalShift((8, 8), channels=2, share=4), (2, 5, 4)),
    "speech": (lambda: SpeechEncoder(5, 6, 3, 2), (5,)),
    "events": (lambda: EventDetector(2, 16, (3, 4), 3), (16,)),
    "time_frequency": (lambda: TimeFrequencyEncoder(5, 6, 2, 5), (5,)),
    "actions": (lambda: ActionLocalizer(3, 5, width=8, depth=2, heads=2, window=3), (5,)),
    "quality": (lambda: ActionQuality(5, hidden=6, levels=4), (5,)),
}


@pytest.mark.parametrize("block", ANY_LENGTH)
@given(lengths=LENGTHS)
@settings(max_examples=10, deadline=None)
def test_padding_changes_nothing(block, lengths):
    make, values = ANY_LENGTH[block]
    module = randomised(make())
    frames, mask = padded(lengths, *values)
    found = module(frames, mask)
    for row, length in enumerate(lengths):
        for answer, wanted in zip(
            found if isinstance(found, tuple) else (found,), alone(module, frames[row], length), strict=True
        ):
            of_row = answer[row]
            if of_row.dim() == 2:  # frames: those of padding are 0
                assert not of_row[len(wanted) :].any()
                of_row = of_row[: len(wanted)]
            close(of_row, wanted)


@pytest.mark.parametrize("block", ["shift", "speech", "events", "time_frequency", "actions", "quality"])
def test_a_sequence_of_nothing_but_padding_has_finite_answers(block):
    make, values = ANY_LENGTH[block]
    frames, mask = padded([3, 3], *values)
    mask[1] = 0
    found = randomised(make())(frames, mask)
    for answer in found if isinstance(found, tuple) else (found,):
        assert answer.isfinite().all()


@given(lengths=LENGTHS)
@settings(max_examples=20, deadline=None)
def test_both_ways_are_those_of_torchs_gru(lengths):
    ours = randomised(TwoWayGru(4, 3))
    theirs = nn.GRU(4, 3, batch_first=True, bidirectional=True)
    state = ours.ahead.state_dict() | {f"{name}_reverse": value for name, value in ours.back.state_dict().items()}
    theirs.load_state_dict(state)
    frames, mask = padded(lengths, 4)
    found = ours(frames, mask)
    for row, length in enumerate(lengths):
        close(found[row, :length], theirs(frames[row, None, :length])[0][0])


@pytest.mark.parametrize("length", [1, 6, 7])
def test_speech_is_convolutions_and_torchs_gru(length):
    ours = randomised(SpeechEncoder(5, 6, 3, 1))
    spectrogram = torch.randn(2, length, 5)
    found = spectrogram.transpose(1, 2)
    for convolution, norm, _ in ours.convolutions:
        found = functional.conv1d(found, convolution.weight, convolution.bias, stride=2, padding=1)
        deviation = (norm.running_var + norm.eps).sqrt()[:, None]
        scaled = (found - norm.running_mean[:, None]) / deviation * norm.weight[:, None]
        found = (scaled + norm.bias[:, None]).clamp(min=0)
    frames = found.transpose(1, 2)
    gru = ours.recurrent[0]
    wanted = torch.cat([gru.ahead(frames)[0], gru.back(frames.flip(1))[0].flip(1)], dim=2)
    answers, embedding = ours(spectrogram, torch.ones(2, length, dtype=torch.long))
    assert answers.shape[1] == -(-length // 4)
    close(answers, wanted)
    close(embedding, wanted.mean(dim=1))


def test_events_are_convolutions_torchs_gru_and_linear_softmax():
    ours = randomised(EventDetector(2, 16, (3, 4), 3))
    spectrogram = torch.randn(2, 5, 16)
    found = spectrogram[:, None]
    for convolution, norm, _, _ in ours.convolutions:
        found = functional.conv2d(found, convolution.weight, convolution.bias, padding=1)
        found = functional.batch_norm(found, norm.running_mean, norm.running_var, norm.weight, norm.bias).clamp(min=0)
        found = found.unflatten(3, (-1, 4)).amax(dim=4)
    frames = found.permute(0, 2, 1, 3).flatten(2)
    both = [ours.recurrent.ahead(frames)[0], ours.recurrent.back(frames.flip(1))[0].flip(1)]
    wanted = ours.head(torch.cat(both, dim=2)).sigmoid()
    scores, whole = ours(spectrogram, torch.ones(2, 5, dtype=torch.long))
    close(scores, wanted)
    for row in range(2):
        for kind in range(2):
            one = wanted[row, :, kind]
            close(whole[row, kind], sum(score * score for score in one) / sum(one))


def test_time_frequency_attention_weighs_each_place_by_both():
    ours = randomised(TimeFrequencyAttention(3))
    frames = torch.randn(2, 6, 4)
    found = ours(frames, torch.ones(2, 6, dtype=torch.long))

    def weights(layers, energies):
        for layer, end in zip(layers, (torch.relu, torch.sigmoid), strict=True):
            around = functional.pad(energies, (1, 1))
            sums = [layer.weight[0, 0] @ around[place : place + 3] + layer.bias[0] for place in range(len(energies))]
            energies = end(torch.stack(sums))
        return energies

    for row in range(2):
        times, frequencies = weights(ours.time, frames[row].mean(1)), weights(ours.frequency, frames[row].mean(0))
        close(found[row], frames[row] * times[:, None] * frequencies)


@given(count=st.integers(1, 3), frames=st.integers(1, 5), channels=st.integers(2, 9), share=st.integers(2, 8))
@settings(max_examples=50, deadline=None)
def test_channels_are_shifted_as_a_loop_does(count, frames, channels, share):
    video = torch.randn(count, frames, channels, 2, 2)
    wanted = torch.zeros_like(video)
    moved = channels // share
    for time in range(frames):
        for channel in range(channels):
            source = time + 1 if channel < moved else time - 1 if channel < 2 * moved else time
            if 0 <= source < frames:
                wanted[:, time, channel] = video[:, source, channel]
    assert torch.equal(shifted(video, share), wanted)


def of_library(block: nn.Module) -> nn.Module:
    """Make the library's basic block of the weights of ours."""
    first, second = block.convolutions[0], block.convolutions[3]
    made = ResNetBasicLayer(first.in_channels, first.out_channels, first.stride[0], ResNetConfig().hidden_act)
    for theirs, convolution, norm in (
        (made.layer[0], first, block.convolutions[1]),
        (made.layer[1], second, block.convolutions[4]),
        *([(made.shortcut, *block.shortcut)] if isinstance(block.shortcut, nn.Sequential) else []),
    ):
        theirs.convolution.load_state_dict(convolution.state_dict())
        theirs.normalization.load_state_dict(norm.state_dict())
    return made.eval()


def test_images_go_through_the_librarys_residual_blocks():
    ours = randomised(ConvNet((4, 6), 3))
    for size in ((8, 8), (5, 7)):
        images = torch.randn(2, 3, *size)
        found = ours.stem(images)
        for block in ours.blocks:
            found = of_library(block)(found)
        close(ours(images), found.flatten(2).mean(2))


def test_a_video_goes_through_them_shifted_before_each_but_not_in_the_shortcut():
    ours = randomised(TemporalShift((8, 8), channels=2, share=4))
    video = torch.randn(2, 3, 2, 4, 4)
    found = ours.stem(video.flatten(0, 1))
    for shifts in ours.blocks:
        their = of_library(shifts.block)
        moved = shifted(found.unflatten(0, (2, 3)), 4).flatten(0, 1)
        found = (their.layer(moved) + their.shortcut(found)).clamp(min=0)
    close(ours(video, torch.ones(2, 3, dtype=torch.long)), found.mean((2, 3)).unflatten(0, (2, 3)).mean(1))


def test_two_streams_are_averaged_as_probabilities():
    ours = randomised(TwoStream(3, 2, (4,)))
    frame, flow = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 6, 6)
    one, other = (
        torch.softmax(head(network(images)), dim=1)
        for (network, head), images in ((ours.space, frame), (ours.time, flow))
    )
    close(ours(frame, flow), torch.stack([one, other]).mean(0))
    close(ours(frame, flow).sum(1), torch.ones(2))


def test_actions_attend_within_their_window_as_torchs_attention_does_frame_by_frame():
    ours = randomised(ActionLocalizer(3, 5, width=8, depth=1, heads=2, window=3))
    features, mask = torch.randn(2, 6, 5), torch.ones(2, 6, dtype=torch.long)
    found = features
    for convolution in ours.embedding:
        found = convolution(found, mask)
    layer = ours.layers[0]
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias = layer.attention.qkv.weight, layer.attention.qkv.bias
    theirs.out_proj = layer.attention.output
    normalised = layer.before_attention(found)
    rows = []
    for place in range(6):
        near = normalised[:, max(place - 1, 0) : place + 2]
        rows.append(theirs(normalised[:, place, None], near, near, need_weights=False)[0])
    found = found + torch.cat(rows, dim=1)
    found = found + layer.mlp(layer.before_mlp(found))
    scores, bounds = ours(features, mask)
    close(scores, ours.classes[1](ours.classes[0](found, mask)).sigmoid())
    close(bounds, ours.bounds[1](ours.bounds[0](found, mask)).clamp(min=0))


def test_quality_is_the_mean_of_the_levels_and_a_rank():
    ours = randomised(ActionQuality(5, hidden=6, lowest=2, highest=8, levels=4))
    features = torch.randn(2, 3, 5)
    scores, ranks = ours(features, torch.ones(2, 3, dtype=torch.long))
    for row in range(2):
        frames = [ours.inner(frame) for frame in features[row]]
        weights = torch.stack([ours.weight(frame)[0] for frame in frames]).exp()
        pooled = sum(frame * weight for frame, weight in zip(frames, weights / weights.sum(), strict=True))
        levels = ours.distribution(pooled).exp()
        close(scores[row, 0], (levels * torch.tensor([2.0, 4, 6, 8])).sum() / levels.sum())
        close(ranks[row], ours.rank(pooled))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ConvNet(()), "widths is empty"),
        (lambda: ConvNet((4,))(torch.zeros(1, 1, 8, 8)), r"images of shape \[1, 1, 8, 8\]: .* FP32 \[N, 3, H, W\]"),
        (lambda: TemporalShift((4,), share=8), r"widths \[4\] and share 8"),
        (lambda: TwoStream(2, 5, (4,))(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)), "flow of shape"),
        (lambda: EventDetector(2, 8, (4, 4)), "8 bands and 2 convolutions"),
        (lambda: SpeechEncoder(5)(*padded([3], 4)), r"spectrogram of shape \[1, 5, 4\]: .* FP32 \[N, T, 5\]"),
        (lambda: TimeFrequencyAttention(4), "kernel 4: an odd number"),
        (lambda: ActionLocalizer(2, 5, window=4), "window 4: an odd number"),
        (lambda: ActionQuality(5, levels=1), "1 levels from 0.0 to 100.0"),
        (lambda: ActionQuality(5)(torch.zeros(1, 2, 5), torch.ones(1, 2)), r"mask of float32: .* INT64 \[N, T\]"),
    ],
)
def test_what_does_not_fit_a_block_is_one_clear_error(call, said):
    with pytest.raises(ValueError, match=said):
        call()
