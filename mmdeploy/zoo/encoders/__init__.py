"""Encoders: images, text, sounds, video, and heads on the features of frames.

Masks are INT64, 1 where a value is real; what they call padding changes no answer.
"""

from mmdeploy.zoo.block import Block
from mmdeploy.zoo.encoders import entries
from mmdeploy.zoo.encoders.actions import ActionLocalizer, ActionQuality
from mmdeploy.zoo.encoders.conv_net import ConvNet
from mmdeploy.zoo.encoders.recurrent import EventDetector, SpeechEncoder, TwoWayGru
from mmdeploy.zoo.encoders.space_time import LongVideo, SpaceTimeTransformer
from mmdeploy.zoo.encoders.spectrogram_transformer import AudioTower, SpectrogramTransformer
from mmdeploy.zoo.encoders.temporal_shift import TemporalShift, TwoStream
from mmdeploy.zoo.encoders.text_transformer import TextTransformer
from mmdeploy.zoo.encoders.time_frequency import TimeFrequencyAttention, TimeFrequencyEncoder
from mmdeploy.zoo.encoders.transformer import SelfAttention, Transformer, TransformerLayer
from mmdeploy.zoo.encoders.vision_transformer import VisionTransformer

BLOCKS: dict[str, Block] = {
    "vision_transformer": entries.VISION_TRANSFORMER,
    "conv_net": entries.CONV_NET,
    "text_transformer": entries.TEXT_TRANSFORMER,
    "spectrogram_transformer": entries.SPECTROGRAM_TRANSFORMER,
    "time_frequency": entries.TIME_FREQUENCY,
    "space_time": entries.SPACE_TIME,
    "temporal_shift": entries.TEMPORAL_SHIFT,
    "two_stream": entries.TWO_STREAM,
    "long_video": entries.LONG_VIDEO,
    "speech_encoder": entries.SPEECH_ENCODER,
    "event_detector": entries.EVENT_DETECTOR,
    "audio_tower": entries.AUDIO_TOWER,
    "action_localizer": entries.ACTION_LOCALIZER,
    "action_quality": entries.ACTION_QUALITY,
}

__all__ = [
    "BLOCKS",
    "ActionLocalizer",
    "ActionQuality",
    "AudioTower",
    "ConvNet",
    "EventDetector",
    "LongVideo",
    "SelfAttention",
    "SpaceTimeTransformer",
    "SpectrogramTransformer",
    "SpeechEncoder",
    "TemporalShift",
    "TextTransformer",
    "TimeFrequencyAttention",
    "TimeFrequencyEncoder",
    "Transformer",
    "TransformerLayer",
    "TwoStream",
    "TwoWayGru",
    "VisionTransformer",
]
