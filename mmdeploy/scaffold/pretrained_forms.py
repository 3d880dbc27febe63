"""The form of a checkpoint's model, told from its class and from what it answers, not from its name.

Two forms are known. A **pair** has ``get_text_features`` beside ``get_image_features`` or ``get_audio_features``, and
answers embeddings of both (CLIP, SigLIP, CLAP, AltCLIP, …): each tower becomes a component. An **encoder** reads one
text, picture or sound, and answers logits, an embedding, or its last hidden states (BERT, ViT, Wav2Vec2, …): one
component.
"""

from __future__ import annotations

from mmdeploy.scaffold.pretrained_checkpoint import Checkpoint
from mmdeploy.scaffold.pretrained_encoders import encoder_form
from mmdeploy.scaffold.pretrained_pairs import pair_form
from mmdeploy.scaffold.pretrained_parts import Form, generates


def tell_form(checkpoint: Checkpoint) -> Form:
    """Look at a model and try it.

    Raises:
        UsageError: If it has another form.
    """
    model = checkpoint.model
    others = [kind for kind in ("image", "audio") if hasattr(model, f"get_{kind}_features")]
    if hasattr(model, "get_text_features") and len(others) == 1 and not generates(model):
        return pair_form(checkpoint, others[0])
    return encoder_form(checkpoint)
