"""Checkpoint folders as ``save_pretrained`` leaves them: small, of random weights, with a processor beside them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WORDS = "a photo of the small green cat and two old dogs near red water under trees so it goes on".split()  # noqa: SIM905
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = SMALL | {"image_size": 32, "patch_size": 8}
VOCABULARY = 128


def save_tokenizer(folder: Path, begin: str | None = "[CLS]", end: str = "[SEP]", **options: Any) -> None:
    """Save a fast tokenizer that knows some words, and letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", *([begin] if begin else []), end]
    known = [*special, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *",!:%'"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    single = f"{begin} $A {end}" if begin else f"$A {end}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, vocabulary[token]) for token in special[2:]]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token=end, **options
    ).save_pretrained(folder)


def draw(model: Any) -> Any:
    """Give a model weights by which its answers differ from sample to sample."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.12)
            elif parameter.ndim == 1 and "norm" not in name.lower():
                parameter.normal_(0, 0.05)
    return model.eval()


def clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    text = SMALL | {"vocab_size": VOCABULARY, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    draw(CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))).save_pretrained(folder)
    save_tokenizer(folder, model_max_length=16)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    text = SMALL | {"vocab_size": VOCABULARY, "max_position_embeddings": 16, "projection_size": 32, "eos_token_id": 2}
    draw(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))).save_pretrained(folder)
    save_tokenizer(folder, begin=None, model_max_length=16, model_input_names=["input_ids"])
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def clap(folder: Path) -> None:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    text = SMALL | {"vocab_size": VOCABULARY, "max_position_embeddings": 34, "pad_token_id": 0}
    audio = {
        "patch_embeds_hidden_size": 16, "spec_size": 64, "num_mel_bins": 16, "hidden_size": 32, "depths": [1, 1],
        "num_attention_heads": [2, 2], "window_size": 4, "patch_size": 4, "patch_stride": [4, 4],
        "num_hidden_layers": 2,
    }  # fmt: skip
    draw(ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16))).save_pretrained(folder)
    save_tokenizer(folder, model_max_length=32)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=16000, hop_length=160, max_length_s=1, fft_window_size=512,
        truncation="rand_trunc", frequency_max=8000,
    ).save_pretrained(folder)  # fmt: skip


def bert(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    draw(BertModel(BertConfig(**SMALL, vocab_size=VOCABULARY, max_position_embeddings=48))).save_pretrained(folder)
    save_tokenizer(folder, model_max_length=48)


def bert_of_words(folder: Path) -> None:
    """One that guesses words, whose head nobody serves, in shards."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(**SMALL, vocab_size=VOCABULARY, max_position_embeddings=48)
    draw(BertForMaskedLM(config)).save_pretrained(folder, max_shard_size="40KB")
    save_tokenizer(folder, model_max_length=48)


def roberta(folder: Path) -> None:
    """One with positions counted from behind the padding's id, and a head for classes."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(**SMALL, vocab_size=VOCABULARY, max_position_embeddings=40, pad_token_id=0, num_labels=3)
    draw(RobertaForSequenceClassification(config)).save_pretrained(folder)
    save_tokenizer(folder)


def vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    draw(ViTForImageClassification(ViTConfig(**VISION, num_labels=5))).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def wav2vec2(folder: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        **SMALL, conv_dim=(32,) * 7, vocab_size=32, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
    )
    draw(Wav2Vec2ForCTC(config)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


FAMILIES: Mapping[str, Callable[[Path], None]] = {
    made.__name__: made for made in (clip, siglip, clap, bert, bert_of_words, roberta, vit, wav2vec2)
}
