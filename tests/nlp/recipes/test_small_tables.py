"""The recipes on data made here: that they run, write their table, and name what is wrong with their arguments."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from memreplay.nlp.recipes import add_classes, clinc_domains, fewrel, huffpost, policies, throughput

WORDS = ["card", "lost", "stolen", "balance", "money", "left", "transfer", "send", "friend", "please"]


def sentence(label: int, number: int) -> str:
    """Texts of a label share two words."""
    return " ".join([WORDS[label % 10], "my", WORDS[(label // 10 + 3) % 10], "is", WORDS[number % 10]])


@pytest.fixture
def data(tmp_path: Path, bundled: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for name in ("clinc150", "huffpost", "banking77", "fewrel_cfrl/k5"):
        (root / name).mkdir(parents=True)
    return root


def rows(out: Path) -> dict[tuple[str, str], float]:
    saved = json.loads((out / "results.json").read_text())
    return {(row["name"], row["metric"]): row["ours"] for row in saved["rows"]}


def test_clinc_by_domain(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domains = {f"domain {d}": [f"intent {d} {i}" for i in range(15)] for d in range(3)}
    names = [name for domain in domains.values() for name in domain]
    full = {
        part: [[sentence(label, number), name] for label, name in enumerate(names) for number in range(count)]
        for part, count in (("train", 6), ("val", 2), ("test", 2))
    }
    (data / "clinc150" / "data_full.json").write_text(json.dumps(full))
    (data / "clinc150" / "domains.json").write_text(json.dumps(domains))
    monkeypatch.setattr(clinc_domains, "RATES", (0.01,))
    clinc_domains.reproduce(seeds=2, data=data, out=tmp_path / "out", only=["none", "er", "ours", "joint"])
    found = rows(tmp_path / "out")
    assert {name for name, _ in found} == {"none", "er", "ours", "joint"}
    assert found["joint", "last"] > found["none", "last"]


def test_huffpost_episodes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"text": sentence(label, n), "label": label}) for label in range(20) for n in range(12)]
    (data / "huffpost" / "huffpost.jsonl").write_text("\n".join(lines) + "\n")
    split = {"train": list(range(8)), "val": list(range(8, 13)), "test": list(range(13, 20))}
    (data / "huffpost" / "splits.json").write_text(json.dumps({"class_splits": {"bao2020": split}}))
    for name, value in (("EPISODES", 6), ("TUNING_EPISODES", 2), ("QUERY", 5)):
        monkeypatch.setattr(huffpost, name, value)
    huffpost.reproduce(data=data, out=tmp_path / "out")
    found = rows(tmp_path / "out")
    assert {name for name, _ in found} == {"ncm", "logistic", "calibration", "ours"}
    assert all(found["ncm", f"{shot}-shot"] > 25 for shot in (1, 5))  # chance is 20


def test_add_classes(data: Path, tmp_path: Path) -> None:
    for part, count in (("train_5", 5), ("train_10", 10), ("valid", 2), ("test", 3)):
        lines = [f"{sentence(label, n)},intent {label}" for label in range(12) for n in range(count)]
        (data / "banking77" / f"fsid_{part}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    add_classes.reproduce(
        seeds=2, data=data, out=tmp_path / "out", only=["adapter", "tuned adapter", "logistic", "steps"]
    )
    found = rows(tmp_path / "out")
    assert {"old before", "old after", "new after", "seconds"} <= {
        metric for name, metric in found if name == "adapter"
    }
    difference = found["adapter", "new after"] - found["logistic", "new after"]
    assert found["adapter minus logistic", "new after"] == pytest.approx(difference)
    few, many = (found[f"10-shot, recall off, {steps} steps", "new after"] for steps in (1, 100))
    assert many >= few
    forgotten, kept = (found[f"10-shot, recall {recall}, 100 steps", "old after"] for recall in ("off", "on"))
    assert kept > forgotten


def test_fewrel(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data / "fewrel_cfrl"
    (folder / "relation_name.txt").write_text("\n".join(f"{WORDS[i % 10]} money" for i in range(80)) + "\n")
    clusters = {str(task): [10 * task + i + 1 for i in range(10)] for task in range(8)}
    (folder / "tasks.json").write_text(json.dumps({"tasks": {"k5": {"clusters": clusters}}}))
    for part, count in (("train", 5), ("test", 1)):
        lines = [
            f"{label + 1}\t1 2\t{sentence(label, n)}\thead\t0\ttail\t2 3\tQ1\tQ2"
            for label in range(80)
            for n in range(count)
        ]
        (folder / "k5" / f"{part}_0.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(fewrel, "LAYERS", (3, 4))
    fewrel.reproduce(seeds=1, data=data, out=tmp_path / "out", only=["none", "adapter"])
    found = rows(tmp_path / "out")
    assert len(found) == 16
    assert found["adapter", "after task 8"] > found["none", "after task 8"]


def test_throughput(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, count in (("train_5", 5), ("test", 3)):
        lines = [f"{sentence(label, n)},intent {label}" for label in range(12) for n in range(count)]
        (data / "banking77" / f"fsid_{part}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    monkeypatch.setattr(throughput, "TEXTS", 12)
    throughput.reproduce(seeds=2, data=data, out=tmp_path / "out", only=["float32", "int8"])
    found = rows(tmp_path / "out")
    assert found["int8", "texts per second"] > 0
    assert found["float32", "least cosine to float32"] == pytest.approx(1)


@pytest.mark.parametrize("recipe", [add_classes, clinc_domains, fewrel, huffpost, throughput])
def test_mistakes_are_named(recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="only is 'x'; expected one of"):
        recipe.reproduce(out=tmp_path, only=["x"])
    monkeypatch.delenv("MEMREPLAY_DATA", raising=False)
    with pytest.raises(ValueError, match="data is None and MEMREPLAY_DATA is not set"):
        recipe.reproduce(out=tmp_path)


def test_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clusters, as classes and as a regression, which needs a memory of what came first."""
    label = torch.arange(4).repeat_interleave(15)
    sequence = torch.eye(4)[label][:, None] + 0.1 * torch.randn(60, 2, 4, generator=torch.Generator().manual_seed(0))
    columns = {"flat": sequence.flatten(1), "sequence": sequence, "group": label, "part": label // 2}
    streams = {
        "image": lambda: policies.Stream({**columns, "label": label}, 4, passes=2),
        "regression": lambda: policies.Stream({**columns, "target": label - 1.5}, 1, passes=5),
    }
    monkeypatch.setattr(policies, "STREAMS", streams)
    monkeypatch.setattr(policies, "RATES", (0.01,))
    monkeypatch.setattr(policies, "PER_GROUP", (5,))
    policies.reproduce(seeds=1, out=tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len([name for name, _ in found if "rows, " in name]) == 2 * 2 * 6 * 4
    none, joint = (found[f"regression, recurrent, {name}", "uniform"] for name in ("none", "joint"))
    assert none + 10 < found["regression, recurrent, 20 rows, balanced", "balanced"]
    assert none + 10 < joint
    cell = "image, recurrent, 20 rows"
    gained = [found[f"{cell}, fifo", by] - found[f"{cell}, reservoir", by] for by in policies.RECALLING]
    assert found[cell, "keep fifo"] == pytest.approx(sum(gained) / len(gained))


def test_a_stream_is_split_within_its_parts() -> None:
    rows = {"part": torch.arange(3).repeat_interleave(20)}
    train, valid, test = policies.Stream(rows, 1, passes=1).split(0)
    assert [len(train), len(valid), len(test)] == [36, 12, 12]
    assert torch.equal(torch.cat([train, valid, test]).sort().values, torch.arange(60))
    assert torch.bincount(rows["part"][test]).tolist() == [4, 4, 4]
