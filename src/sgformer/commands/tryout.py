"""A model on trial: what the page of ``sgformer serve`` asks for, without a word of HTTP."""

import io
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from PIL import Image

from ..explain import Pair
from ..explain.explanation import VIEWS
from ..explain.page import ABOUT, describe_pair
from ..tasks.images import read_image
from ..tasks.kept import Kept
from .explain import budgeted, explain_image

MAX_PIXELS = 64_000_000  # of an upload: 200 MB when decoded
MAX_SEEN = 2048  # longer side of what is computed on: larger images are shrunk to it
MAX_SHOWN = 1280  # longer side of what is drawn
MAX_KEPT = 8  # results whose maps can still be drawn
# What the slider of the token budget stops at; the last stop, without a budget, is added.
BUDGETS = (4, 8, 16, 32, 49, 64, 98, 147, 196, 392, 784)

# What a task's predictions say, the first most important: what the number is, and (name, number) for each line.
_LINES: dict[str, tuple[str, Callable[[Any], Iterable[tuple[str, float]]]]] = {
    "classification": ("probability", lambda prediction: prediction.top),
    "detection": ("score", lambda found: zip(found.labels, found.scores.tolist(), strict=True)),
    "segmentation": ("share of the image", lambda map_: map_.shares.items()),
}


@dataclass(frozen=True, eq=False)
class _Result:
    """Result kept for an image: enough to draw its maps."""

    shown: Image.Image
    drawn: Image.Image | None
    pairs: list[Pair]


class Tryout:
    """Computes on one image after another, and draws what came out. Not for several threads at once.

    Args:
        model: What `sgformer.load` gives.
    """

    def __init__(self, model: Kept) -> None:
        self.model, self.task = model, model.task
        self._results: OrderedDict[str, _Result] = OrderedDict()
        self._budgeted = budgeted(model)
        self._explains = any(hasattr(module, "forward_spending") for module in model.modules())
        self._own_budget = self._budgeted.token_budget if self._budgeted is not None else None

    def facts(self) -> dict[str, Any]:
        """Return the facts about the model that the page needs."""
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        budgets = [*sorted({*BUDGETS, *([self._own_budget] if self._own_budget else [])}), None]
        return {
            "name": self.model.name,
            "task": self.task,
            "about": f"{self.task}, {len(self.model.classes):,} classes, {num_parameters / 1e6:.1f}M parameters, "
            f"on {next(self.model.parameters()).device}",
            "measure": _LINES[self.task][0],
            "views": ABOUT if self._explains else {},
            "budgets": budgets if self._budgeted is not None else [],
            "budget": self._own_budget,
        }

    def compute(
        self, file: bytes, *, token_budget: int | Literal["own"] | None = "own", score_threshold: float = 0.5
    ) -> dict[str, Any]:
        """Predict, and explain where the model can. For JSON.

        Args:
            file: Of an image.
            token_budget: The most keys of an attention, ``own`` for the model's own number, None for the paper's
                numbers; a model without budgets ignores it.
            score_threshold: The least score of what is shown, in detection.

        Raises:
            ImageError: It is no image, damaged, or has too many pixels; found out before they are decoded.
            ValueError: The budget or the threshold is out of range.
        """
        # Half of MAX_SEEN: a JPEG is decoded at the smallest size that has at least twice of that.
        image = read_image(file, shorter_side=MAX_SEEN // 2, max_pixels=MAX_PIXELS)
        image.thumbnail((MAX_SEEN, MAX_SEEN), Image.Resampling.LANCZOS)
        settings = {"classification": {"top_k": 5}, "detection": {"score_threshold": score_threshold}}
        if self._budgeted is not None:
            self._budgeted.set_token_budget(self._own_budget if token_budget == "own" else token_budget)
        start = perf_counter()
        prediction = self.model.predict(image, **settings.get(self.task, {}))
        predicted = perf_counter()
        explanation = explain_image(self.model, image) if self._explains else None
        explained = perf_counter()

        result = _Result(
            _shrunk(image), self._draw_prediction(prediction, image), explanation.pairs if explanation else []
        )
        name = secrets.token_urlsafe(8)
        self._results[name] = result
        while len(self._results) > MAX_KEPT:
            self._results.popitem(last=False)
        lines = _LINES[self.task][1](prediction)
        return {
            "id": name,
            "width": result.shown.width,
            "height": result.shown.height,
            "summary": prediction.summary(),
            "lines": [{"name": label, "value": value} for label, value in lines],
            "colours": self._colours(),
            "drawn": result.drawn is not None,
            "seen": f"{explanation.size[1]} × {explanation.size[0]}" if explanation else "",
            "pairs": [describe_pair(pair) for pair in result.pairs],
            "seconds": {"prediction": predicted - start, "maps": explained - predicted},
        }

    def draw(self, name: str, view: str, pair: int = 0) -> bytes:
        """An image of a result, as JPEG.

        Args:
            name: The result's ``id``.
            view: ``image``, ``prediction`` or one of `VIEWS`.
            pair: Which pair of blocks, from 0.

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

    def _draw_prediction(self, prediction: Any, image: Image.Image) -> Image.Image | None:
        if self.task == "classification":  # names are not in a place
            return None
        # The page has its own legend, which is legible on a phone.
        draw = prediction.paint if self.task == "segmentation" else prediction.draw
        return _shrunk(draw(image))

    def _colours(self) -> dict[str, str]:
        """Return the colours of classes, where they have some."""
        palette: Any = getattr(self.model, "palette", ())
        return {
            name: "#{:02x}{:02x}{:02x}".format(*colour)
            for name, colour in zip(self.model.classes, palette, strict=False)
        }


def _shrunk(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((MAX_SHOWN, MAX_SHOWN), Image.Resampling.LANCZOS)
    return small
