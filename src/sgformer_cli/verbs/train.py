"""Arguments of ``sgformer train``."""

import argparse

TAKES_OVERRIDES = True
EXAMPLES = """Any key of the recipe can be changed: --SECTION.KEY VALUE. See them all with
--print_config.

examples:
  sgformer train smoke                           # to see that all works
  sgformer train finetune --data.root photos     # of photos/train/CLASS/*.jpg,
                                                 # judged on photos/val/CLASS/
  sgformer train imagenette160 --data.root imagenette160 \\
      --model.name resnet18 --trainer.max_epochs 10
  sgformer train --resume runs/imagenette160
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes, overrides aside."""
    parser.add_argument(
        "recipe",
        nargs="?",
        help="name of a recipe (sgformer list recipes), or path of a YAML file; not needed with --resume",
    )
    parser.add_argument("--out", default="runs", metavar="FOLDER", help="where runs go (default: runs)")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with a run that was interrupted, by its own recipe"
    )
    parser.add_argument(
        "--print_config", action="store_true", help="print the recipe with all keys, and stop"
    )


def answer(recipe: str | None = None, resume: str | None = None, **_: object) -> bool:
    """Refuse to train nothing, before anything large is imported; False where there is something to do."""
    if not (recipe or resume):
        raise ValueError("name a recipe (sgformer list recipes), or a run to go on with: --resume RUN")
    return False
