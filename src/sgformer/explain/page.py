"""Self-contained HTML page of explanations, to move over stages and pairs; needs no server and no network."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from .explanation import VIEWS, Explanation, Pair
from .spending import band_colours, describe_spending

LONGEST_SIDE = 900  # of an image in the page

# What each view shows, for people.
ABOUT = {
    "significance": "The mean attention that each token receives; each map is stretched to its own range.",
    "spending": "How many tokens are merged into one key: the lighter, the fewer.",
    "keys": "How many keys, and as many values, each region of the image receives.",
}


def write_page(
    explanations: Mapping[str, Explanation], *, title: str, notes: Mapping[str, str] | None = None
) -> str:
    """The text of a self-contained HTML page.

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
    # "<" is written so that no text within can end the script.
    data = json.dumps(images).replace("<", "\\u003c")
    page = _PAGE.replace("TITLE", html.escape(title)).replace("ABOUT", json.dumps(ABOUT))
    return page.replace("DATA", data)


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
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
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


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
:root { color-scheme: light; font: 17px/1.45 system-ui, sans-serif; color: #202024; background: #fff }
body { max-width: 960px; margin: 0 auto; padding: 12px }
h1 { font-size: 1.25rem; margin: 0 0 8px }
#images { display: flex; gap: 6px; overflow-x: auto; padding: 3px 3px 8px }
#images button { flex: none; padding: 0; border: 3px solid transparent; background: none; border-radius: 6px }
#images img { display: block; height: 64px; border-radius: 3px }
#images button[aria-pressed=true] { border-color: #0b5fad }
.row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin: 6px 0 }
.row > span { min-width: 4.2em; color: #5c5c66 }
.row button { font: inherit; min-width: 44px; min-height: 44px; padding: 4px 12px; border: 1px solid #9a9aa4;
  border-radius: 8px; background: #fff; color: inherit }
.row button[aria-pressed=true] { background: #0b5fad; border-color: #0b5fad; color: #fff }
button:focus-visible { outline: 3px solid #e69f00; outline-offset: 2px }
#stack { position: relative; margin: 8px 0; line-height: 0 }
#stack img { width: 100%; max-height: 78vh; object-fit: contain; background: #f3f3f5 }
#map { position: absolute; inset: 0; height: 100% }
input[type=range] { flex: 1; min-width: 120px; min-height: 32px }
#legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 4px 0 10px }
#legend i { display: inline-block; width: 1em; height: 1em; margin-right: .4em; vertical-align: -.12em;
  border: 1px solid #55555e }
#bar { width: 8em !important; background: linear-gradient(90deg,
  #000004, #380962, #801f6c, #c63d4d, #f47918, #fcb014, #fcffa4) }
p { margin: 4px 0; color: #5c5c66 } #note { color: inherit }
</style>
</head>
<body>
<h1>TITLE</h1>
<div id="images" role="group" aria-label="image"></div>
<p id="note"></p>
<div class="row"><span>show</span><div class="row" id="views" role="group" aria-label="what to show"></div></div>
<div class="row"><span>stage</span><div class="row" id="stages" role="group" aria-label="stage"></div></div>
<div class="row"><span>pair</span><div class="row" id="pairs" role="group" aria-label="pair of blocks"></div></div>
<div id="stack"><img id="photo" alt=""><img id="map" alt=""></div>
<div class="row"><span><label for="opacity">overlay</label></span>
<input id="opacity" type="range" min="0" max="100" value="100"></div>
<div id="legend"></div>
<p id="about"></p>
<p>Arrow keys: left and right move over pairs, up and down over images.</p>
<noscript>This page needs JavaScript; the same images lie beside it as PNG files.</noscript>
<script>
"use strict";
const images = DATA;
const about = ABOUT;
const now = { image: 0, pair: 0, view: "significance" };
const $ = (id) => document.getElementById(id);

function buttons(parent, items, chosen, choose) {
  parent.replaceChildren(...items.map(({ value, label, image, title }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(value === chosen));
    if (title) button.title = title;
    if (image) {
      const img = document.createElement("img");
      img.src = image; img.alt = label;
      button.append(img);
    } else button.textContent = label;
    button.onclick = () => { choose(value); show(); };
    return button;
  }));
}

function show() {
  const image = images[now.image], pair = image.pairs[now.pair];
  buttons($("images"), images.map((p, i) => ({ value: i, label: p.name, image: p.thumb, title: p.name })),
    now.image, (i) => { now.image = i; });
  buttons($("views"), Object.keys(about).map((v) => ({ value: v, label: v })), now.view, (v) => { now.view = v; });
  const stages = [...new Set(image.pairs.map((p) => p.stage))];
  buttons($("stages"), stages.map((s) => ({ value: s, label: String(s) })), pair.stage,
    (s) => { now.pair = image.pairs.findIndex((p) => p.stage === s); });
  const mine = image.pairs.map((p, i) => ({ value: i, label: String(p.pair), stage: p.stage }));
  buttons($("pairs"), mine.filter((p) => p.stage === pair.stage), now.pair, (i) => { now.pair = i; });
  $("note").textContent = [image.name, image.note, image.size].filter(Boolean).join(" – ");
  $("photo").src = image.photo;
  $("photo").alt = image.name;
  $("map").src = pair.views[now.view];
  $("map").alt = `${now.view}, stage ${pair.stage}, pair ${pair.pair}`;
  $("map").style.opacity = $("opacity").value / 100;
  const entries = now.view === "significance"
    ? [["bar", "least to most significant"]] : pair.bands.map((b) => [b.colour, b.text]);
  $("legend").replaceChildren(...entries.map(([colour, text]) => {
    const entry = document.createElement("span"), swatch = document.createElement("i");
    if (colour === "bar") swatch.id = "bar"; else swatch.style.background = colour;
    entry.append(swatch, text);
    return entry;
  }));
  $("about").textContent = `${about[now.view]} ${pair.tokens} tokens: ${pair.total}.`;
}

$("opacity").oninput = show;
document.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return;
  const step = { ArrowLeft: ["pair", -1], ArrowRight: ["pair", 1],
    ArrowUp: ["image", -1], ArrowDown: ["image", 1] }[event.key];
  if (!step) return;
  const many = step[0] === "pair" ? images[now.image].pairs.length : images.length;
  now[step[0]] = (now[step[0]] + step[1] + many) % many;
  event.preventDefault();
  show();
});
show();
</script>
</body>
</html>
"""
