"""Pages that the scripts here fill from result files: tables in Markdown, put between marks; numbers over seeds."""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, a line each, the last one ended."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def fill(page: Path, mark: str, content: str | Callable[[str], str]) -> None:
    r"""Put lines between each `<!-- mark -->` and `<!-- /mark -->` of a page.

    Where the mark is a pattern with a group, such as `speed:(\w+)`, the content is asked for by what the group found.
    """

    def filled(found: re.Match[str]) -> str:
        lines = content if isinstance(content, str) else content(found[2])
        return f"<!-- {found[1]} -->\n{lines}<!-- /{found[1]} -->"

    text = page.read_text(encoding="utf-8")
    new, number = re.subn(rf"<!-- ({mark}) -->\n.*?<!-- /\1 -->", filled, text, flags=re.DOTALL)
    assert number, f"{page} has no mark {mark}"
    page.write_text(new, encoding="utf-8")


def protocol(result: Path) -> dict[str, Any]:
    """The JSON file next to a result: machine and protocol."""
    return json.loads(result.with_suffix(".json").read_text(encoding="utf-8"))


def machine(result: Path) -> str:
    """What a result was measured on: the GPUs, or else the processor."""
    said = protocol(result)
    return ", ".join(said["gpus"]) if said.get("device", "cpu") != "cpu" else said["processor"]


def newest(results: Iterable[Path]) -> list[Path]:
    """The newest result from each machine."""

    def age(result: Path) -> tuple[str, int, str]:
        """The day, and which of that day it is: `-2` in a name comes after none."""
        return protocol(result)["date"], len(result.stem), result.stem

    found = {machine(result): result for result in sorted(results, key=age)}
    return [*reversed(found.values())]


def spread(values: Sequence[float], form: str = ".1%") -> str:
    """Mean and standard deviation over seeds, and how many there are; nothing where there is none."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:{form}} (one seed)"
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}} ({len(values)} seeds)"
