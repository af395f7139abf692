"""docs/ecosystem.md shows what `benchmarks/ecosystem.py` saw, and no line that it does not run."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ecosystem


def test_the_page_shows_what_was_run():
    results = json.loads(ecosystem.RESULTS.read_text(encoding="utf-8"))
    assert set(results) == {f"{row.package}: {row.name}" for row in ecosystem.ROWS}
    page = ecosystem.PAGE.read_text(encoding="utf-8")
    table = page.partition(ecosystem.START)[2].partition(ecosystem.END)[0]
    assert table.strip() == ecosystem.table(results).strip()
