"""The documentation site builds without a warning, is whole, and loads nothing from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers")


def build(site: Path, *, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the site needs {', '.join(missing)}: pip install 'sgformer[docs]'")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", site],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site(site):
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if not (site / page.with_suffix(".html")).is_file()] == []


def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"(?:https?:)?//|<link[^>]*\shref=\"(?:https?:)?//|@import")
    pages = [*site.rglob("*.html"), site / "site.css"]
    assert [page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []


def test_docstrings_became_a_reference(site):
    page = (site / "reference" / "ops.html").read_text(encoding="utf-8")
    for name in ("key_mean_attention", "rank_tokens", "merge_tokens", "to_windows"):
        assert re.search(rf'<h2 id="[\w.]*\.{name}"', page), name
    assert "<p>Example:</p>" not in page
    assert "<blockquote>" not in page  # an example that was taken for text


def test_links_lead_to_pages_of_the_site(site):
    """Also those that are right in the repository and lead out of `docs/`."""
    broken = []
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'<a[^>]*\shref="([^"#?]+)[^"]*"', text):
            if page.name != "404.html" and not re.match(r"[a-z]+:|/", link):
                target = page.parent / link
                broken += [] if target.exists() else [f"{page.name}: {link}"]
    assert broken == []


def test_a_page_names_each_finding_where_a_user_meets_it():
    scripts = {path.stem for path in (ROOT / "findings").glob("*.sh")}
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "findings" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(scripts)
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert {name for name in scripts if f"[`{name}`](../findings/README.md)" not in pages} == set()


def test_a_broken_link_is_an_error(tmp_path):
    """The strict build is strict: what the first test relies on."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](nowhere.md)\n", encoding="utf-8")
    settings = re.search(r"^validation:\n(?:  .*\n)+", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert settings
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"site_name: test\n{settings[0]}", encoding="utf-8")
    done = build(tmp_path / "site", config=config)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
