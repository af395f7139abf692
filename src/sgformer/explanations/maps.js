// Shared by the pages that show maps of pairs of blocks: elements, the legend of a view, and a line about a pair.
const $ = (id) => document.getElementById(id);
const make = (tag, ...children) => { const e = document.createElement(tag); e.append(...children); return e; };

function swatch(colour) {
  const square = make("i");
  if (colour === "scale") square.className = "scale"; else square.style.background = colour;
  return square;
}

function describe(view, pair, about) {
  const entries = view === "significance" ? [["scale", "least to most significant"]]
    : pair.bands.map((band) => [band.colour, band.text]);
  $("legend").replaceChildren(...entries.map(([colour, text]) => make("span", swatch(colour), text)));
  return `${about ?? ""} ${pair.tokens} tokens: ${pair.total}.`;
}
