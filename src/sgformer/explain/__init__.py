"""See where a model looks: significance maps and pictures of them, for any model that has such maps."""

from .explanation import Explanation, Pair, explain_picture
from .page import write_page
from .render import Cell, combine, contact_sheet, overlay
from .significance import Spent, significance_maps, spending_maps
from .spending import keys_by_region, keys_picture, spending_picture

__all__ = [
    "Cell",
    "Explanation",
    "Pair",
    "Spent",
    "combine",
    "contact_sheet",
    "explain_picture",
    "keys_by_region",
    "keys_picture",
    "overlay",
    "significance_maps",
    "spending_maps",
    "spending_picture",
    "write_page",
]
