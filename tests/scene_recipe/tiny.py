"""The towers of scene_search, with a BERT of one small layer and random weights in MiniLM's place."""

import torch
from model import SceneSearch
from transformers import BertConfig, BertModel


def build() -> SceneSearch:
    """Build both, the same each time."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return SceneSearch(BertModel(BertConfig(**small), add_pooling_layer=False)).eval()
