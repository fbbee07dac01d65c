from __future__ import annotations

import pytest

from memreplay.core.reporting import code_digest


def test_it_depends_on_names_and_contents_of_source_alone(tmp_path):
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "a.py"
    file.write_text("one = 1\n")
    (tmp_path / "b.c").write_text("int b;\n")
    first = code_digest([tmp_path])
    (tmp_path / "notes.md").write_text("not code")
    assert code_digest([tmp_path]) == first
    file.write_text("one = 2\n")
    assert code_digest([tmp_path]) != first
    assert code_digest([tmp_path], without=[file]) != first
    rest = code_digest([tmp_path], without=[file])
    file.write_text("one = 3\n")
    assert code_digest([tmp_path], without=[file]) == rest
    file.write_text("one = 1\n")
    assert code_digest([tmp_path]) == first
    file.rename(tmp_path / "inner" / "c.py")
    assert code_digest([tmp_path]) != first


def test_no_source_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected source files in them"):
        code_digest([tmp_path])
