import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from memreplay import jagged
from memreplay.nlp import Pooling, TextEncoder
from memreplay.nlp.embeddings import EmbeddingCache
from memreplay.nlp.encoder import token_rows

TEXTS = ["where is my card", "lost it", "show the balance please how do i send money to a friend", "card"]


@pytest.fixture
def encoder(tiny_encoder: str) -> TextEncoder:
    return TextEncoder.load(tiny_encoder, device="cpu")


def one_by_one(encoder: TextEncoder, token: str, layers: tuple[int, ...] | None = None) -> torch.Tensor:
    """Every text alone, without padding or masks, pooled by hand."""
    rows = []
    for text in TEXTS:
        ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            outputs = encoder.body(input_ids=ids, output_hidden_states=True)
        states = outputs.hidden_states
        hidden = states[-1][0] if layers is None else torch.stack([states[layer][0] for layer in layers]).mean(0)
        rows.append({"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[token])
    return F.normalize(torch.stack(rows), dim=1)


@pytest.mark.parametrize("token", ["mean", "cls", "last"])
@pytest.mark.parametrize("layers", [None, (2, 3, 4), (-1,)])
def test_batches_and_padding_change_nothing(token: str, layers: tuple[int, ...] | None, tiny_encoder: str) -> None:
    encoder = TextEncoder.load(tiny_encoder, pooling=token, layers=layers, device="cpu")
    for room in (8, 20, 4096):
        encoder.batch_tokens = room
        assert torch.allclose(encoder.embed(TEXTS), one_by_one(encoder, token, layers), atol=1e-5)


def test_training_sees_the_same_vectors(encoder: TextEncoder) -> None:
    vectors = encoder(token_rows(encoder, TEXTS))
    assert vectors.requires_grad
    assert torch.allclose(vectors, encoder.embed(TEXTS), atol=1e-5)
    assert encoder(jagged([[2, 4, 3]])).shape == (1, 16)


def test_a_long_text_is_cut_and_said(encoder: TextEncoder) -> None:
    words = "card " * 10_000
    with pytest.warns(UserWarning, match="1 of 2 texts have 32 tokens or more and were cut"):
        vectors = encoder.embed([words, "card"])
    assert torch.isfinite(vectors).all()
    assert len(encoder.tokens([words])[0]) == 32


def test_emoji_and_right_to_left_text(encoder: TextEncoder) -> None:
    vectors = encoder.embed(["😀", "שלום עולם", "مرحبا", "card"])
    assert torch.isfinite(vectors).all()
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)


def test_no_texts_and_empty_texts(encoder: TextEncoder) -> None:
    assert encoder.embed([]).shape == (0, 16)
    with pytest.raises(ValueError, match="texts has an empty text in row 2"):
        encoder.embed(["card", " \n"])


def test_what_the_models_files_say_is_followed(tiny_encoder: str, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_encoder, folder)
    modules = [{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    config = folder / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    encoder = TextEncoder.load(folder, device="cpu")
    assert encoder.pooling == Pooling("cls", normalize=False)
    assert encoder.max_length == 12
    overridden = TextEncoder.load(folder, pooling="last", max_length=9, device="cpu")
    assert (overridden.pooling, overridden.max_length) == (Pooling("last", normalize=False), 9)
    config.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match=r"asks for the pooling \['max_tokens'\]; choose one"):
        TextEncoder.load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1000}, "max_length is 1000; expected 3 to 32"),
        ({"layers": [9]}, r"layers is \[9\]; expected numbers of layers from 0 to 4"),
        ({"pooling": "max"}, "token is 'max'"),
        ({"precision": "float8"}, "precision is 'float8'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str, tiny_encoder: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoder.load(tiny_encoder, device="cpu", **options)


def test_no_such_encoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder is '.*', which cannot be loaded"):
        TextEncoder.load(tmp_path / "nothing")


def test_the_fingerprint_tells_encoders_apart(encoder: TextEncoder, tiny_encoder: str) -> None:
    same = TextEncoder.load(tiny_encoder, device="cpu")
    same.embed(["card"])
    assert same.fingerprint() == encoder.fingerprint()
    others = [TextEncoder.load(tiny_encoder, device="cpu", **o) for o in ({"pooling": "cls"}, {"max_length": 9})]
    changed = encoder.clone()
    with torch.no_grad():
        next(changed.body.parameters())[0, 0] += 1e-3
    changed.weights_changed(["embeddings.word_embeddings.weight"])
    prints = [e.fingerprint() for e in (encoder, *others, changed)]
    assert len(set(prints)) == 4
    assert list(changed.tuned_weights()) == ["embeddings.word_embeddings.weight"]
    restored = encoder.clone()
    restored.set_tuned_weights(changed.tuned_weights())
    assert restored.fingerprint() == changed.fingerprint()


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.05), ("int8", 0.1)])
def test_other_precisions_are_close(precision: str, error: float, encoder: TextEncoder, tiny_encoder: str) -> None:
    small = TextEncoder.load(tiny_encoder, precision=precision, device="cpu")
    vectors = small.embed(TEXTS)
    assert vectors.dtype == torch.float32
    assert 0 < float((vectors - encoder.embed(TEXTS)).abs().max()) < error
    assert small.fingerprint() == encoder.fingerprint()


# -- the cache


def test_a_text_is_embedded_once(encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoder.embed(TEXTS)
    asked: list[str] = []
    real = encoder._embed
    monkeypatch.setattr(encoder, "_embed", lambda texts: asked.extend(texts) or real(texts))
    assert torch.equal(encoder.embed([*TEXTS[:2], TEXTS[0]], tmp_path)[0], encoder.embed(TEXTS[:1], tmp_path)[0])
    assert torch.allclose(encoder.embed(TEXTS, tmp_path), expected, atol=1e-6)
    assert asked == TEXTS
    twin = encoder.clone()
    twin.pooling = replace(encoder.pooling, token="cls")
    assert not torch.allclose(twin.embed(TEXTS, tmp_path), expected, atol=1e-3)


def test_the_cache_holds_no_text_and_survives_damage(tmp_path: Path) -> None:
    def embed(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text))] for text in texts])

    EmbeddingCache(tmp_path, "e")(["secret", "hi"], embed)
    (file,) = tmp_path.rglob("*.safetensors")
    assert b"secret" not in file.read_bytes()
    assert EmbeddingCache(tmp_path, "e")(["hi"], lambda texts: pytest.fail("known")).tolist() == [[2.0]]
    file.write_bytes(file.read_bytes()[:20])
    assert EmbeddingCache(tmp_path, "e")(["hi", "you"], embed).tolist() == [[2.0], [3.0]]
