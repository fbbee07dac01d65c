import json
from pathlib import Path

import pytest
import torch

from memreplay import CalibratedPrototypes
from memreplay.nlp import LogisticRegression, MemoryReadout, Recipe, TextAdapter, TextEncoder, TextSet
from memreplay.nlp.tuning import Tuning

SHOTS = {
    "lost_card": ["where is my card", "my card please", "i lost my card", "it is stolen"],
    "show_balance": ["show my balance", "the money left", "how is my balance", "balance please"],
    "send-money": ["send money to a friend", "transfer the money", "how do i transfer", "a transfer please"],
}


@pytest.fixture(scope="module")
def encoder(tiny_encoder: str) -> TextEncoder:
    return TextEncoder.load(tiny_encoder, device="cpu")


SHARP = LogisticRegression(1000.0)
"""The vectors of random weights lie close together, where the default would underfit."""


def data(*names: str) -> TextSet:
    pairs = [(text, name) for name in names for text in SHOTS[name]]
    return TextSet.of([text for text, _ in pairs], [name for _, name in pairs])


def taught(encoder: TextEncoder, *names: str, **recipe: object) -> TextAdapter:
    adapter = TextAdapter(encoder, Recipe(**{"head": SHARP, **recipe}))
    adapter.learn(data(*names))
    return adapter


def same(first: TextAdapter, second: TextAdapter) -> bool:
    texts = [text for texts in SHOTS.values() for text in texts]
    return [(p.label, round(p.probability, 2)) for p in first.predict(texts)] == [
        (p.label, round(p.probability, 2)) for p in second.predict(texts)
    ]


def test_it_knows_what_it_was_taught_and_says_why(encoder: TextEncoder) -> None:
    adapter = taught(encoder, *SHOTS)
    for name, texts in SHOTS.items():
        for prediction in adapter.predict(texts):
            assert prediction.label == name
            assert prediction.memories[0].text == prediction.text
            assert prediction.memories[0].similarity == pytest.approx(1, abs=1e-3)
            assert prediction.memories[0].label == name
            assert len(prediction.memories) == 3
    assert adapter.predict([]) == []
    assert adapter.predict(["card"], memories=0)[0].memories == ()


def test_the_memories_are_the_nearest_texts(encoder: TextEncoder) -> None:
    adapter = taught(encoder, *SHOTS)
    texts = [text for part in SHOTS.values() for text in part]
    cosine = encoder.embed(["lost balance"]) @ encoder.embed(texts).T
    values, order = cosine[0].topk(3)
    found = adapter.predict(["lost balance"])[0].memories
    assert [memory.text for memory in found] == [texts[i] for i in order.tolist()]
    assert [memory.similarity for memory in found] == pytest.approx(values.tolist(), abs=1e-3)


def test_three_lines_are_enough(encoder: TextEncoder, tmp_path: Path) -> None:
    taught(encoder, "lost_card", "show_balance").save(tmp_path)
    adapter = TextAdapter.load(tmp_path)
    adapter.add_classes(SHOTS["send-money"], ["send-money"] * 4)
    assert [p.label for p in adapter.predict(SHOTS["send-money"])] == ["send-money"] * 4
    assert [p.label for p in adapter.predict(SHOTS["lost_card"])] == ["lost_card"] * 4


def test_adding_classes_with_a_whole_memory_is_learning_them_together(encoder: TextEncoder, tmp_path: Path) -> None:
    taught(encoder, "lost_card", "show_balance").save(tmp_path)
    adapter = TextAdapter.load(tmp_path, encoder)
    adapter.learn(data("send-money"))
    together = TextAdapter(encoder, Recipe(head=SHARP))
    together.learn(data("lost_card", "show_balance"))
    together.learn(data("send-money"))
    joint = taught(encoder, *SHOTS)
    assert same(adapter, together)
    assert same(adapter, joint)


def test_more_examples_of_a_known_class(encoder: TextEncoder) -> None:
    adapter = taught(encoder, *SHOTS)
    adapter.add_classes(["friend friend friend"], ["lost_card"])
    assert len(adapter.classes) == 3
    assert adapter.predict(["friend friend friend"])[0].label == "lost_card"


def test_a_small_memory_holds_on_to_the_head(encoder: TextEncoder) -> None:
    adapter = taught(encoder, "lost_card", "show_balance", per_class=1)
    assert len(adapter.memory) == 2
    assert not adapter.complete
    adapter.learn(data("send-money"))
    assert len(adapter.memory) == 3
    right = [p.label == name for name, texts in SHOTS.items() for p in adapter.predict(texts)]
    assert sum(right) >= 8


@pytest.mark.parametrize("by", ["nearest", "mean"])
def test_the_memory_can_decide_alone(by: str, encoder: TextEncoder) -> None:
    adapter = taught(encoder, "lost_card", "show_balance", readout=MemoryReadout(by, share=1.0, k=3))
    adapter.learn(data("send-money"))
    assert adapter.head is None
    assert adapter.base == [0, 1]
    assert [p.label for p in adapter.predict(["i lost my card", "transfer the money"])] == ["lost_card", "send-money"]


def test_prototypes_of_later_classes_are_calibrated_by_the_first(encoder: TextEncoder) -> None:
    adapter = taught(encoder, "lost_card", "show_balance", readout=MemoryReadout("calibrated", share=1.0))
    adapter.learn(data("send-money"))
    feature = encoder.embed(["i lost my card", "transfer the money", "balance"])
    rows = adapter.memory.rows().columns
    assert adapter.base == [0, 1]
    expected = CalibratedPrototypes([0, 1], temperature=0.05)(rows, feature).probabilities
    assert torch.allclose(adapter.probabilities(feature), expected)


def test_head_and_memory_are_interpolated(encoder: TextEncoder) -> None:
    feature = encoder.embed(["lost balance", "card"])
    head, memory, half = (
        taught(encoder, *SHOTS, readout=MemoryReadout("mean", share)).probabilities(feature) for share in (0, 1, 0.5)
    )
    assert torch.allclose(half, (head + memory) / 2, atol=1e-5)
    assert torch.allclose(half.sum(1), torch.ones(2), atol=1e-5)


# -- forgetting


def test_forgetting_leaves_no_trace_in_the_files(encoder: TextEncoder, tmp_path: Path) -> None:
    adapter = taught(encoder, *SHOTS)
    adapter.save(tmp_path)
    secret = encoder.embed(SHOTS["show_balance"][:1])[0].numpy().tobytes()
    before = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"show_balance" in before
    assert b"the money left" in before
    assert secret[:32] in before
    assert adapter.forget("show_balance") == 4
    adapter.save(tmp_path)
    after = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"show_balance" not in after
    for text in SHOTS["show_balance"]:
        assert text.encode() not in after
    for row in encoder.embed([*SHOTS["show_balance"], "show balance"]):
        assert row.numpy().tobytes()[:32] not in after
    assert "show_balance" not in TextAdapter.load(tmp_path, encoder).classes


def test_forgetting_is_as_if_it_had_never_been(encoder: TextEncoder) -> None:
    adapter = taught(encoder, *SHOTS)
    adapter.forget("show_balance")
    assert same(adapter, taught(encoder, "lost_card", "send-money"))
    assert {p.label for p in adapter.predict(SHOTS["show_balance"])} <= {"lost_card", "send-money"}


def test_a_number_is_never_given_again(encoder: TextEncoder) -> None:
    adapter = taught(encoder, *SHOTS)
    number = {name: number for number, name in adapter.names.items()}
    adapter.forget("show_balance")
    adapter.add_classes(SHOTS["show_balance"], ["show_balance"] * 4)
    assert list(adapter.names) == sorted(adapter.names)
    assert {name: n for n, name in adapter.names.items()}["show_balance"] not in number.values()
    assert same_labels(adapter)


def same_labels(adapter: TextAdapter) -> bool:
    return all(p.label == name for name, texts in SHOTS.items() for p in adapter.predict(texts))


def test_what_cannot_be_forgotten(encoder: TextEncoder) -> None:
    adapter = taught(encoder, "lost_card")
    with pytest.raises(KeyError, match="label is 'fee'; expected one of the classes"):
        adapter.forget("fee")
    with pytest.raises(ValueError, match="the only class"):
        adapter.forget("lost_card")


# -- out of scope


def test_what_resembles_nothing_is_out_of_scope(encoder: TextEncoder) -> None:
    adapter = taught(encoder, *SHOTS)
    adapter.threshold = 0.999
    known, unknown = adapter.predict(["where is my card", "zebra"])
    assert known.label == "lost_card"
    assert unknown.label is None
    assert unknown.memories


# -- saving


def test_a_fine_tuned_encoder_is_saved_with_its_head(encoder: TextEncoder, tmp_path: Path) -> None:
    shots = data("lost_card", "show_balance")
    tuned, head = Tuning(layers=1, epochs=2, batch_size=4).tune(encoder, shots.texts, shots.labels)
    adapter = TextAdapter(tuned)
    adapter.learn(shots, tuned=head)
    adapter.save(tmp_path)
    loaded = TextAdapter.load(tmp_path)
    assert loaded.encoder.fingerprint() == tuned.fingerprint() != encoder.fingerprint()
    feature = tuned.embed(shots.texts)
    assert torch.allclose(loaded.probabilities(feature), adapter.probabilities(feature), atol=1e-6)
    loaded.add_classes(SHOTS["send-money"], ["send-money"] * 4)
    assert loaded.tuned is not None
    assert loaded.tuned.classes == 3
    loaded.forget("lost_card")
    assert loaded.tuned.classes == 2
    loaded.save(tmp_path)
    assert TextAdapter.load(tmp_path).classes == ["show_balance", "send-money"]


def test_the_encoder_is_checked(encoder: TextEncoder, tiny_encoder: str, tmp_path: Path) -> None:
    taught(encoder, *SHOTS).save(tmp_path)
    other = TextEncoder.load(tiny_encoder, pooling="cls", device="cpu")
    with pytest.raises(ValueError, match=r"the encoder .* has the fingerprint .*; the adapter was made with"):
        TextAdapter.load(tmp_path, other)


def test_a_damaged_save_is_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    taught(encoder, *SHOTS).save(tmp_path)
    (file,) = tmp_path.glob("data-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="does not match its checksum"):
        TextAdapter.load(tmp_path, encoder)
    with pytest.raises(FileNotFoundError, match="holds no save"):
        TextAdapter.load(tmp_path / "nothing", encoder)


def test_the_manifest_can_be_read_by_people(encoder: TextEncoder, tmp_path: Path) -> None:
    taught(encoder, *SHOTS).save(tmp_path)
    meta = json.loads((tmp_path / "manifest.json").read_text())["meta"]
    assert list(meta["classes"].values()) == ["lost_card", "send-money", "show_balance"]
    assert meta["encoder"]["name"] == encoder.name


def test_a_rounded_encoder_is_saved_exactly(encoder: TextEncoder, tmp_path: Path) -> None:
    shots = data("lost_card", "show_balance")
    tuned, head = Tuning(layers=1, epochs=2, batch_size=4).tune(encoder, shots.texts, shots.labels)
    exact = tuned.clone()
    tuned.set_precision("bfloat16")
    adapter = TextAdapter(tuned)
    adapter.learn(shots, tuned=head)
    adapter.save(tmp_path)
    assert TextAdapter.load(tmp_path, tuned).encoder.precision == "bfloat16"
    loaded = TextAdapter.load(tmp_path, device="cpu")
    assert loaded.encoder.embed(["card"]).equal(exact.embed(["card"]))


def test_names_that_say_nothing_are_no_examples(encoder: TextEncoder) -> None:
    texts, labels = ["where is my card", "show my balance", "send money"], ["1", "2", "3"]
    with_names, without = (TextAdapter(encoder, Recipe(label_texts=told)) for told in (True, False))
    for adapter in (with_names, without):
        adapter.add_classes(texts, labels)
    assert with_names.predict(["my card"]) == without.predict(["my card"])
    named = TextAdapter(encoder)
    named.add_classes(texts, ["lost_card", "2", "3"])
    assert named.predict(["my card"]) != without.predict(["my card"])


# -- bad input


def test_a_refused_batch_changes_nothing(encoder: TextEncoder) -> None:
    adapter = taught(encoder, "lost_card", "show_balance")
    for texts, labels in ((["card", ""], ["a", "b"]), (["card"], ["a", "b"])):
        with pytest.raises(ValueError, match="texts has"):
            adapter.add_classes(texts, labels)
    with pytest.raises(ValueError, match="no texts"):
        adapter.add_classes([], [])
    assert adapter.classes == ["lost_card", "show_balance"]
    assert len(adapter.memory) == 8


def test_classes_of_one_example(encoder: TextEncoder) -> None:
    adapter = TextAdapter(encoder)
    adapter.learn(TextSet.of(["where is my card", "show my balance"], ["a", "b"]))
    assert [p.label for p in adapter.predict(["where is my card", "show my balance"])] == ["a", "b"]


def test_asking_before_learning(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="has learned nothing"):
        TextAdapter(encoder).predict(["card"])
