"""Settings that all tests share."""

import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# tiny tensors: threads would cost more than they give, and figures would depend on the number of cores
torch.set_num_threads(1)

settings.register_profile("memreplay", deadline=None, derandomize=True)
settings.load_profile("memreplay")

SENTENCE = "where is my card please lost it stolen the balance show money left transfer send to a friend how do i"
WORDS = tuple(SENTENCE.split())


@pytest.fixture
def section_of_readme() -> Callable[[str], list[str]]:
    """The indented blocks of a section of the README, by its heading."""

    def blocks(heading: str) -> list[str]:
        text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        found = re.findall(r"(?:^    .+\n)+", section, re.MULTILINE)
        return ["\n".join(line[4:] for line in block.splitlines()) for block in found]

    return blocks


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs ``memreplay ...`` and gives what it prints; ``echo TEXT |`` before it is its standard input."""
    from memreplay.cli import main

    def run(command: str) -> str:
        said, _, command = command.rpartition("|")
        if said:
            text = " ".join(shlex.split(said)[1:]) + "\n"
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        capsys.readouterr()
        main(shlex.split(command)[1:])
        return capsys.readouterr().out

    return run


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
