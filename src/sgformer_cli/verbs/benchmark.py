"""Arguments of ``sgformer benchmark``."""

import argparse

EXAMPLES = """Names are timm's; sgformer_s@196 is sgformer_s with a token budget of 196. The
models take turns within each combination of size, mode, dtype and compilation;
medians and quartiles are reported. Nothing is reported while models of this
package compute something else than they should.

examples:
  sgformer benchmark sgformer_s swin_tiny_patch4_window7_224 convnext_tiny \\
      --batch-size 4
  sgformer benchmark sgformer_s sgformer_s@196 swin_tiny_patch4_window7_224 \\
      --size 224 896 800x1333
  sgformer benchmark sgformer_t resnet50 --mode inference training \\
      --dtype float32 bfloat16 --compile both
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("models", nargs="+", help="timm's names, ours with @BUDGET where wanted")
    parser.add_argument(
        "--size", nargs="+", default=["224"], help="side of the image, or HEIGHTxWIDTH (default: 224)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images a step (default: 1)")
    parser.add_argument(
        "--mode",
        nargs="+",
        default=["inference"],
        choices=["inference", "training"],
        help="what is timed: a prediction, a step of training, or each (default: inference)",
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        default=["float32"],
        choices=["float32", "bfloat16", "float16"],
        help="what is computed in; several are taken one after the other (default: float32)",
    )
    parser.add_argument(
        "--compile",
        default="no",
        choices=["no", "yes", "both"],
        help="run through torch.compile (default: no)",
    )
    parser.add_argument(
        "--float32",
        default="fast",
        choices=["fast", "default", "both"],
        help="products in float32 on a CPU: by the faster library, as sgformer.fast_float32 and the other commands "
        "have it; as PyTorch has it; or each (default: fast)",
    )
    parser.add_argument(
        "--neighbours",
        type=float,
        default=0,
        metavar="N",
        help="other processes that keep a core busy meanwhile; 0.5 is one that sleeps half of the time (default: 0)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="samples of each model (default: 7)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as torch chooses)")
    parser.add_argument(
        "--time",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take times; --no-time weighs memory only",
    )
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="report the peak memory of a step",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="build and compile the models of all sizes and modes at once; quicker, but all need memory at once",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument(
        "--out",
        default="benchmarks",
        metavar="FOLDER",
        help="where the CSV, the plot and the protocol go (default: benchmarks)",
    )
    parser.add_argument(
        "--label", default="benchmark", help="first word of the files' names (default: benchmark)"
    )
