"""Tiny CLIP and SigLIP models with random weights, and tokenizers that know single letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from tests.helpers.hugging_face import make_random

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VISION = TOWER | {"image_size": 64, "patch_size": 8}


def make_clip_tokenizer(folder: Path) -> Any:
    """Return a byte-pair tokenizer with a few merges; its vocabulary is written to ``folder``."""
    import transformers
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    assert transformers.CLIPTokenizer is CLIPTokenizer
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def make_clip(seed: int = 0) -> nn.Module:
    """Return a CLIP model for the tokenizer of ``make_clip_tokenizer``."""
    import transformers

    size = 2 * len(LETTERS) + 4 + 2
    text = TOWER | {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    return make_random(transformers.CLIPModel, config, seed)


def make_siglip_tokenizer() -> Any:
    """Return a tokenizer of single letters that ends texts with ``</s>``."""
    import tokenizers
    import transformers

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *((letter, -4.0) for letter in LETTERS)]
    inner = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2, byte_fallback=False))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def make_siglip(seed: int = 0) -> nn.Module:
    """Return a SigLIP model for the tokenizer of ``make_siglip_tokenizer``."""
    import torch
    import transformers

    text = TOWER | {"vocab_size": 4 + len(LETTERS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    model = make_random(transformers.SiglipModel, config, seed)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-0.75)
    return model
