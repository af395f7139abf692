"""Significance maps of a model, and visualizations of them."""

from .explanation import Explanation, Pair, explain_image
from .page import write_page
from .render import Cell, combine, contact_sheet, overlay, significance_sheet
from .significance import Spent, significance_maps, spending_maps
from .spending import keys_by_region, keys_image, spending_image

__all__ = [
    "Cell",
    "Explanation",
    "Pair",
    "Spent",
    "combine",
    "contact_sheet",
    "explain_image",
    "keys_by_region",
    "keys_image",
    "overlay",
    "significance_maps",
    "significance_sheet",
    "spending_image",
    "spending_maps",
    "write_page",
]
