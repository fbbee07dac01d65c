import json
from pathlib import Path

import pytest
import torch

from memreplay.nlp.recipes import few_shot_intent
from memreplay.nlp.recipes.few_shot_intent import TABLE, reproduce, run

SHOTS = {
    "lost_card": ["where is my card", "my card please", "i lost my card", "how do i send it", "it is stolen"],
    "show-balance": ["show my balance", "the money left", "how is my balance", "show the money", "balance please"],
}
ASKED = {"lost_card": ["lost card please", "where is it"], "show-balance": ["show me the balance", "the balance left"]}


@pytest.fixture
def data(tmp_path: Path, bundled: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two intents, in the files of both data sets; no cache is left behind."""
    monkeypatch.setattr(few_shot_intent, "default_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(few_shot_intent, "TUNING", few_shot_intent.Tuning(layers=2, epochs=1))
    for name in ("banking77", "clinc150"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for file, rows in (("train_5", SHOTS), ("train_10", SHOTS), ("test", ASKED)):
            lines = [f"{text},{label}" for label, texts in rows.items() for text in texts]
            (folder / f"fsid_{file}.csv").write_text("\n".join(["text,label", *lines]), "utf-8")
    return tmp_path / "data"


def test_the_published_figures_are_those_of_the_tables() -> None:
    published = {(s.data, s.shots, s.method): s.published for s in TABLE}
    cells = [("banking77", 5), ("banking77", 10), ("clinc150", 5), ("clinc150", 10)]
    assert [published[*cell, "logistic"] for cell in cells] == [74.04, 84.27, 87.99, 91.55]
    assert [published[*cell, "frozen"] for cell in cells] == [80.86, 87.20, 92.34, 94.18]
    assert [published[*cell, "tuned"] for cell in cells] == [84.41, 89.67, 93.20, 94.75]


@pytest.mark.parametrize("method", ["logistic", "frozen", "tuned"])
def test_every_method_runs(method: str, data: Path) -> None:
    setting = next(s for s in TABLE if s.name == f"clinc150-5-{method}")
    outcome = run(setting, 0, data)
    assert outcome["accuracy"] in (0, 25, 50, 75, 100)
    assert outcome["memory_bytes"] >= 10 * 16 * 4  # ten texts, sixteen numbers each
    assert outcome["seconds"] > 0


def test_a_seed_repeats(data: Path) -> None:
    setting = next(s for s in TABLE if s.method == "tuned")
    shots = few_shot_intent.TextSet.of(*few_shot_intent.read_labelled(data / "banking77" / "fsid_train_5.csv"))
    encoder = few_shot_intent.TextEncoder.load(few_shot_intent.bundled_encoder(), device="cpu")
    heads = [few_shot_intent.learn(setting.method, shots, encoder, seed).head for seed in (1, 1, 2)]
    first, again, other = (head.weight for head in heads if head is not None)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_table_is_written_and_finished_runs_are_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    threads = torch.get_num_threads()
    first = reproduce(seeds=2, data=data, out=out, only=["banking77-5-tuned", "logistic"])
    assert [row.name for row in first.rows if row.metric == "accuracy"] == [
        "banking77-5-logistic",
        "banking77-5-tuned",
        "banking77-10-logistic",
        "clinc150-5-logistic",
        "clinc150-10-logistic",
    ]
    assert {row.metric for row in first.rows} == {"accuracy", "seconds"}
    assert torch.get_num_threads() == threads
    written = json.loads((out / "results.json").read_text())
    assert written["config"]["tuning"]["epochs"] == 1
    monkeypatch.setattr(few_shot_intent, "run", lambda *_: pytest.fail("ran again"))
    again = reproduce(seeds=2, data=data, out=out, only=["banking77-5-tuned"])
    assert [row.ours for row in again.rows] == [row.ours for row in first.rows if row.name == "banking77-5-tuned"]


def test_an_unknown_cell_is_named() -> None:
    with pytest.raises(ValueError, match=r"only is 'banking'; expected one of banking77-5-logistic, banking77"):
        reproduce(out=Path("nowhere"), only=["banking"])
