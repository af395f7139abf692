"""Nothing that is committed refers to one machine."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _text_files() -> Iterator[tuple[str, str]]:
    """Name and text of what is, or would be, committed; without git, of all that is not hidden."""
    listing = (
        subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if (ROOT / ".git").exists()
        else None
    )
    if listing and listing.returncode == 0:
        names = [name for name in listing.stdout.split("\0") if name]
    else:
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        names = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
    for name in names:
        path = ROOT / name
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if b"\0" not in content[:8192]:
            yield name, content.decode("utf-8", errors="replace")


# Folders that only one machine has, and settings that send pip elsewhere.
OF_ONE_MACHINE = re.compile(
    r"(?<![\w.~-])/(?:home|root|Users|work|mnt|scratch)/\w|(?<!\w)[A-Z]:\\+Users"
    r"|--(?:extra-)?inde[x]-url|\binde[x][-_]url\s*=|https?://\S+/(?:simple|whl)\b"
)


def test_nothing_refers_to_one_machine():
    found = [
        f"{name}, line {number}: {line.strip()[:120]}"
        for name, text in _text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if OF_ONE_MACHINE.search(line)
    ]
    assert found == []
