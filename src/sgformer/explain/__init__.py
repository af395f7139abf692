"""See where a model looks: significance maps and pictures of them, for any model that has such maps."""

from .render import Cell, combine, contact_sheet, overlay
from .significance import significance_maps

__all__ = ["Cell", "combine", "contact_sheet", "overlay", "significance_maps"]
