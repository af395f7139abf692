"""The page to try a model, as a server sends it and as a folder for any static host."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ..explanations.page import read_script

MAX_BYTES = 20 * 2**20  # of an image's file
# ONNX Runtime for browsers, from npm; its files lie beside the page.
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
# The page may load nothing but what lies beside it.
_STATIC_HEAD = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; img-src 'self' blob: data:; connect-src 'self'\">\n"
    f'<script src="{RUNTIME_FILES[0]}"></script>'
)


def page(title: str, facts: dict[str, Any], *, static: bool = False) -> str:
    """The page as HTML, with the facts that it must know of the model; if static, that lies beside it."""
    here = Path(__file__)
    backend = here.with_name("web_onnx.js" if static else "web_server.js").read_text(encoding="utf-8")
    environment = Environment(autoescape=True)
    environment.policies["json.dumps_kwargs"] = {}  # the first view is the one that is shown, not the first by letter
    template = environment.from_string(here.with_name("web.html").read_text(encoding="utf-8"))
    head = _STATIC_HEAD if static else ""
    return template.render(name=title, facts=facts, head=head, maps=read_script(), backend=backend)


def write_folder(folder: Path, about: dict[str, Any]) -> None:
    """Write the page beside a classifier that is there as `model.onnx`, and says ``about`` itself."""
    facts = {
        "task": about["task"],
        "about": f"{about['task']}, {len(about['names']):,} classes, in this browser",
        "measure": "probability",
        "views": {},
        "budgets": [],
        "budget": None,
        "max_bytes": MAX_BYTES,
        "names": about["names"],
        "preprocessing": about["preprocessing"],
    }
    (folder / "index.html").write_text(page(about["model"]["name"], facts, static=True), encoding="utf-8")


def fetch_runtime(folder: Path) -> None:
    """Get ONNX Runtime for browsers from npm, unless its files are in the folder already; else ValueError."""
    if all((folder / name).exists() for name in RUNTIME_FILES):
        return
    remedy = f"install npm, or put {', '.join(RUNTIME_FILES)} of the npm package {RUNTIME} into {folder}"
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"--web needs npm, which is not installed; {remedy}")
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([npm, "pack", RUNTIME, "--silent"], cwd=place, capture_output=True, text=True)
        archives = list(Path(place).glob("*.tgz"))
        if done.returncode or not archives:
            raise ValueError(f"npm cannot fetch {RUNTIME}; {remedy}")
        shutil.unpack_archive(archives[0], place, "gztar", filter="data")
        folder.mkdir(parents=True, exist_ok=True)
        for name in RUNTIME_FILES:
            shutil.move(Path(place, "package", "dist", name), folder / name)
