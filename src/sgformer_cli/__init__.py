"""The command line, beside the package: importing ``sgformer`` imports torch and timm, which takes seconds.

So help, mistakes in a command and the list of recipes are answered here. A verb is a function of its name in
``sgformer.commands``: `signature` reads what it takes, and it is imported once the command is understood.
"""

import argparse
import contextlib
import difflib
import errno
import importlib
import importlib.metadata
import os
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import recipes, signature

# In the order of `sgformer --help`. Where a function's name would hide one of Python's, an underscore follows.
VERBS = (
    *("train", "evaluate", "predict", "embed", "report", "explain"),
    *("export", "serve", "convert", "benchmark", "list", "demo"),
)
EXAMPLES = """examples:
  sgformer demo
  sgformer list recipes
  sgformer train imagenette160 --data.root data/imagenette160
  sgformer evaluate runs/imagenette160
  sgformer predict runs/imagenette160 holiday/*.jpg
"""
# The extra that has a module, where one is missing.
_EXTRAS = {
    module: extra
    for extra, modules in {
        "train": "lightning torchvision pydantic torchmetrics sklearn safetensors PIL yaml rich numpy matplotlib "
        "jinja2",
        "detection": "pycocotools",
        "segmentation": "segmentation_models_pytorch",
        "data": "webdataset braceexpand pandas pyarrow",
        "export": "onnx onnxruntime onnxscript",
        "serve": "starlette uvicorn",
        "video": "av",
        "demo": "skimage",
    }.items()
    for module in modules.split()
}

# What helps where the system refuses to write, by its codes.
_REMEDIES = (
    ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "; free some space or write elsewhere"),
    ((errno.EACCES, errno.EPERM, errno.EROFS), "; make it accessible, or choose another folder"),
    ((errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST), "; name another path"),
)


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with 2."""
        self.exit(2, f"sgformer: error: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line. Exits with 0 when all went well, 2 for a mistake in the command, 1 otherwise."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    debug = "--debug" in arguments
    warnings.formatwarning = _warning
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("sgformer: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(f"sgformer: error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, OSError, ImportError)) else 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_help()
        return 0
    if arguments[0] == "--version":
        print(f"sgformer {importlib.metadata.version('sgformer')}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        raise ValueError(
            f"unknown command {verb!r}; " + (f"did you mean {close[0]}?" if close else "see sgformer --help")
        )
    takes = signature.read(verb)
    parser = parser_of(verb, takes)
    rest, overrides = arguments[1:], {}
    if takes.takes_overrides:
        rest, overrides = split_overrides(rest)
    parsed, unknown = parser.parse_known_args(list(map(_with_dashes, rest)))
    if unknown:
        hint = recipes.hint(unknown) if takes.takes_overrides else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    values = vars(parsed)
    del values["debug"]
    if overrides:
        values[signature.OVERRIDES] = overrides
    if verb == "list" and values["what"] == "recipes":
        recipes.show(values["pattern"])
        return 0
    with _starting():
        does = importlib.import_module(f"sgformer.commands.{verb}")
    sgformer = importlib.import_module("sgformer")
    sgformer.fast.keep_freed_memory()
    with sgformer.fast_float32():
        code = (getattr(does, verb, None) or getattr(does, f"{verb}_"))(**values)
    return code if isinstance(code, int) else 0


def parser_of(verb: str, takes: signature.Signature) -> Parser:
    """The parser of a verb."""
    parser = Parser(
        prog=f"sgformer {verb}",
        description=textwrap.fill(takes.about, 80),
        epilog=takes.details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    for parameter in takes.parameters:
        signature.declare(parser, parameter)
    return parser


def _with_dashes(argument: str) -> str:
    """An option as it was declared: `--max-size=3` for `--max_size=3`."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name[:2] == "--" else argument


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Tell a command's own arguments from keys of a recipe, which have a dot in them, or are ``seed``.

    Example:
        >>> split_overrides(["smoke", "--data.root", "photos", "--out", "here", "--trainer.max_epochs=3"])
        (['smoke', '--out', 'here'], {'data.root': 'photos', 'trainer.max_epochs': '3'})
    """
    own: list[str] = []
    overrides: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or ("." not in key and key != "seed"):
            own.append(argument)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"{argument} needs a value, such as {argument} 3")
            value = rest.pop(0)
        if key in overrides and key.startswith("data."):  # else the last counts
            raise ValueError(f"--{key} is there twice, as {overrides[key]} and as {value}; keep one of them")
        overrides[key] = value
    return own, overrides


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Show on a terminal that the command is starting, which may take seconds."""
    shown = sys.stderr.isatty() and not int(os.environ.get("LOCAL_RANK", 0))
    print("starting ...", end="\r", file=sys.stderr, flush=True) if shown else None
    try:
        yield
    finally:
        print(" " * 12, end="\r", file=sys.stderr, flush=True) if shown else None


def _print_help() -> None:
    width = max(map(len, VERBS))
    abouts = {verb: signature.read(verb).about for verb in VERBS}
    verbs = "\n".join(f"  {verb:{width}}  {about}" for verb, about in abouts.items())
    print(
        "usage: sgformer COMMAND ...\n\n"
        "SG-Former: a vision backbone, and the tools to train it, evaluate it and use it.\n\n"
        f"commands:\n{verbs}\n\n"
        "options:\n  --help     this text; after a command, the command's own\n"
        "  --version  the version\n  --debug    show the stack trace of an error\n\n"
        f"{EXAMPLES}",
        end="",
    )


_others_warning = warnings.formatwarning


def _warning(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
    """Format a warning of this package without the place in the code; those of others as they are."""
    if any(Path(filename).is_relative_to(Path(__file__).parents[1] / name) for name in ("sgformer", "sgformer_cli")):
        return f"sgformer: {message}\n"
    return _others_warning(message, category, filename, lineno, line)


def _one_line(error: Exception) -> str:
    """Say in one line what went wrong and what to do."""
    if isinstance(error, ModuleNotFoundError) and (missing := (error.name or "").split(".")[0]) in _EXTRAS:
        return f"this command needs {missing}: pip install 'sgformer[{_EXTRAS[missing]}]'"
    text = str(error).strip()
    # A data worker's error arrives with its stack trace; the last line says what it was.
    if "DataLoader worker process" in text:
        text = text.splitlines()[-1].split(": ", 1)[-1]
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        text += next((remedy for codes, remedy in _REMEDIES if error.errno in codes), "")
    elif type(error).__name__ == "OutOfMemoryError":
        text = "the GPU is out of memory; lower --data.batch_size (and raise --trainer.accumulate)"
    text = " ".join(text.split())
    if text and isinstance(error, ValueError | OSError | ImportError):
        return text
    if isinstance(error, RuntimeError) and type(error).__module__.startswith("sgformer."):
        return text
    return f"{text or type(error).__name__} (--debug shows where)"
