"""What the site needs beyond mkdocs: pages from outside `docs/`, and docstrings whose example is code."""

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

# Pages of the repository that the site shows too: file in the repository, page of the site.
FROM_OUTSIDE = {
    "DESIGN.md": "DESIGN.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "findings/README.md": "FINDINGS.md",
    "src/sgformer/weights/README.md": "MODEL_CARD.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside."""
    for source, page in FROM_OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links, which are right in the repository, to where the same page is in the site."""
    sources = {page: source for source, page in FROM_OUTSIDE.items()}
    name = page.file.src_uri
    folder = posixpath.dirname(sources.get(name, f"docs/{name}"))

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target not in FROM_OUTSIDE and not target.startswith("docs/"):
            return match[0]
        target = FROM_OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(name) or '.')}{match[2]})"

    return re.sub(r"\]\((?![a-z]+:)([^)#\s]+)((?:#[^)]*)?)\)", turned, markdown)


class CodeExamples(griffe.Extension):
    """Reads the section `Example:` as code, as griffe does with `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames the section."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
