"""A page that says how a run went: one HTML file, with everything in it, that opens anywhere.

Needs matplotlib and Jinja. The text is escaped; the plots are SVG, the images JPEG, both inside the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Okabe and Ito's colours, told apart by any eye.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MAX_NAMED_CLASSES = 30

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #202024; background: #fff; max-width: 72rem;
         margin: 0 auto; padding: 1rem; }
  h1 { font-size: 1.6rem; margin: .5rem 0 0 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
  p.lead { color: #55555c; margin: 0 0 1rem }
  .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem }
  .plots svg { width: 100%; height: auto }
  .matrix { max-width: 42rem }
  .gallery { display: grid; gap: 1rem }
  figure { margin: 0 } figure img { max-width: 100%; border-radius: 4px } figcaption { font-size: .9rem }
  .panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 2px }
  .legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin-bottom: .8rem; font-size: .9rem }
  .legend i { display: inline-block; width: .9em; height: .9em; margin-right: .4em; vertical-align: -.1em }
  .wide { overflow-x: auto } table { border-collapse: collapse; font-size: .95rem }
  th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e4e4e8;
           font-variant-numeric: tabular-nums }
  pre { background: #f5f5f7; padding: .8rem; overflow-x: auto; font-size: .85rem; border-radius: 4px }
  summary { cursor: pointer; font-weight: 600; margin-top: 1rem }
</style>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
{% for section in sections %}
{% if section.folded %}<details><summary>{{ section.title }}</summary>{% else %}<h2>{{ section.title }}</h2>{% endif %}
{{ section.html | safe }}
{% if section.folded %}</details>{% endif %}
{% endfor %}
</html>
"""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        html: Its content, from one of the functions below.
        folded: Whether one has to open it.
    """

    title: str
    html: str
    folded: bool = False


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page as HTML."""
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(_PAGE).render(title=title, lead=lead, sections=sections)


def curves(rows: Sequence[Mapping[str, float]], plots: Mapping[str, Sequence[str]]) -> str:
    """Metrics over epochs, a plot for each group of them.

    Args:
        rows: One for each epoch, with ``epoch`` and the metrics.
        plots: Title of each plot to the metrics in it.
    """
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
    """Precision over recall, a plot for each kind of object, a curve for each way to judge.

    Args:
        plots: Title of each plot to its curves: name to precision at recalls in even steps from 0 to 1.
    """
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

    Args:
        counts: (classes, classes). Where they are too large to be read in a cell, as those of pixels, percentages are
            written instead.
        names: Of the classes; left away where they are more than fit.
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
    from markupsafe import escape

    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def lines(content: Sequence[str]) -> str:
    """Lines below a table."""
    from markupsafe import escape

    return f"<p>{'<br>'.join(map(escape, content))}</p>"


def gallery(images: Sequence[tuple[Sequence[Image.Image], str]]) -> str:
    """Rows of images with captions; as many beside each other as there is room for."""
    width = 8.7 * max((len(row) for row, _ in images), default=1)
    columns = f"grid-template-columns: repeat(auto-fill, minmax(min({width:.1f}rem, 100%), 1fr))"
    shown = "".join(figure(row, caption) for row, caption in images)
    return f'<div class="gallery" style="{columns}">{shown}</div>'


def figure(images: Sequence[Image.Image], caption: str) -> str:
    """Images side by side with a caption, as wide as the page or as the gallery that they are in."""
    from markupsafe import escape

    shown = "".join(
        f'<img alt="{escape(caption)}" src="data:image/jpeg;base64,{_jpeg(image)}">' for image in images
    )
    return f'<figure><div class="panels">{shown}</div><figcaption>{escape(caption)}</figcaption></figure>'


def legend(names: Sequence[str], colours: Sequence[tuple[int, int, int]]) -> str:
    """Names beside their colours."""
    from markupsafe import escape

    rows = (
        f'<span><i style="background: rgb{tuple(colour)}"></i>{escape(name)}</span>'
        for name, colour in zip(names, colours, strict=True)
    )
    return f'<div class="legend">{"".join(rows)}</div>'


def text(content: str) -> str:
    """Text as it is, such as a recipe."""
    from markupsafe import escape

    return f"<pre>{escape(content)}</pre>"


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
