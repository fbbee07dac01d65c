import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed; the extra report has it")
pytest.importorskip("vl_convert", reason="vl-convert-python is not installed; the extra report has it")

from memreplay.core.reporting.report import write_report


class Tags(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: Path) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.found


@pytest.fixture
def page(run: Path, tmp_path: Path, make: Callable[..., Path], hostile: str) -> Path:
    other = make(tmp_path / "other" / hostile.replace("/", "|"), ("er",))
    return write_report([run, other], tmp_path / "out" / "report.html", hostile)


def test_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    for tag, attributes in tags(page):
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href"):
            place = attributes.get(name) or ""
            assert place.startswith(("data:", "#")) or not place
    policy = dict(tags(page))["meta"]
    assert "default-src 'none'" in page.read_text(encoding="utf-8")
    assert policy


def test_names_and_texts_stay_text(page: Path, hostile: str) -> None:
    scripts = [attributes for tag, attributes in tags(page) if tag == "script"]
    assert [attributes.get("type") for attributes in scripts] == ["application/json", None, None]
    for tag, attributes in tags(page):
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert attributes.get("src") != "x"
    text = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;window.broken = 1" in text
    assert hostile not in text
    assert "<script>window.broken" not in text


def test_only_its_own_scripts_may_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    allowed = re.findall(r"&#39;(sha256-[\w+/=]+)&#39;|'(sha256-[\w+/=]+)'", text)
    named = {one or other for one, other in allowed}
    bodies = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(bodies) == 2
    for body in bodies:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"sha256-{digest}" in named


def test_what_is_needed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs is empty; expected at least one folder of a run"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
