"""The parameter table in the documents is the one that the configuration objects give."""

from __future__ import annotations

from pathlib import Path

import pytest

from vjepa_ac_planner.cli.main import main
from vjepa_ac_planner.ros.parameters import table

DOCUMENT = Path(__file__).parents[2] / "docs" / "ros.md"


def test_the_table_in_the_documents_is_up_to_date():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"<!-- parameters -->\n{table()}<!-- /parameters -->" in text, "run: make docs"


def test_every_parameter_is_described_and_every_number_has_a_range():
    rows = [row.split(" | ") for row in table("fr3").splitlines()[2:]]
    assert len(rows) > 50
    for row in rows:
        assert len(row) == 5, row
        assert len(row[4]) > 10, f"{row[0]}: no description"
        number = row[1].strip("` (of)").lstrip("-").replace(".", "", 1).isdigit()
        assert row[2] or not number, f"{row[0]}: no range"


def test_a_document_is_brought_up_to_date_in_place(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- parameters -->\nold\n<!-- /parameters -->\nafter\n")
    assert main(["ros", "parameters", "--robot", "sim", "--into", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "\nold\n" not in text
    assert "| `model` | `panda-sim` |" in text
    page.write_text("no marks")
    assert main(["ros", "parameters", "--into", str(page)]) == 2
    assert "expected the marks" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["ros", "parameters", "extra"])
