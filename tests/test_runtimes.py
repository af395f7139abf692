"""docs/export.md shows what `benchmarks/runtimes.py` saw, of every runtime and with its records."""

import copy
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import runtimes


@pytest.fixture(scope="module")
def results():
    paths = {name: runtimes.RESULTS / f"{runtimes.name_of_file(name)}.json" for name in runtimes.RUNTIMES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def test_the_page_shows_what_was_run(results):
    page = runtimes.PAGE.read_text(encoding="utf-8")
    table = page.partition(runtimes.START)[2].partition(runtimes.END)[0]
    assert table.strip() == runtimes.table(results).strip()


def test_no_table_where_records_are_missing_or_a_class_is_another(results):
    some = copy.deepcopy(results)
    del some["MNN"]["sizes"]["160x208"]["others"]
    with pytest.raises(SystemExit, match="MNN"):
        runtimes.table(some)
    with pytest.raises(SystemExit, match="tract"):
        runtimes.table({name: found for name, found in results.items() if name != "tract"})
    some = copy.deepcopy(results)
    some["LiteRT"]["sizes"]["224x224"]["others"] = [{"gap": 9.0}]
    with pytest.raises(SystemExit, match="LiteRT"):
        runtimes.table(some)
