"""Arguments of ``sgformer serve``."""

import argparse

EXAMPLES = """The page needs no network, and asks nothing of any other machine. Uploads stay
in memory.

examples:
  sgformer serve sgformer_t --open
  sgformer serve runs/detection_digit_scenes --port 8080
  sgformer serve best.safetensors --host 0.0.0.0    # for whoever reaches this
                                                    # machine; :: for IPv6, too
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("weights", help="a run folder (its best weights) or a weights file")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: 127.0.0.1, reached from this machine only)",
    )
    parser.add_argument(
        "--port", type=int, default=7300, help="to listen at; 0: any that is free (default: 7300)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; default: a GPU where there is one")
    parser.add_argument("--open", action="store_true", help="also open the page in the browser")
