"""Self-contained HTML page of explanations, to move over stages and pairs; needs no server and no network."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .explanation import VIEWS, Explanation, Pair
from .spending import band_colours, describe_spending

LONGEST_SIDE = 900  # of an image in the page

# What each view shows.
ABOUT = {
    "significance": "The mean attention that each token receives; each map is stretched to its own range.",
    "spending": "How many tokens are merged into one key: the lighter, the fewer.",
    "keys": "How many keys, and as many values, each region of the image receives.",
}


def write_page(explanations: Mapping[str, Explanation], *, title: str, notes: Mapping[str, str] | None = None) -> str:
    """The text of a self-contained HTML page. Needs Jinja.

    Args:
        explanations: by the name of the image.
        title: of the page.
        notes: a line about some of the images, such as what the model says of it.

    Raises:
        ValueError: there is nothing to show.
    """
    if not explanations:
        raise ValueError("a page needs at least one explanation")
    images = [_image(name, e, (notes or {}).get(name, "")) for name, e in explanations.items()]
    from jinja2 import Environment

    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    facts = {"title": title, "about": ABOUT, "images": images, "maps": read_script()}
    return Environment(autoescape=True).from_string(template).render(facts)


def read_script() -> str:
    """Read the script that pages with maps share."""
    return Path(__file__).with_name("maps.js").read_text(encoding="utf-8")


def describe_pair(pair: Pair) -> dict[str, Any]:
    """Describe a pair of blocks for the page, as JSON."""
    H, W = pair.significance.shape
    colours = band_colours(pair.group_size)
    return {
        "stage": pair.stage,
        "pair": pair.number,
        "tokens": f"{H} × {W}",
        "bands": [
            {
                "colour": "#{:02x}{:02x}{:02x}".format(*colours[size]),
                "text": f"{size}:1 – {share:.0%} of the tokens, {keys:.0f} key{'s' * (round(keys) != 1)}",
            }
            for size, share, keys in describe_spending(pair.group_size, pair.keys)
        ],
        "total": f"{H * W:,} tokens, {pair.keys.sum():.0f} keys",
    }


def _image(name: str, explanation: Explanation, note: str) -> dict[str, Any]:
    image = explanation.image
    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    pairs = [
        describe_pair(pair) | {"views": {view: _data_uri(pair.draw(small, view)) for view in VIEWS}}
        for pair in explanation.pairs
    ]
    size = f"{image.width} × {image.height} pixels, seen at {explanation.size[1]} × {explanation.size[0]}"
    thumb = small.copy()
    thumb.thumbnail((160, 160))
    return {
        "name": name,
        "note": note,
        "size": size,
        "photo": _data_uri(np.asarray(small)),
        "thumb": _data_uri(np.asarray(thumb)),
        "pairs": pairs,
    }


def _data_uri(array: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "WEBP", quality=80, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
