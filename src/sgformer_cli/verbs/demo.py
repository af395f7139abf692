"""Arguments of ``sgformer demo``."""

import argparse

TAKES_OVERRIDES = True
EXAMPLES = """Trains the recipe digit_scenes; any of its keys can be changed:
--SECTION.KEY VALUE.

examples:
  sgformer demo
  sgformer demo --out trials --trainer.max_epochs 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes, overrides aside."""
    parser.add_argument("--out", default="runs", metavar="FOLDER", help="where the run goes (default: runs)")
