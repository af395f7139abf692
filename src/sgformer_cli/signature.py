"""Arguments of a verb, read from the source of its function: importing it would import torch, which takes seconds.

A verb is a function of its name in ``sgformer/commands/``. Its parameters are the arguments, those after ``*`` the
options; their types come from annotations, and the help from the docstrings of the module and of the function.
"""

import argparse
import ast
import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

# The parameter that takes keys of a recipe, such as --optim.lr 1e-3; it is no argument of its own.
OVERRIDES = "overrides"


class Parameter(NamedTuple):
    """An argument of a verb."""

    name: str
    kind: str  # its annotation as text, without `None`
    default: Any
    required: bool
    positional: bool
    help: str  # from the docstring


class Signature(NamedTuple):
    """Arguments of a verb, and its help."""

    about: str  # in a sentence
    details: str  # more on it, and examples
    parameters: list[Parameter]
    takes_overrides: bool  # whether keys of a recipe are taken, too


def read(verb: str) -> Signature:
    """The signature of a verb; ImportError where the package is not installed."""
    tree = ast.parse((package() / "commands" / f"{verb}.py").read_text(encoding="utf-8"))
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.rstrip("_") == verb)
    about, _, details = (ast.get_docstring(tree) or "").partition("\n\n")
    helps = _helps(ast.get_docstring(function) or "")
    places, options = function.args.args, function.args.kwonlyargs
    defaults = [None] * (len(places) - len(function.args.defaults)) + function.args.defaults
    parameters = [
        Parameter(
            argument.arg,
            re.sub(r" \| None$", "", ast.unparse(argument.annotation) if argument.annotation else "str"),
            ast.literal_eval(default) if default else None,
            default is None,
            argument in places,
            helps.get(argument.arg, ""),
        )
        for argument, default in [
            *zip(places, defaults, strict=True),
            *zip(options, function.args.kw_defaults, strict=True),
        ]
    ]
    own = [parameter for parameter in parameters if parameter.name != OVERRIDES]
    return Signature(" ".join(about.split()), details, own, len(own) < len(parameters))


def package() -> Path:
    """The folder of the package, which is found without importing it; ImportError where it is not installed."""
    spec = importlib.util.find_spec("sgformer")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the package sgformer is not installed: pip install 'sgformer[train]'")
    return Path(spec.submodule_search_locations[0])


def declare(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
    """Add an argument to a parser."""
    name, kind, default = parameter.name, parameter.kind, parameter.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    text = parameter.help.replace("%", "%%")
    if shown not in (None, "") and not isinstance(shown, bool):
        text += f" (default: {shown})"
    settings: dict[str, Any] = {"help": text, "default": default}
    if kind == "bool":
        parser.add_argument(
            option(name), action="store_true" if default is False else argparse.BooleanOptionalAction, **settings
        )
        return
    if choices := re.search(r"Literal\[(.*?)\]", kind):
        settings["choices"] = ast.literal_eval(f"({choices[1]},)")
    if kind == "list[float]":
        settings["type"] = factors
    elif kind in ("int", "float"):
        settings |= {"type": {"int": int, "float": float}[kind], "metavar": "N"}
    elif kind.startswith(("list[", "Sequence[")):
        settings["nargs"] = "+"
    if parameter.positional:
        if not parameter.required:
            settings["nargs"] = "?"
        parser.add_argument(name, **settings)
    else:
        parser.add_argument(option(name), **settings)


def option(name: str) -> str:
    """Name of a parameter on the command line.

    Example:
        >>> option("batch_size")
        '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def factors(text: str) -> list[float]:
    """Numbers with commas between them."""
    return [float(part) for part in text.split(",")]


def _helps(docstring: str) -> dict[str, str]:
    """Read what the section ``Args`` of a docstring in Google's style says of each parameter, a line of plain text."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.split(r"^ {4}(\w+): ", section[1] if section else "", flags=re.MULTILINE)[1:]
    texts = (" ".join(text.replace("`", "").split()) for text in entries[1::2])
    return dict(zip(entries[::2], texts, strict=True))
