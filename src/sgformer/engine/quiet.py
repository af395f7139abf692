"""Loggers of other libraries kept to errors."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Inside this context loggers of these names keep to errors; afterwards their levels are as they were.

    Example:
        >>> import logging
        >>> with errors_only("lightning"):
        ...     logging.getLogger("lightning").isEnabledFor(logging.WARNING)
        False
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
