"""Recipes: complete YAML files, found by name, changed by dotted overrides, checked key by key."""

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

# What a free-form dictionary in a recipe may hold. Nothing here can name a class to import.
Plain = bool | int | float | str | list[bool | int | float | str] | None
R = TypeVar("R")

FOLDER = Path(__file__).parent.parent / "recipes"


class RecipeError(ValueError):
    """A recipe that does not exist or does not hold together, with the remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known names that look most like the unknown one, as the end of an error's sentence.

    Example:
        >>> nearest("imagenete", ["imagenette160", "smoke"])
        "; did you mean 'imagenette160'?"
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "."


def names() -> dict[str, Path]:
    """The packaged recipes, as ``task/name`` to file."""
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(FOLDER.glob("*/*.yaml"))}


def find(name: str | Path) -> Path:
    """The file of a recipe given by name (``smoke``, ``detection/smoke``) or by path.

    Where several tasks have the name, it is classification's; the others' go by their task: ``segmentation/smoke``.

    Raises:
        RecipeError: There is none, or the name belongs to several other tasks.
    """
    packaged = names()
    matches = [key for key in packaged if str(name) in (key, key.split("/")[1])]
    matches = [key for key in matches if key.startswith("classification/")] or matches
    if len(matches) == 1:
        return packaged[matches[0]]
    if (first := f"classification/{name}") in matches:
        return packaged[first]
    if matches:
        raise RecipeError(f"recipe {name} exists for several tasks; write one of {', '.join(matches)}")
    path = Path(name)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    short = {key.split("/")[1] for key in packaged}
    # Once there was a file for each variant.
    variant = re.search(r"sgformer_[tsmb](?=_)", str(name))
    if variant and (now := str(name).replace(f"{variant[0]}_", "")) in short | packaged.keys():
        raise RecipeError(f"the recipe {name} is now {now} --model.name {variant[0]}")
    raise RecipeError(
        f"unknown recipe {str(name)!r}{nearest(str(name), short | packaged.keys())} "
        "See them all: sgformer list recipes"
    )


def run_name(path: Path) -> str:
    """Name the runs of a recipe: like its file, or like the run that the file was taken from."""
    return path.parent.name if path.name == "recipe.yaml" else path.stem


def task_of(path: Path) -> str:
    """The task that a recipe file is for."""
    task = _read(path).get("task")
    if not isinstance(task, str):
        raise RecipeError(f"{path} does not say its task; add a line such as `task: classification`")
    return task


def parse(
    source: Path | Mapping[str, Any], sections: type[R], overrides: Mapping[str, Any] | None = None
) -> R:
    """Read a recipe into the sections of its task.

    Args:
        source: Its file, or its content.
        sections: A dataclass of dataclasses: the task's sections, their keys, types and defaults.
        overrides: Dotted keys and what they become, such as ``{"trainer.max_epochs": 3}``; strings are read
            as YAML, so ``"3"`` does as well.

    Raises:
        RecipeError: A key is unknown (the nearest known one is named) or a value has the wrong type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    content = _read(source) if isinstance(source, Path) else dict(source)
    overrides = dict(overrides or {})
    for key in [*_unknown(content, sections), *_unknown(_nest(overrides), sections)]:
        raise RecipeError(
            f"unknown recipe key {key!r}{nearest(key, _keys(sections))} "
            "See them all: sgformer train RECIPE --print_config"
        )

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(sections, None)
    arguments = [f"--config={yaml.safe_dump(content)}"]
    for key, value in overrides.items():
        arguments.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    try:
        parsed = parser.instantiate(parser.parse_args(arguments))
    except ArgumentError as error:
        raise RecipeError(_explain(str(error), sections)) from error
    return sections(
        **{field.name: parsed[field.name] for field in dataclasses.fields(typing.cast(Any, sections))}
    )


def to_dict(recipe: Any) -> dict[str, Any]:
    """A recipe as plain dictionaries, lists, strings and numbers."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def to_yaml(recipe: Any) -> str:
    """A recipe as the YAML that `parse` reads back to the same recipe."""
    return yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a recipe: expected a YAML file in UTF-8") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path} is not a recipe: expected `key: value` lines, such as `task: classification`"
        )
    return content


def _nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, last = key.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = value
    return nested


def _keys(sections: type, prefix: str = "") -> Iterator[str]:
    for name, kind in typing.get_type_hints(sections).items():
        if dataclasses.is_dataclass(kind):
            yield from _keys(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            yield prefix + name


def _unknown(content: Mapping[str, Any], sections: type, prefix: str = "") -> Iterator[str]:
    kinds = typing.get_type_hints(sections)
    for name, value in content.items():
        if name not in kinds:
            yield f"{prefix}{name}"
        elif dataclasses.is_dataclass(kinds[name]):
            kind = typing.cast(type, kinds[name])
            if not isinstance(value, Mapping):
                raise RecipeError(
                    f"{prefix}{name} is a section of a recipe: it holds keys, such as "
                    f"{next(_keys(kind, f'{prefix}{name}.'))}, and cannot be {value!r}"
                )
            yield from _unknown(value, kind, f"{prefix}{name}.")


def _explain(message: str, sections: type) -> str:
    """Reduce jsonargparse's lines to one: the key, what it takes, what it got."""
    text = " ".join(message.split())
    key = re.search(r'Parser key "([\w.]+)"', text)
    value = re.search(r"(?:Got|Given) value: (.*?)(?: Given value type|$)", text)
    if not key or key[1] not in _keys(sections):
        return f"this recipe does not hold together: {text}"
    kind: Any = sections
    for name in key[1].split("."):
        kind = typing.get_type_hints(kind)[name]
    return f"recipe key {key[1]!r} takes {_words(kind)}, received {value[1] if value else 'something else'}"


def _words(kind: Any) -> str:
    """A type as people would say it.

    Example:
        >>> _words(typing.Literal["auto", "cpu"] | None), _words(dict[str, int])
        ('auto or cpu or null', 'dict[str, int]')
    """
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(map(_words, typing.get_args(kind)))
    return "null" if kind is type(None) else kind.__name__ if type(kind) is type else str(kind)
