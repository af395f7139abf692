"""Errors about a user's data, and how such errors list names."""

from collections.abc import Iterable


class DataError(ValueError):
    """Data that cannot be learned from, with the reason and the remedy."""


class Fault(ValueError):
    """Fault of one image or annotation; who reads its file says where it is."""


def listed(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
