"""Recipes: complete YAML files, found by name, changed by dotted overrides, checked key by key."""

import copy
import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

# What a free-form dictionary in a recipe may hold. Nothing here can name a class to import.
Plain = bool | int | float | str | list[bool | int | float | str] | None
R = TypeVar("R")

FOLDER = Path(__file__).parent.parent / "recipes"


def check_keys(node: yaml.MappingNode) -> None:
    """Raise yaml.YAMLError where a key is no word, or is there twice, of which PyYAML by itself takes the last."""
    seen = set[str]()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in seen:
            told = f"the key {key.value} is there twice" if isinstance(key, yaml.ScalarNode) else "a key is no word"
            raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
        seen.add(key.value)


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are those of YAML 1.2: `1e-5` is one, `010` is ten, and `1:30` is text, unlike in PyYAML."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        check_keys(node)
        return super().construct_mapping(node, deep)

    def whole_number(self, node: yaml.ScalarNode) -> int | str:
        """Construct a whole number, or the text that only PyYAML takes for one."""
        try:
            return int(node.value.replace("_", "")) if re.fullmatch(r"[-+]?[\d_]+", node.value) else int(node.value, 0)
        except ValueError:
            return node.value

    def number(self, node: yaml.ScalarNode) -> float | str:
        """Construct a floating-point number likewise."""
        return node.value if ":" in node.value else self.construct_yaml_float(node)


class _Dumper(yaml.SafeDumper):
    """Writes text that `_Loader` would take for a number in quotes."""


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
for _kind in (_Loader, _Dumper):
    for _name, _pattern in (("int", r"[-+]?\d+$"), ("float", r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), list("-+0123456789"))


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
    """The file of a recipe given by name (``smoke``, ``detection/smoke``) or by path; else RecipeError.

    Where several tasks have the name, it is classification's; the others' go by their task: ``segmentation/smoke``.
    """
    packaged = names()
    matches = [key for key in packaged if str(name) in (key, key.split("/")[1])]
    matches = [key for key in matches if key.startswith("classification/")] or matches
    if len(matches) == 1:
        return packaged[matches[0]]
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
        f"unknown recipe {str(name)!r}{nearest(str(name), short | packaged.keys())} See them all: sgformer list recipes"
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


def parse(source: Path | Mapping[str, Any], sections: type[R], overrides: Mapping[str, Any] | None = None) -> R:
    """Read a recipe, a file or its content, into the dataclass of dataclasses that holds the sections of its task.

    ``overrides`` are dotted keys and what they become, such as ``{"trainer.max_epochs": 3}``; strings are read as YAML,
    so ``"3"`` does as well. RecipeError where a key is unknown (the nearest known one is named), a value has the wrong
    type, or an override means nothing to the recipe.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    content = copy.deepcopy(_read(source) if isinstance(source, Path) else dict(source))
    keys, renamed = _keys(sections), getattr(sections, "RENAMED", {})
    if not isinstance(source, Path) or source.name == "recipe.yaml":  # of a run, which may be an old one
        for old, new in renamed.items():
            section, _, name = old.rpartition(".")
            if (values := content.get(section, {}).pop(name, None)) is not None:
                for key, value in zip(new, values, strict=True):
                    _put(content, key, value)
    for key, value in (overrides or {}).items():
        value = _value(value, keys.get(key)) if isinstance(value, str) else value
        _put(content, key, value, whole=key in keys)
    # Of the whole tree, as the sections in it have none of their own.
    sections.__pydantic_config__ = ConfigDict(extra="forbid", coerce_numbers_to_str=True)  # pyright: ignore
    try:
        # As JSON, since strict Python would take no list for a tuple. Strict: true is no number and 1.5 no count.
        recipe = TypeAdapter(sections).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise RecipeError(_explain(error.errors(), keys, renamed)) from error
    if check := getattr(recipe, "check_given", None):
        try:
            check([key for key, value in (overrides or {}).items() if value is not None])
        except ValueError as error:
            raise RecipeError(str(error)) from error
    return recipe


def to_dict(recipe: Any) -> dict[str, Any]:
    """A recipe as plain dictionaries, lists, strings and numbers."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def to_yaml(recipe: Any) -> str:
    """A recipe as the YAML that `parse` reads back to the same recipe."""
    return yaml.dump(to_dict(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a recipe: expected a YAML file in UTF-8") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is not a recipe: expected `key: value` lines, such as `task: classification`")
    return content


def _value(text: str, kind: Any) -> Any:
    """A value from the command line, read as YAML; where only text is taken, the text itself."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text
    return text if value is not None and {kind, *typing.get_args(kind)} <= {str, str | None, type(None)} else value


def _put(content: dict[str, Any], key: str, value: Any, *, whole: bool = True) -> None:
    """Set a dotted key; of a section, which is not set as a whole, those keys that a mapping has."""
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(content.setdefault(parent, {}), dict):
            return  # which is refused as what it is
        content = content[parent]
    old = content.get(last)
    if not whole and isinstance(old, dict) and isinstance(value, dict):
        value = {**old, **value}
    content[last] = value


def _keys(sections: type, prefix: str = "") -> dict[str, Any]:
    """The dotted keys of a recipe and their types."""
    keys, kinds = dict[str, Any](), typing.get_type_hints(sections)
    for field in dataclasses.fields(sections):
        kind, name = kinds[field.name], f"{prefix}{field.name}"
        keys |= _keys(typing.cast(type, kind), f"{name}.") if dataclasses.is_dataclass(kind) else {name: kind}
    return keys


def _explain(errors: list[Any], keys: Mapping[str, Any], renamed: Mapping[str, tuple[str, ...]]) -> str:
    """Say in one line what is wrong with a recipe: the first error of pydantic, unknown keys before others."""
    errors.sort(key=lambda error: error["type"] != "unexpected_keyword_argument")
    first = errors[0]
    key, value = ".".join(map(str, first["loc"])), first["input"]
    match first["type"]:
        case "unexpected_keyword_argument" if key in renamed:
            return f"the recipe key {key} is now {' and '.join(renamed[key])}"
        case "unexpected_keyword_argument":
            return f"unknown recipe key {key!r}{nearest(key, keys)} See them all: sgformer train RECIPE --print-config"
        case "dataclass_type":
            example = next(name for name in keys if name.startswith(f"{key}."))
            return f"{key} is a section of a recipe: it holds keys, such as {example}, and cannot be {value!r}"
        case "value_error":
            return str(first["ctx"]["error"])
    # Of a key that takes several types there is an error for each, behind the key.
    key = next((name for name in keys if f"{key}.".startswith(f"{name}.")), key)
    wanted = dict.fromkeys(e["msg"] for e in errors if f"{'.'.join(map(str, e['loc']))}.".startswith(f"{key}."))
    return f"recipe key {key!r}: {' or '.join(wanted)}, received {value!r}"
