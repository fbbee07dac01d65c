"""The site builds without a warning, has every page and public name, and asks nothing of the network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import memreplay

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")
ROOT = Path(__file__).resolve().parents[2]


class Loaded(HTMLParser):
    """What a page has a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text("utf-8")
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").glob("*.md")]:
        path = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert path == "index" or f'href="{path}/"' in home, f"{path} is not in the navigation"
        assert (site / path / "index.html").exists() or path == "index"


def test_nothing_comes_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text("utf-8"))
        outside = [source for source in parser.found if re.match(r"(https?:)?//", source)]
        assert outside == [], page


@pytest.mark.slow
def test_pictures_are_taken_by_the_script_that_ships(tmp_path: Path) -> None:
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("there is no chromium to take pictures with")
    picture = tmp_path / "report.png"
    subprocess.run([sys.executable, str(ROOT / "docs" / "screenshots.py"), str(picture)], check=True)
    committed = (ROOT / "docs" / "report.png").read_bytes()
    assert picture.read_bytes()[:24] == committed[:24], "not a picture of the same size"
    assert picture.stat().st_size > len(committed) / 2


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = (site / "api" / "index.html").read_text("utf-8")
    modules = {"Batch", "scores", "protocols"}
    missing = [name for name in set(memreplay.__all__) - modules if not re.search(rf'id="[\w.]+\.{name}"', page)]
    assert missing == []
    assert "&gt;&gt;&gt; " in page or 'class="gp"' in page, "examples in docstrings are code"


def test_published_figures_are_those_of_the_results(site: Path) -> None:
    text = re.sub(r"<[^>]+>", " ", (site / "results" / "index.html").read_text("utf-8"))
    shown = [line.split() for line in re.findall(r"vision_cls/split-mnist\s+er-200[^|]*?\d\s+\d+\s", text)]
    (row,) = (
        row
        for row in json.loads((ROOT / "docs" / "results" / "split-mnist.json").read_text("utf-8"))["rows"]
        if (row["name"], row["metric"]) == ("er-200", "accuracy")
    )
    (cells,) = shown
    assert cells[2:] == [
        "accuracy",
        f"{row['published']:.2f}",
        f"{row['ours']:.2f}",
        "±",
        f"{row['ci95']:.2f}",
        f"{row['ours'] - row['published']:+.2f}",
        str(row["seeds"]),
    ]
