"""The report on a run: one self-contained HTML page.

Needs matplotlib and Jinja. The text is escaped; the plots are SVG, the images JPEG, both inside the page.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Okabe and Ito's colours, told apart by any eye.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MAX_NAMED_CLASSES = 30


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    html: str  # from one of the functions below
    folded: bool = False  # whether one has to open it


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Render the whole page as HTML."""
    return _template().render(title=title, lead=lead, sections=sections)


def curves(rows: Sequence[Mapping[str, float]], plots: Mapping[str, Sequence[str]]) -> str:
    """Metrics over epochs, a plot for each title of some of them; a row an epoch, with ``epoch`` and the metrics."""
    drawn = []
    for title, names in plots.items():
        figure, axes = _axes()
        for name, colour in zip(names, COLOURS, strict=False):
            points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, label=name.replace("_", " "), marker=".")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        drawn.append(_svg(figure))
    return f'<div class="plots">{"".join(drawn)}</div>'


def precision_recall(plots: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Precision over recall, a plot for each kind of object, a curve for each way to judge, at even steps of recall."""
    from matplotlib import colormaps

    drawn = []
    for title, curves_ in plots.items():
        figure, axes = _axes()
        for place, (name, precision) in enumerate(curves_.items()):
            colour = colormaps["viridis"](0.9 * place / max(len(curves_) - 1, 1))
            axes.plot(np.linspace(0, 1, len(precision)), precision, color=colour, label=name)
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        drawn.append(_svg(figure))
    return f'<div class="plots">{"".join(drawn)}</div>'


def matrix(counts: Any, names: Sequence[str]) -> str:
    """A confusion matrix: rows are the true classes, columns what they were taken for, in shares of the row.

    Where counts are too large to be read in a cell, as those of pixels, percentages are written instead; names are left
    away where they are more than fit.
    """
    counts = np.asarray(counts, np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    num = len(names)
    large = counts.max(initial=0) >= 10_000
    figure, axes = _axes(size=min(9, 3 + 0.35 * num))
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if num <= MAX_NAMED_CLASSES:
        # Dollars and backslashes in a class name are no formula.
        axes.set_xticks(range(num), names, rotation=90, parse_math=False)
        axes.set_yticks(range(num), names, parse_math=False)
        for i in range(num):
            for j in range(num):
                if counts[i, j]:
                    colour = "white" if shares[i, j] > 0.5 else "#202024"
                    text = f"{shares[i, j]:.0%}" if large else f"{counts[i, j]:.0f}"
                    axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set(xlabel="taken for", ylabel="true class")
    figure.colorbar(shown, fraction=0.04)
    return f'<div class="plots matrix">{_svg(figure)}</div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return _macro("table", heads, rows)


def lines(content: Sequence[str]) -> str:
    """Lines below a table."""
    return _macro("lines", content)


def gallery(images: Sequence[tuple[Sequence[Image.Image], str]]) -> str:
    """Rows of images with captions; as many beside each other as there is room for."""
    width = 8.7 * max((len(row) for row, _ in images), default=1)
    return _macro("gallery", [(list(map(_jpeg, row)), caption) for row, caption in images], f"{width:.1f}")


def figure(images: Sequence[Image.Image], caption: str) -> str:
    """Images side by side with a caption, as wide as the page or as the gallery that they are in."""
    return _macro("figure", list(map(_jpeg, images)), caption)


def legend(names: Sequence[str], colours: Sequence[tuple[int, int, int]]) -> str:
    """Names beside their colours."""
    return _macro("legend", [(name, tuple(c)) for name, c in zip(names, colours, strict=True)])


def text(content: str) -> str:
    """Text as it is, such as a recipe."""
    return _macro("text", content)


def read(path: Path) -> str:
    """The text of a file of the run; nothing where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _axes(size: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, size), size), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sgformer"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


@lru_cache
def _template() -> Any:
    from jinja2 import Environment

    content = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return Environment(autoescape=True).from_string(content)


def _macro(name: str, *arguments: Any) -> str:
    """Render a macro of the template."""
    return str(getattr(_template().module, name)(*arguments))
