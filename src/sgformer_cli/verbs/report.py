"""Arguments of ``sgformer report``."""

import argparse

EXAMPLES = """Every run ends with one. To make it anew, from other weights say:

examples:
  sgformer report runs/imagenette160
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; default: a GPU where there is one")
