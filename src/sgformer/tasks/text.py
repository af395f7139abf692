"""Text files: class names, lists, tables, JSON, YAML."""

import codecs
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..engine.recipe import check_keys
from .errors import DataError

_FLOAT = re.compile(r"[-+]?\d+\.?\d*(e[-+]?\d+)?", re.ASCII)
# How CVAT's labelmap.txt begins.
_HEAD = "# label:"
# How lists of colours may begin, and forms of their lines.
_COLOUR_HEADS = (_HEAD, "class_name,class_color", "name,r,g,b")
_COLOURED = (
    re.compile(r"(?P<name>.+?): *(?P<colour>\d+, *\d+, *\d+|) *:[^:]*:[^:]*"),
    re.compile(r"(?P<colour>\d+ +\d+ +\d+)\s+(?P<name>\D.*)"),
    re.compile(r"(?P<name>.*[^\s,])(, *| +)(?P<colour>\d+[ ,]+\d+[ ,]+\d+)"),
)
# What lines of JSON, YAML and programs look like, and names do not.
_STRUCTURE = re.compile(r"([\[{]|- |---$|\w+\s*=\s*[\[({]|(names|classes|categories|id2label|label2id)\s*:)|.*[\[{(]$")
# Headings of lists, without blanks.
_HEADING = re.compile(r"(class|label|category)?names?|class(es)?|labels?|category|categories")
# What is called so belongs to no class.
_NOTHING = {"ignore", "ignored", "void", "unlabeled", "unlabelled", "nolabel", "dontcare", "unannotated"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, without the byte order mark that editors on Windows put first.

    Each line ends with a newline character, whatever ends it in the file. A file that cannot be read, or is not UTF-8,
    is a DataError that names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    # UTF-16 of plain letters is valid UTF-8 with zeros in it.
    if content.startswith(_UTF_16) or b"\x00" in content:
        raise DataError(f"{path} is UTF-16 or no text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path} is not UTF-8 (line {line}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the blanks around them; see `read_text`."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_entries(path: Path) -> list[tuple[int, str]]:
    """The lines of a list of files that are not empty, with their numbers, without the blanks around them.

    Raises:
        DataError: The file cannot be read, or a line seems to be a comment, which may name a file that is not meant.
    """
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if number := next((number for number, line in lines if line.startswith("#")), None):
        raise DataError(f"{path}, line {number} seems to be a comment; remove it, or write ./ before such a name")
    return lines


def read_names(path: Path) -> list[str]:
    """The lines of a text file of names whose numbers count, without the blanks around them; see `read_text`.

    JSON and YAML, whatever the file is called, are read as such: a list of names, or a mapping of numbers to names or
    of names to numbers, by itself or under ``names``, ``classes``, ``categories``, ``id2label`` or ``label2id``.

    DataError where there is structure that is nothing of the above, or a line before the last name is empty, or seems
    to be a comment or a heading: some tools count it, others pass it over.
    """
    if path.suffix.lower() in (".json", ".yaml", ".yml") or any(map(_STRUCTURE.match, read_lines(path))):
        return _structured_names(path)
    lines = [line.strip() for line in read_text(path).rstrip().split("\n")]
    if lines == [""]:
        return []
    for number, line in enumerate(lines, 1):
        if not line or (line.startswith("# ") and not line.startswith(_HEAD)):
            what = "seems to be a comment" if line else "is empty"
            raise DataError(f"{path}: line {number} {what}, and ids are the numbers of lines; remove or rename it")
    if _is_heading(lines):
        raise DataError(
            f"{path}: line 1 seems to be a heading, and ids are the numbers of lines; remove or rename "
            "it, or write all as `names: [a, b]`"
        )
    return lines


def read_plain_names(path: Path) -> list[str]:
    """Names as `read_names` reads them, without colours beside them, and in the order of the numbers beside them.

    DataError where the numbers are others than 0, 1, 2 and so on, or all names seem to have one.
    """
    lines = read_names(path)
    if coloured := split_labelmap(lines):
        return [name for name, _ in coloured]
    names = dict(numbers := split_numbers(lines))
    if sorted(names) == [*range(len(lines))]:
        return [names[number] for number in range(len(lines))]
    if len(names) == len(numbers) and min(names, default=2) < 2:
        raise DataError(
            f"{path}: the names have numbers, {', '.join(str(number) for number, _ in numbers[:3])} and so on, that do "
            "not count from 0; remove them, or if they belong to the names, write all as `names: [1 cup, 2 cups]`"
        )
    return lines


def _structured_names(path: Path) -> list[str]:
    """Names from JSON or YAML, in the order of their numbers from 0 on; DataError: there are none."""
    remedy = "write a list of names, or `names:` and below it `0: cat` and so on, or plain text with a name a line"
    try:
        content = read_yaml(path)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error
    if isinstance(content, dict):
        keys = ("names", "classes", "categories", "id2label", "label2id")
        content = next((content[key] for key in keys if isinstance(content.get(key), list | dict)), content)
    if isinstance(content, list):
        rows = [row if isinstance(row, dict) else {"name": row} for row in content]
        pairs = [(row.get("id", place), row.get("name")) for place, row in enumerate(rows)]
    else:
        pairs = [*content.items()] if isinstance(content, dict) else []
        if all(isinstance(value, int) for _, value in pairs):
            pairs = [(number, name) for name, number in pairs]
    names = {str(number): str(name).strip() for number, name in pairs if isinstance(name, str | int)}
    if not pairs or sorted(names) != sorted(map(str, range(len(pairs)))) or not all(names.values()):
        raise DataError(f"{path} has no names of classes with numbers from 0 on; {remedy}")
    return [names[str(number)] for number in range(len(pairs))]


def _is_heading(lines: list[str]) -> bool:
    """Whether the first line is a usual one or a number alone, or has none above names with numbers from 0 or 1 on."""
    words, *others = (re.sub(r"[\s_-]|:$", "", line).casefold() for line in lines)
    if others and (_HEADING.fullmatch(words) or (words.isdecimal() and not any(map(str.isdecimal, others)))):
        return True
    numbers = [number for number, _ in split_numbers(lines[1:])]
    counted = len(numbers) > 1 and numbers in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])
    return counted and not split_numbers(lines[:1])


def num_alike(names: Iterable[str], blank: str = r"\s") -> int:
    """Count the names that differ from others in capitals, blanks, or how accents and numbers are written, alone.

    What counts as ``blank`` is a pattern.
    """
    folded = (re.sub(blank, " ", unicodedata.normalize("NFKC", name).casefold()) for name in set(names))
    plain = (" ".join(name.split()) for name in folded)
    alike = Counter(str(float(name)) if _FLOAT.fullmatch(name) else name for name in plain)
    return sum(count for count in alike.values() if count > 1)


def enumerate_names(names: Sequence[str], counts: Sequence[float] = (), shown: Callable[[float], str] = str) -> str:
    """Say how many classes there are, and the first of their names; with their counts, of many classes the rarest."""
    told = [f"{name} {shown(count)}" for name, count in zip(names, counts, strict=True)] if len(counts) else [*names]
    if len(counts) > 20:
        order = sorted(range(len(told)), key=lambda place: counts[place])
        rest = f"the others {shown(counts[order[10]])} to {shown(counts[order[-1]])}"
        told = [told[place] for place in order[:10]] + [rest]
    elif not len(counts) and len(told) > 10:
        told = [*told[:10], "..."]
    return f"{len(names)} classes ({', '.join(told)})"


def note_mirrored(names: Iterable[str], flip: float) -> list[str]:
    """A note where images are mirrored, and names of classes differ in left and right alone; else nothing."""
    there = {name.casefold() for name in names}
    sides = (("left", "right"), ("links", "rechts"), ("gauche", "droite"), ("izquierda", "derecha"))
    pairs = [(name, name.replace(*side)) for name in sorted(there) for side in sides if side[0] in name]
    alike = [f"{one} and {other}" for one, other in pairs if flip > 0 and other in there]
    return [f"images are mirrored and keep their class, {alike[0]} too; set --data.augment.flip 0"] if alike else []


def like_names(names: Collection[str]) -> dict[str, int]:
    """The numbers of names that may be meant as one, by what they differ in."""
    alike = num_alike(names)
    marked = num_alike(names, r"\s|_|(?<=\w)-(?=\w)") - alike
    found = {"differ in capitals or blanks alone": alike, "differ in blanks, _ or - alone": marked}
    return {what: number for what, number in found.items() if number}


def odd_names(names: Sequence[str]) -> list[str]:
    """Notes on names that may be a heading, as the others begin otherwise, or what belongs to no class."""
    marked = [name.startswith("#") for name in names]
    heading = any(marked[:1]) and not all(marked)
    notes = [f"the class {names[0]!r}, perhaps a heading"] * heading
    return notes + [f"{name} is learned as a class, though it may be what belongs to none" for name in nothing(names)]


def nothing(names: Iterable[str]) -> list[str]:
    """Find the names that say what belongs to no class."""
    return [name for name in names if re.sub(r"[\W_]", "", name).casefold() in _NOTHING]


def doubtful_names(names: Sequence[str]) -> list[str]:
    """Notes on names of classes that may be meant as one, as a heading or as none."""
    return [f"{number} names of classes {what}" for what, number in like_names(names).items()] + odd_names(names)


def split_labelmap(lines: list[str]) -> list[tuple[str, str]]:
    """Names and colours of lines that are all of one form; the colours as ``red,green,blue``.

    CVAT's ``labelmap.txt`` has ``label:red,green,blue:parts:actions``, its ``label_colors.txt`` has
    ``red green blue label``; tables have ``label,red green blue``, ``label,red,green,blue`` or
    ``label red green blue``. Empty where lines are something else.
    """
    lines = lines[bool(lines) and lines[0].lower().replace(", ", ",").startswith(_COLOUR_HEADS) :]
    for form in _COLOURED:
        if lines and all(found := [form.fullmatch(line) for line in lines]):
            return [(one["name"], ",".join(re.findall(r"\d+", one["colour"]))) for one in found if one]
    return []


def split_numbers(lines: list[str]) -> list[tuple[int, str]]:
    """Numbers and names of lines such as ``0 cat``, ``0: cat``, ``0,cat`` and ``0. cat``, or ``cat: 0`` and ``cat,0``.

    Empty where a line is something else.
    """
    found = [re.fullmatch(r"(?P<id>\d+)(?:\s*[:,;]\s*|\s*[.)-]\s+|\s+)(?P<name>.+)", line) for line in lines]
    if not all(found):
        found = [re.fullmatch(r"(?P<name>.*\S)\s*[:,;=\t]\s*(?P<id>\d+)", line) for line in lines]
    return [(int(one["id"]), one["name"]) for one in found if one] if all(found) else []


def read_yaml(path: Path, *, numbers: bool = True) -> Any:
    """The content of a YAML or JSON file in which words stay words.

    YAML takes ``on``, ``no``, dates and ``010`` for other things than text; class names are often like that. Here only
    plain decimal ``numbers`` are such, if at all, all else is text as written, and keys of mappings are always text.
    DataError where the file cannot be read, is no YAML, or has a key twice.
    """
    try:
        return yaml.load(read_text(path), _Words if numbers else _Text)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path} is no YAML ({' '.join(str(error).split())})") from error


class _Words(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        del deep
        check_keys(node)
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


class _Text(_Words):
    yaml_implicit_resolvers = {}  # noqa: RUF012


_Words.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789"))
_Words.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?\Z"), list("-+0123456789")
)
_Words.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"\Z"), [""])


def read_json(path: Path) -> Any:
    """The content of a JSON file; a DataError where it is none, or a key is there twice."""
    try:
        return json.loads(read_text(path), object_pairs_hook=_each_once)
    except KeyError as error:
        raise DataError(f"{path} has the key {error} twice in one place; keep one of them") from error
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON file ({' '.join(str(error).split())}); export it again") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise KeyError(next(key for key, count in counts.items() if count > 1))
    return row
