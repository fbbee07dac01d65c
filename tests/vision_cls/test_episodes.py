import json
from pathlib import Path

import pytest

from memreplay.vision_cls import ByClass, Digits
from memreplay.vision_cls.episodes import episodes, main
from memreplay.vision_cls.episodic import ProtoNet


def test_training_methods_and_settings_chosen_on_validation_classes(tmp_path: Path) -> None:
    data = ByClass(Digits(), novel=0.3, validation=0.3)
    results = episodes(
        data, training=ProtoNet(way=4, query=4, episodes=30), way=3, shots=[1], number=20, tuning=5, out=tmp_path
    )
    names = ["ProtoNet", "ncm", "logistic", "cache", "knn", "cl2n", "calibration"]
    assert [row.name for row in results.rows] == names
    assert {(row.metric, row.seeds) for row in results.rows} == {("3-way 1-shot", 20)}
    assert min(row.ours for row in results.rows) > 45
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["config"]["cache 1-shot"].startswith("beta=")
    assert (tmp_path / "training" / "checkpoints").is_dir()


def test_command_with_a_network_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--training", "null", "--data", "ByClass", "--data.data", "Digits", "--data.novel", "1"]
    main([*words, "--methods", "[ncm,knn]", "--number", "5", "--way", "8", "--shots", "[2]", "--out", str(tmp_path)])
    assert "8-way 2-shot" in capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["ncm", "knn"]
    assert (tmp_path / "config.yaml").is_file()
    assert list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "[ncn]"], "methods is 'ncn'; expected one of ncm"),
        (["--way", "9"], "way is 9 but there are 5 classes"),
        (["--data", "ByClass", "--data.data", "Digits", "--data.novel", "1"], "expected some, or training null"),
        (["--shtos", "[1]"], "did you mean --shots?"),
    ],
)
def test_mistakes_cost_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
