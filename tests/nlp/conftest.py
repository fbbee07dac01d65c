"""A transformer small enough for every test to run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SENTENCE = "where is my card please lost it stolen the balance show money left transfer send to a friend how do i"
WORDS = tuple(SENTENCE.split())


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a BERT with four layers of sixteen numbers, random weights, that knows `WORDS`."""
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def bundled(tiny_encoder: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, in the place of the bundled encoder."""
    monkeypatch.setenv("MEMREPLAY_ENCODER", tiny_encoder)
    return tiny_encoder


def make_encoder(folder: Path) -> str:
    """Writes it."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    template: Callable[..., object] = tokenizers.processors.TemplateProcessing
    tokenizer.post_processor = template(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
        transformers.BertModel(config).save_pretrained(folder)
    return str(folder)
