"""The model behind ``sgformer serve``: predictions and drawings for its page, without HTTP."""

import io
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from PIL import Image

from ..explanations import Pair
from ..explanations.explanation import VIEWS
from ..explanations.page import ABOUT, describe_pair
from ..tasks.images import read_image, read_oddities
from ..tasks.model import Kept
from .explain import explain_image

MAX_PIXELS = 64_000_000  # of an upload: 200 MB when decoded
MAX_SEEN = 2048  # longer side of what is computed on: larger images are shrunk to it
MAX_SHOWN = 1280  # longer side of what is drawn
MAX_KEPT = 8  # results whose maps can still be drawn
# What the slider of the token budget stops at; the last stop, without a budget, is added.
BUDGETS = (4, 8, 16, 32, 49, 64, 98, 147, 196, 392, 784)


@dataclass(frozen=True, eq=False)
class _Result:
    """Result kept for an image: enough to draw its maps."""

    shown: Image.Image
    drawn: Image.Image | None
    pairs: list[Pair]


class Tryout:
    """Computes on one image after another, and draws what came out. Not for several threads at once."""

    def __init__(self, model: Kept) -> None:
        self.model, self.task = model, model.task
        self._results: OrderedDict[str, _Result] = OrderedDict()
        self._guided = model.guided
        self._own_budget = self._guided.token_budget if self._guided else None

    def facts(self) -> dict[str, Any]:
        """Return the facts about the model that the page needs."""
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        budgets = [*sorted({*BUDGETS, *([self._own_budget] if self._own_budget else [])}), None]
        return {
            "name": self.model.name,
            "task": self.task,
            "about": f"{self.task}, {len(self.model.classes):,} classes, {num_parameters / 1e6:.1f}M parameters, "
            f"on {next(self.model.parameters()).device}",
            "measure": self.model.measure,
            "views": ABOUT if self._guided else {},
            "budgets": budgets if self._guided else [],
            "budget": self._own_budget,
        }

    def compute(
        self, file: bytes, *, token_budget: int | Literal["own"] | None = "own", score_threshold: float = 0.5
    ) -> dict[str, Any]:
        """Predict on an image's file, and explain where the model can. For JSON.

        ``token_budget`` bounds the keys of an attention: ``own`` for the model's own number, None for the paper's
        numbers. ``score_threshold`` is for detection.

        Raises:
            ImageError: It is no image, damaged, or has too many pixels; found out before they are decoded.
            ValueError: The budget or the threshold is out of range.
        """
        # Half of MAX_SEEN: a JPEG is decoded at the smallest size that has at least twice of that.
        image = read_image(file, shorter_side=MAX_SEEN // 2, max_pixels=MAX_PIXELS)
        notes = [what.split("; ")[0] for what in read_oddities(io.BytesIO(file))]
        notes += [f"shrunk to {MAX_SEEN} pixels"] * (max(image.size) > MAX_SEEN)
        image.thumbnail((MAX_SEEN, MAX_SEEN), Image.Resampling.LANCZOS)
        settings = {"score_threshold": score_threshold} if "score_threshold" in self.model.settings else {}
        if self._guided:
            self._guided.set_token_budget(self._own_budget if token_budget == "own" else token_budget)
        start = perf_counter()
        prediction = self.model.predict(image, **settings)
        predicted = perf_counter()
        explanation = explain_image(self.model, image) if self._guided else None
        explained = perf_counter()

        # The page has its own legend, which is legible on a phone.
        painted = prediction.paint(image)
        result = _Result(_shrunk(image), painted and _shrunk(painted), explanation.pairs if explanation else [])
        name = secrets.token_urlsafe(8)
        self._results[name] = result
        while len(self._results) > MAX_KEPT:
            self._results.popitem(last=False)
        return {
            "id": name,
            "width": result.shown.width,
            "height": result.shown.height,
            "notes": notes,
            "summary": prediction.summary(),
            "lines": [{"name": label, "value": value} for label, value in prediction.lines()],
            "colours": self._colours(),
            "drawn": result.drawn is not None,
            "seen": f"{explanation.size[1]} × {explanation.size[0]}" if explanation else "",
            "pairs": [describe_pair(pair) for pair in result.pairs],
            "seconds": {"prediction": predicted - start, "maps": explained - predicted},
        }

    def draw(self, name: str, view: str, pair: int = 0) -> bytes:
        """An image of a result, as JPEG: ``image``, ``prediction``, or one of `VIEWS` of a pair of blocks, from 0.

        Raises:
            KeyError: There is no such result (any more), or no such view of it.
        """
        result = self._results[name]
        if view == "image":
            image = result.shown
        elif view == "prediction" and result.drawn is not None:
            image = result.drawn
        elif view in VIEWS and 0 <= pair < len(result.pairs):
            image = Image.fromarray(result.pairs[pair].draw(result.shown, view))
        else:
            raise KeyError(view)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=90, subsampling=0)
        return content.getvalue()

    def _colours(self) -> dict[str, str]:
        """Return the colours of classes, where they have some."""
        return {
            name: "#{:02x}{:02x}{:02x}".format(*colour)
            for name, colour in zip(self.model.classes, self.model.palette, strict=False)
        }


def _shrunk(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((MAX_SHOWN, MAX_SHOWN), Image.Resampling.LANCZOS)
    return small
