import contextlib
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import pytest
import torch

import memreplay
from memreplay import cli, doctor
from memreplay.arguments import Parser, command, near_miss, told
from memreplay.trials import Answer

MODULES = {
    "__init__": "",
    "train": """
        def main(args):
            print("train", *args)
        """,
    "add_classes": """
        import package_that_nobody_has
        """,
    "forget": """
        from . import absent
        """,
    "demo": """
        def demo(out):
            print("demo", out)
        """,
    "recipes/__init__": "",
    "recipes/split_things": '''
        """Split things: the table of a paper.

        More about it.
        """

        def reproduce(**options):
            if options["seeds"] == 0:
                raise ValueError("seeds is 0; expected at least 1")
            if options["seeds"] == 99:
                raise ValueError("tensors do not fit")
            print(options)
        ''',
}


@pytest.fixture(autouse=True)
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A domain called toys, in a package of its own."""
    for name, text in MODULES.items():
        path = tmp_path / "toy_package" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.setattr(cli, "_HOME", tmp_path)
    monkeypatch.setattr(cli, "DOMAINS", {"toys": ("toy_package", "few-shot toys")})
    monkeypatch.setattr(memreplay, "__path__", [*memreplay.__path__, str(tmp_path)])
    yield
    for name in [name for name in sys.modules if name.startswith("memreplay.toy_package")]:
        del sys.modules[name]


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that ``memreplay ARGS`` is refused with."""
    with pytest.raises(SystemExit) as ended:
        cli.main(args)
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def test_a_verb_gets_its_arguments_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["toys", "train", "--lr", "0.1", "--help"])
    assert capsys.readouterr().out == "train --lr 0.1 --help\n"


def test_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.main(["demo"])
    cli.main(["demo", "--only", "toys", "--out", "there"])
    monkeypatch.setitem(cli.DOMAINS, "bricks", ("toy_package", "a second one"))
    cli.main(["demo", "--out", "there"])
    assert capsys.readouterr().out.splitlines() == [
        "demo demo-out",
        "demo there",
        "demo there/toys",
        "demo there/bricks",
    ]


def test_recipes_are_listed_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["recipes"])
    assert capsys.readouterr().out.split(maxsplit=1) == [
        "toy_package/split-things",
        "Split things: the table of a paper.\n",
    ]
    cli.main(["reproduce", "toy_package/split-things"])
    cli.main(["reproduce", "toy_package/split-things", "--seeds", "3", "--data=d", "--out=o", "--only", "ER", "DER"])
    assert capsys.readouterr().out.splitlines() == [
        str({"seeds": None, "data": None, "out": Path("runs/toy_package/split-things"), "only": ()}),
        str({"seeds": 3, "data": Path("d"), "out": Path("o"), "only": ("ER", "DER")}),
    ]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("dmeo", "memreplay: argument COMMAND: invalid choice: 'dmeo'.* did you mean demo?"),
        ("demo --onyl toys", "memreplay demo: unrecognized arguments: --onyl toys; did you mean --only?"),
        ("demo --only tosy", "did you mean toys?"),
        ("toys trian", "memreplay toys: .*'trian'.* did you mean train?"),
        ("toys evaluate", "memreplay toys: .*'evaluate'"),
        ("reproduce", "memreplay reproduce: RECIPE is required"),
        ("reproduce toy_package/splt-things", "did you mean toy_package/split-things?"),
        (
            "reproduce toy_package/split-things --seeds many",
            "memreplay reproduce: seeds is .many.; expected int",
        ),
        ("doctor tosy", "memreplay doctor: .*'tosy'.* did you mean toys?"),
        ("doctor toys bricks", "memreplay doctor: unrecognized arguments: bricks"),
        ("--hlep", "memreplay: unrecognized arguments: --hlep; did you mean --help?"),
    ],
)
def test_mistakes_cost_one_line(capsys: pytest.CaptureFixture[str], args: str, expected: str) -> None:

    assert re.search(expected.replace("?", r"\?"), refusal(capsys, *args.split()))


def test_inspect_shows_what_a_memory_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trace = memreplay.Trace()
    memory = memreplay.ReplayMemory(memreplay.Store(50), memreplay.Nearest("feature"), replay=4, trace=trace)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        feature = torch.randn(20, 8, generator=generator)
        memory.recall(query={"feature": feature})
        memory.remember(feature=feature, label=torch.arange(20) % 40, loss=torch.rand(20, generator=generator))
    assert isinstance(memory.source, memreplay.Store)
    memory.source.forget(label=[3, 4])
    memory.save(tmp_path / "m")
    cli.main(["inspect", str(tmp_path / "m")])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    n = len(memory.source)
    for line in (
        f"Store: {n} of 50 rows, 120 seen, {memory.source.nbytes:,} bytes",
        "keeps by     Reservoir()",
        f"forgotten    label 3, 4: {50 - n} rows, after 120 had been seen",
        "draw 'replay' 5 times, 20 rows,",
    ):
        assert line in out
    assert all(word in out for word in ("feature", "8 float32", "age", "key", "loss", "times recalled", "refused"))
    cli.main(["inspect", str(tmp_path / "m"), "--json"])
    assert json.loads(capsys.readouterr().out)["memories"][""]["rows"] == n


def test_what_cannot_be_inspected_costs_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    expected = "expected the folder of a saved memory, adapter or run\n"
    nowhere = tmp_path / "nowhere"
    assert refusal(capsys, "inspect", str(nowhere)) == (
        f"memreplay inspect: memory is '{nowhere}': there is no such folder; {expected}"
    )
    assert "holds no save: there is no manifest.json; expected" in refusal(capsys, "inspect", str(tmp_path))
    memreplay.Store(3).save(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert "is damaged: KeyError('format'); expected" in refusal(capsys, "inspect", str(tmp_path))
    assert "unrecognized arguments: --jsn; did you mean --json?" in refusal(capsys, "inspect", str(tmp_path), "--jsn")
    assert refusal(capsys, "inspect") == "memreplay inspect: MEMORY is required (see memreplay inspect --help)\n"


@pytest.mark.parametrize(("args", "code"), [("toys", 0), ("bricks", 1), ("", 0)])
def test_doctor_says_whether_a_domain_can_run(monkeypatch: pytest.MonkeyPatch, args: str, code: int) -> None:
    monkeypatch.setitem(cli.DOMAINS, "bricks", ("brick_package", "not part of this version"))
    monkeypatch.setattr(doctor, "ask", lambda names: dict.fromkeys(names, Answer()))
    with contextlib.ExitStack() as expected:
        if code:
            ended = expected.enter_context(pytest.raises(SystemExit))
        cli.main(["doctor", *args.split()])
    assert not code or ended.value.code == code


def test_an_argument_that_a_recipe_refuses_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "reproduce", "toy_package/split-things", "--seeds=0") == (
        "memreplay: seeds is 0; expected at least 1\n"
    )
    with pytest.raises(ValueError, match="tensors do not fit"):
        cli.main(["reproduce", "toy_package/split-things", "--seeds=99"])


def test_a_missing_package_is_named_with_its_cure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["toys", "add-classes"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "memreplay toys needs package_that_nobody_has, which is not installed: pip install 'memreplay[toys]'\n"
    )


def test_a_fault_of_ours_is_not_called_a_missing_package() -> None:
    with pytest.raises(ImportError, match="absent"):
        cli.main(["toys", "forget"])


@pytest.mark.parametrize(
    "args",
    [
        "",
        "--help",
        "demo --help",
        "toys",
        "toys --help",
        "recipes --help",
        "reproduce --help",
        "doctor --help",
        "inspect --help",
    ],
)
def test_help_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main(args.split())
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: memreplay")
    assert max(map(len, lines)) <= 80


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([])
    text = capsys.readouterr().out
    assert all(word in text for word in ("demo", "toys", "recipes", "reproduce", "train, add-classes, forget"))
    assert "evaluate" not in text


def test_command_line_is_light() -> None:
    code = "import sys; from memreplay import cli; cli.main(['recipes']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torchvision", "sklearn", "accelerate", "transformers", "matplotlib"} & set(run.stdout.split())


def test_module_and_version() -> None:
    run = subprocess.run([sys.executable, "-m", "memreplay", "--version"], check=True, capture_output=True, text=True)
    assert run.stdout == f"memreplay {memreplay.__version__}\n"


class Toy: ...


class Train(Toy): ...


class Car(Toy): ...


@dataclass
class Rules:
    players: int = 2


@dataclass(frozen=True)
class Board:
    size: int = 8

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; expected at least 1")


def play(
    toy: Toy,
    steps: int = 3,
    rules: Rules = Rules(),  # noqa: B008
    turns: int | None = None,
    extra: Rules | None = None,
) -> None:
    """Plays."""


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--stpes 3", "play: unrecognized arguments: --stpes 3; did you mean --steps?"),
        ("--rules.player 3", "did you mean --rules.players?"),
        ("--player 3", "did you mean --rules.players?"),
        ("--toy Tarin", "did you mean Train?"),
        ("--steps x", "play: steps is 'x'; expected int (see"),
        ("--turns x", "play: turns is 'x'; expected int or null (see"),
        ("--toy Plane", "play: toy is 'Plane'; expected one of Train, Car, or a class by its path (see"),
        ("--extra.players x", "play: extra.players is 'x'; expected int (see"),
        ("--extra.playrs 3", "play: extra has no option 'playrs'; did you mean players?"),
        ("", "play: --toy is required (see"),
    ],
)
def test_parser_for_domains(capsys: pytest.CaptureFixture[str], args: str, expected: str) -> None:
    with pytest.raises(SystemExit) as ended:
        jsonargparse.auto_cli(play, args=args.split(), prog="play", as_positional=False, parser_class=Parser)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1


def place(board: Board | None = Board()) -> None:
    """Places."""


@pytest.mark.parametrize(
    ("size", "expected"),
    [("0", "place: size is 0; expected at least 1"), ("x", "place: board.size is 'x'; expected int")],
)
def test_what_is_wrong_within_an_option_that_may_be_null(
    capsys: pytest.CaptureFixture[str], size: str, expected: str
) -> None:
    with pytest.raises(SystemExit):
        command(place, "place", ["--board.size", size])
    assert expected in capsys.readouterr().err


def test_parser_names_the_key_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("stesp: 3\n")
    with pytest.raises(SystemExit):
        jsonargparse.auto_cli(
            play, args=["--config", str(tmp_path / "run.yaml")], as_positional=False, parser_class=Parser
        )
    assert "'stesp' is not accepted; did you mean steps?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "expected"), [("reservoir", "Reservoir"), ("Reservior", "Reservoir"), ("fifi", "Fifo"), ("zzz", None)]
)
def test_near_miss(word: str, expected: str | None) -> None:
    assert near_miss(word, ["Reservoir", "Fifo", "KCenter"]) == expected


VERBS = [f"{domain} {verb}" for domain in cli.DOMAINS for verb in cli.verbs(domain)]


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.undo()  # the real domains
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main([*verb.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: memreplay {verb} ")
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 220
    assert not re.search(r"<class|typing\.|torch\.ao|``", text)


def play_out(out: Path = Path("runs"), steps: int = 3, resume: bool = False) -> None:
    """Plays, and may be stopped."""
    print(f"step {steps}")
    print("10 %\r20 %\r", end="", file=sys.stderr)
    if steps == 7:
        (out / "checkpoints").mkdir()
        (out / "checkpoints" / "latest").write_text("step-7-epoch-0")
    if steps > 5:
        raise KeyboardInterrupt
    if steps < 0:
        raise ValueError(f"{out} has no room for {steps} steps")


def test_a_run_keeps_its_options_and_a_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command(play_out, "play", ["--out", str(tmp_path), "--steps", "2"], config="a file")
    assert (tmp_path / "config.yaml").read_text() == f"out: {tmp_path}\nsteps: 2\nresume: false\n"
    command(play_out, "play", ["--config", str(tmp_path / "config.yaml"), "--steps", "4"], config="a file")
    head, versions, first, head_again, _, second = (tmp_path / "log.txt").read_text().splitlines()
    assert head.endswith(f"play --out {tmp_path} --steps 2")
    assert f"memreplay {memreplay.__version__}" in versions
    assert "torch 2" in versions
    assert head_again.endswith("--steps 4")
    assert (first, second) == ("step 2", "step 4")
    assert capsys.readouterr().out == "step 2\nstep 4\n"


@pytest.mark.parametrize("steps", [6, 7])
def test_who_stops_a_run_is_told_how_to_go_on(capsys: pytest.CaptureFixture[str], tmp_path: Path, steps: int) -> None:
    with pytest.raises(SystemExit) as ended:
        command(play_out, "play", ["--out", str(tmp_path), "--steps", str(steps)], config="a file")
    assert ended.value.code == 130
    said = capsys.readouterr().err.splitlines()[-1]
    how = f"to go on: play --config {tmp_path}/config.yaml --resume true"
    assert said == f"play: stopped; {'nothing was saved' if steps == 6 else how}"


def test_an_error_about_a_value_names_its_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        command(play_out, "play", ["--out", str(tmp_path), "--steps=-1"], config="a file")
    assert capsys.readouterr().err.endswith(f"play: out: {tmp_path} has no room for -1 steps (see play --help)\n")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("/a holds no save"), "adapter: /a holds no save"),
        (ValueError("root is '/b'; expected a folder"), "images is '/b'; expected a folder"),
        (ValueError("text is 'txt', which is no column"), "data.text is 'txt', which is no column"),
        (ValueError("label is 'label', which is no column"), "data.label is 'label', which is no column"),
        (ValueError("there is no file 'in.csv'"), "data.train: there is no file 'in.csv'"),
        (FileNotFoundError(2, "No such file", "/a"), "adapter is '/a': no such file"),
        (FileNotFoundError(2, "No such file", "/b/c.png"), "images is '/b': '/b/c.png': no such file"),
        (ValueError("way is 7 but there are 5 classes"), "way is 7 but there are 5 classes"),
        (ValueError("out holds a run; expected resume=True"), "out holds a run; expected --resume true"),
        (
            ValueError("it is 'elf'; expected one of elk, ox"),
            "it is 'elf'; expected one of elk, ox; did you mean elk?",
        ),
    ],
)
def test_what_an_error_says_of_the_options(error: Exception, expected: str) -> None:
    chosen = {
        "adapter": Path("/a"),
        "images": "/b",
        "data.text": "txt",
        "data.label": "label",
        "data.train": "in.csv",
        "way": 7,
    }
    assert told(error, chosen) == expected
