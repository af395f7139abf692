"""The weights that ship, in other people's runtimes: `python benchmarks/runtimes.py IMAGES [NAME...]`.

IMAGES is a folder of photographs, of which a hundred are taken. Each runtime runs in a process of its own, by the
interpreter that `--python` names for it, since some want packages that others cannot live with; one that lacks its
package is left out, and so is one whose results are there already. Every file is compared with the model itself, on the
same images at two sizes, with the ranking of tokens held as in the check of `sgformer export`. One row is the model
itself in float64: what its own rounding in float32 does. Of each image whose surest class is another, the results hold
how far apart its two best logits are, how many tokens each pair of blocks ranks otherwise, and whether the class is the
same with the ranking held. Results go to
`benchmarks/results/runtimes/<name>.json`, and the table in docs/export.md is written from them. On a machine that does
other work, `--files FOLDER` keeps the files, and `--time NAME` takes the seconds of one runtime when it is quiet.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export_speed import machine
from pages import markdown
from PIL import Image

import sgformer
from sgformer.backbone.ranking import hold_significance, record_significance
from sgformer.commands.export import export
from sgformer.exporters import check, parts
from sgformer.exporters.formats import open_exported
from sgformer.ops import rank_tokens
from sgformer.tasks.folders import find_images
from sgformer.tasks.images import read_image

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "src" / "sgformer" / "weights" / "sgformer_t.safetensors"
RESULTS = ROOT / "benchmarks" / "results" / "runtimes"
PAGE = ROOT / "docs" / "export.md"
START, END = "<!-- written by benchmarks/runtimes.py -->\n", "<!-- until here -->\n"
FLOAT64 = "the model in float64"
NUM_IMAGES = 100
SIZES = ((224, 224), (160, 208))
Run = Callable[[np.ndarray], Sequence[np.ndarray]]


def ours(path: Path, size: tuple[int, int]) -> Run:
    """As this package opens its files."""
    run = open_exported(path, threads=1)
    return lambda x: [y.numpy() for y in run(torch.from_numpy(x))]


def in_float64(path: Path, size: tuple[int, int]) -> Run:
    """The model itself in float64, as if it were a file."""
    module = parts.part_of(sgformer.load(WEIGHTS)).module.double()
    return lambda x: [y.float().numpy() for y in module(torch.from_numpy(x).double())]


def openvino_by_default(path: Path, size: tuple[int, int]) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
    return lambda x: [array.copy() for array in compiled(x).values()]


def mnn(path: Path, size: tuple[int, int]) -> Run:
    import _tools  # what `mnnconvert` calls, which would install packages
    import MNN
    import onnx

    graph = onnx.load(str(path)).graph
    inputs, outputs = [put.name for put in graph.input], [put.name for put in graph.output]
    converted = path.with_suffix(".mnn")
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted)])
    setting = {"backend": "CPU", "numThread": 1, "precision": "high"}
    manager = MNN.nn.create_runtime_manager((setting,))
    module = MNN.nn.load_module_from_file(str(converted), inputs, outputs, runtime_manager=manager)

    def run(x: np.ndarray) -> Sequence[np.ndarray]:
        put = MNN.expr.const(np.ascontiguousarray(x), list(x.shape), MNN.expr.NCHW)
        return [MNN.expr.convert(y, MNN.expr.NCHW).read().copy() for y in module.forward([put])]

    return run


def tract(path: Path, size: tuple[int, int]) -> Run:
    import tract

    model = tract.onnx().load(path)
    model.set_input_fact(0, f"1,3,{size[0]},{size[1]},f32")
    runnable = model.into_model().into_runnable()
    return lambda x: [y.to_numpy() for y in runnable.run([x])]


def iree(path: Path, size: tuple[int, int]) -> Run:
    """Compiled for this processor, from a file of one size, for one image at a time."""
    import iree.compiler
    import iree.runtime
    import onnx
    from iree.compiler.tools.import_onnx import __main__ as importer

    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    alone, imported = path.with_suffix(".one.onnx"), path.with_suffix(".mlir")
    onnx.save(model, str(alone))
    importer.main(importer.parse_arguments([str(alone), "-o", str(imported)]))
    compiled = iree.compiler.compile_file(
        str(imported), input_type="onnx", target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=host"]
    )
    runs = iree.runtime.load_vm_flatbuffer(compiled, driver="local-sync")
    name = onnx.load(str(path), load_external_data=False).graph.name
    return lambda x: [y.to_host() for y in runs[name](x)]


@dataclass(frozen=True)
class Runtime:
    """What runs a file.

    Attributes:
        package: as pip installs it.
        suffix: of the file that it reads.
        open: opens a file for a size.
        open_file: whether one file takes every size; otherwise there is one a size.
        int8: whether its matrix products are in 8 bits.
        float32: whether it computes in float32, so that only the ranking may set it apart from the model.
    """

    package: str
    suffix: str
    open: Callable[[Path, tuple[int, int]], Run] = ours
    open_file: bool = True
    int8: bool = False
    float32: bool = True


RUNTIMES = {
    FLOAT64: Runtime("torch", "", in_float64),
    "PyTorch": Runtime("torch", ".pt2"),
    "ONNX Runtime": Runtime("onnxruntime", ".onnx"),
    "ONNX Runtime, int8": Runtime("onnxruntime", ".onnx", int8=True, float32=False),
    "OpenVINO": Runtime("openvino", ".xml"),
    "OpenVINO, its defaults": Runtime("openvino", ".xml", openvino_by_default, float32=False),
    "MNN": Runtime("MNN", ".onnx", mnn),
    "tract": Runtime("tract", ".onnx", tract),
    "LiteRT": Runtime("ai-edge-litert", ".tflite", open_file=False),
    "IREE": Runtime("iree-base-runtime", ".onnx", iree, open_file=False),
    "ExecuTorch with XNNPACK": Runtime("executorch", ".pte", open_file=False),
}


def name_of_file(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "_")


def make(runtime: Runtime, size: tuple[int, int], folder: Path) -> Path:
    """The exported file for a size, made where it is not there."""
    if not runtime.suffix:
        return folder
    fixed = None if runtime.open_file else size
    kind = f"{'x'.join(map(str, fixed)) if fixed else 'open'}{'_int8' if runtime.int8 else ''}"
    path = folder / f"{kind}{runtime.suffix}"
    if not path.exists():
        export(WEIGHTS, path, size=fixed, int8=runtime.int8)
    return path


def measure(name: str, images: list[Path], folder: Path) -> dict[str, Any]:
    """What a runtime answers to the images, beside the model's own answers."""
    torch.set_num_threads(1)
    runtime, model = RUNTIMES[name], sgformer.load(WEIGHTS)
    part = parts.part_of(model)
    how = model.preprocessing
    mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (how.mean, how.std))
    found: dict[str, Any] = {
        "package": f"{runtime.package} {importlib.metadata.version(runtime.package)}",
        "torch": torch.__version__.split("+")[0],
        "file": runtime.suffix,
        "machine": machine(),
        "python": platform.python_version(),
        "threads": 1,
        "date": datetime.date.today().isoformat(),
        "sizes": {},
    }
    for size in SIZES:
        key = f"{size[0]}x{size[1]}"
        try:
            run = runtime.open(make(runtime, size, folder), size)
            found["sizes"][key] = compare(run, part, images, size, mean, std)
            if name != FLOAT64:  # the same for all
                del found["sizes"][key]["gaps"]
        except Exception as error:
            traceback.print_exc()
            said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:150]}"
            found["sizes"][key] = {"fails": said.replace(str(folder), "").replace(str(ROOT), "")}
        print(name, key, found["sizes"][key], flush=True)
    return found


@torch.inference_mode()
def compare(run: Run, part: parts.Part, images: list[Path], size: tuple[int, int], mean: Any, std: Any) -> dict:
    """The largest differences with the ranking held, where the surest class is another, and seconds an image."""
    held = absolute = of_maps = 0.0
    same_held, gaps, moves, others, seconds, eager = 0, [], [], [], [], []
    for path in images:
        image = read_image(path).resize(size[::-1], Image.Resampling.BICUBIC)
        x = ((np.asarray(image, np.float32) / 255).transpose(2, 0, 1) - mean) / std
        x = np.ascontiguousarray(x[None], np.float32)
        start = time.perf_counter()
        given = [torch.from_numpy(np.array(y)) for y in run(x)]
        seconds.append(time.perf_counter() - start)
        tensor = torch.from_numpy(x)
        with record_significance(part.backbone) as measured:
            start = time.perf_counter()
            (logits,) = part.reference(tensor)
            eager.append(time.perf_counter() - start)
        with hold_significance(part.backbone, given[1:]):
            (logits_held,) = part.reference(tensor)
        best, second = logits[0].topk(2).values.tolist()
        gaps.append(best - second)
        moves.append(float((given[0] - logits).abs().max()))
        same_held += int(given[0].argmax() == logits_held.argmax())
        if given[0].argmax() != logits.argmax():
            pairs = [(rank_tokens(ours), rank_tokens(theirs)) for ours, theirs in zip(measured, given[1:], strict=True)]
            others.append(
                {
                    "image": path.name,
                    "gap": round(gaps[-1], 4),
                    "moved": round(moves[-1], 4),
                    "ranked_otherwise": [int((ours != theirs).sum()) for ours, theirs in pairs],
                    "same_held": bool(given[0].argmax() == logits_held.argmax()),
                }
            )
        for output, (difference, largest) in check.differences(part, tensor, given).items():
            if output == "logits":
                absolute, held = np.maximum(absolute, difference), np.maximum(held, difference / max(1.0, largest))
            else:
                of_maps = np.maximum(of_maps, difference / max(1.0, largest))  # NaN stays NaN
    return {
        "images": len(images),
        "same_top1": len(images) - len(others),
        "same_top1_held": same_held,
        "others": others,
        "moved": {"median": round(float(np.median(moves)), 4), "most": round(max(moves), 4)},
        "gaps": [round(gap, 4) for gap in gaps],
        "held": float(f"{held:.1e}"),
        "held_absolute": float(f"{absolute:.1e}"),
        "significance": float(f"{of_maps:.1e}"),
        "seconds": round(float(np.median(seconds)), 4),
        "eager_seconds": round(float(np.median(eager)), 4),
    }


def seconds(name: str, folder: Path) -> float:
    """Seconds an image at the first size: the median of thirty runs."""
    run, times = RUNTIMES[name].open(make(RUNTIMES[name], SIZES[0], folder), SIZES[0]), []
    x = np.random.default_rng(0).standard_normal((1, 3, *SIZES[0]), np.float32)
    for _ in range(33):
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    return round(float(np.median(times[3:])), 4)


def is_sure(gap: float, size: str, results: dict[str, dict]) -> bool:
    """Whether an image's two best logits are further apart than the model's own rounding in float32 can move them."""
    return gap > 2 * results[FLOAT64]["sizes"][size]["moved"]["most"]


def is_whole(found: dict | None) -> bool:
    """Whether a runtime was asked at every size, and its results tell which images get another class."""
    rows = [] if found is None else [found["sizes"].get(f"{height}x{width}", {}) for height, width in SIZES]
    return bool(rows) and all("fails" in row or "others" in row for row in rows)


def table(results: dict[str, dict]) -> str:
    """The table of the page, from what was run.

    Raises:
        SystemExit: A runtime was not asked at every size, its results do not tell which images get another class, or
            in float32 it names another class where the ranking is held, or the model is sure.
    """
    if missing := [name for name in RUNTIMES if not is_whole(results.get(name))]:
        raise SystemExit(f"no table: {', '.join(missing)} must be run (anew, where a result without records is there)")
    heads = ["runtime", "file", *(f"held, {h}x{w} | same class | of the sure" for h, w in SIZES), "seconds, 224x224"]
    lines = []
    for name, found in results.items():
        version = found["package"].rsplit(" ", 1)[1]
        kind = "open" if RUNTIMES[name].open_file else "a file a size"
        cells = [f"{name} {version}", f"`{found['file']}`, {kind}" if found["file"] else ""]
        for height, width in SIZES:
            size = f"{height}x{width}"
            row = found["sizes"][size]
            if "fails" in row:
                cells += [f"**fails**: {row['fails'].replace('|', '')}", "", ""]
            else:
                same = f"{row['same_top1']} of {row['images']}"
                sure = sum(is_sure(gap, size, results) for gap in results[FLOAT64]["sizes"][size]["gaps"])
                missed = sum(is_sure(other["gap"], size, results) for other in row["others"])
                if RUNTIMES[name].float32 and (missed or row["same_top1_held"] < row["images"]):
                    raise SystemExit(f"{name} names another class at {size}: {row['others']}")
                if RUNTIMES[name].float32 and row["others"]:
                    same += f" ({', '.join(str(other['gap']) for other in row['others'])})"
                cells += [f"{row['held']:.1e}", same, f"{sure - missed} of {sure}"]
        first = next(iter(found["sizes"].values()))
        cells.append(
            f"{found['alone']:.4f}" if "alone" in found else f"({first['seconds']:.4f})" if "seconds" in first else ""
        )
        lines.append(cells)
    return markdown(" | ".join(heads).split(" | "), lines)


def write_page() -> None:
    paths = {name: RESULTS / f"{name_of_file(name)}.json" for name in RUNTIMES}
    results = {name: json.loads(p.read_text(encoding="utf-8")) for name, p in paths.items() if p.exists()}
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    assert rest, f"{PAGE} has no place for the table"
    PAGE.write_text(head + START + "\n" + table(results) + "\n" + END + rest.partition(END)[2], encoding="utf-8")


def main(values: argparse.Namespace) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    paths = find_images(Path(values.images))
    paths = paths[:: max(1, len(paths) // NUM_IMAGES)][:NUM_IMAGES]
    if values.time:
        path = RESULTS / f"{name_of_file(values.time)}.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        found["alone"] = seconds(values.time, Path(values.files))
        print(values.time, found["alone"], flush=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    if values.one:
        found = measure(values.one, paths, Path(values.files))
        out = RESULTS / f"{name_of_file(values.one)}.json"
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    pythons = dict(pair.split("=", 1) for pair in values.python)
    with tempfile.TemporaryDirectory() as folder:
        files = values.files or folder
        for name in values.names or RUNTIMES:
            path = RESULTS / f"{name_of_file(name)}.json"
            if path.exists() and is_whole(json.loads(path.read_text(encoding="utf-8"))):
                continue
            python = pythons.get(name, pythons.get(RUNTIMES[name].package, sys.executable))
            ask = f"import importlib.metadata as m; m.version({RUNTIMES[name].package!r})"
            if subprocess.run([python, "-c", ask], capture_output=True).returncode:
                print(f"{name} is left out: {python} has no {RUNTIMES[name].package}", flush=True)
                continue
            command = [python, __file__, values.images, "--one", name, "--files", files]
            done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if done.returncode:
                print(f"{name} ended with {done.returncode}", flush=True)
    write_page()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="by runtime or package")
    parser.add_argument("--files", default="", help="a folder in which exported files are kept")
    parser.add_argument("--time", choices=RUNTIMES, help="only this one's seconds, with files that were kept")
    parser.add_argument("--one", choices=RUNTIMES, help=argparse.SUPPRESS)
    main(parser.parse_args())
