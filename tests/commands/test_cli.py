"""The command line from end to end, in this process: what it prints, leaves behind and returns."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

import sgformer  # noqa: F401
from class_folders import make_class_folders
from sgformer import tasks
from sgformer.commands import predict as predict_command
from sgformer.commands.predict import find
from sgformer.engine import recipe, weights
from sgformer.ops.native import library
from sgformer_cli import run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_class_folders(tmp_path_factory.mktemp("data") / "colours")


TINY = ["--data.image_size=32", "--data.batch_size=8", "--optim.lr=3e-3", "--model.name=sgformer_test"]


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A run on colours, which anything can learn."""
    out = tmp_path_factory.mktemp("runs")
    options = ["--model.weights=null", "--trainer.max_epochs=6", "--data.workers=0", "--data.augment.rand_augment=null"]
    options += ["--optim.layer_decay=null", "--trainer.ema_decay=0.8", "--data.augment.color_jitter=0"]
    assert run(["train", "finetune", f"--data.root={root}", f"--out={out}", *TINY, *options]) == 0
    return out / "finetune"


def error_of(capsys, *arguments, code=2):
    """The one line that a command ends with, when it must fail."""
    capsys.readouterr()
    try:
        found = run(list(map(str, arguments)))
    except SystemExit as stop:  # argparse exits by itself
        found = stop.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("sgformer: error: ")
    assert found == code
    return lines[0]


def test_a_run_leaves_all_it_promises(trained, root):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *("recipe.yaml", "environment.json", "metrics.csv"),
        *("best.safetensors", "last.safetensors", "last.ckpt"),
        *("report.html", "significance", "tensorboard"),
    }
    assert len(list((trained / "significance").glob("epoch-*.png"))) == 6
    assert "How significance evolved" in (trained / "report.html").read_text("utf-8")
    assert list((trained / "tensorboard").glob("events*"))
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == list("123456")
    best = max(rows, key=lambda row: float(row["val_top1"]))
    metadata = weights.read_metadata(trained)
    assert metadata["metrics"]["epoch"] == int(best["epoch"])
    assert metadata["recipe"]["data"]["root"] is None  # weights are passed on; where the data lay is not
    assert float(best["val_top1"]) > 0.6  # of three colours
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    parsed = recipe.parse(recipe.find(trained), tasks.get("classification").Recipe)
    assert parsed.data.root == str(root)
    parsed.data.root = None
    assert recipe.to_dict(parsed) == metadata["recipe"]


def test_saved_weights_are_the_averaged_ones_that_were_validated(trained):
    model = tasks.load(trained / "last.safetensors")
    checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, averaged[f"model.backbone.{name}"])
    assert any(not torch.equal(averaged[name], current[name]) for name in averaged)


def test_evaluate_repeats_the_number_of_training(trained, tmp_path, capsys):
    assert run(["evaluate", str(trained), "--json", str(tmp_path / "report.json"), "--device=cpu"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["top1"] == pytest.approx(weights.read_metadata(trained)["metrics"]["val_top1"], abs=1e-6)
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table if line] == ["class", "blue", "green", "red", "all", "calibration"]


def test_predict_names_images_and_reports_those_it_cannot_read(trained, root, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    arguments = ["predict", trained, root / "val" / "red", tmp_path / "broken.jpg", f"{root}/val/blue/*.png"]
    arguments += ["nowhere.jpg", "--json", tmp_path / "names.json", "--top_k", "2", "--device=cpu"]
    assert run(list(map(str, arguments))) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + 8
    assert [line.split(": ")[1] for line in printed.err.splitlines()] == ["skipped", "skipped"]
    results = json.loads((tmp_path / "names.json").read_text())
    assert len(results) == 10
    assert sum("error" in result for result in results) == 2
    first = results[0]
    assert first["label"] == tasks.load(trained).predict(first["image"]).label
    assert len(first["top"]) == 2
    assert run(["predict", str(trained), str(root / "val"), "--device=cpu"]) == 0


def test_kernels_hold_within_a_command_and_change_nothing_but_rounding(trained, root, tmp_path, monkeypatch, capsys):
    with library.use_kernels() as kernels:
        if kernels.objection:
            pytest.skip(kernels.objection)
    predict, found, libraries = predict_command._predict_all, [], []
    monkeypatch.setattr(
        predict_command, "_predict_all", lambda *x, **given: libraries.append(library._library) or predict(*x, **given)
    )
    for more in ([], ["--kernels"]):
        arguments = ["predict", str(trained), str(root / "val"), "--device=cpu", "--json", str(tmp_path / "names.json")]
        assert run([*arguments, *more]) == 0
        found.append([result["score"] for result in json.loads((tmp_path / "names.json").read_text())])
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert [kept is None for kept in libraries] == [True, False]
    assert library._library is None
    assert run(["evaluate", str(trained), "--device=cpu", "--kernels"]) == 0
    monkeypatch.setattr(library, "_compiled", lambda: "no compiler")
    for verb in (["predict", trained, root / "val"], ["evaluate", trained], ["serve", trained]):
        assert "no compiler" in error_of(capsys, *verb, "--device=cpu", "--kernels")
    train = ["train", "smoke", "--out", tmp_path, "--trainer.precision=32-true", "--trainer.accelerator=cpu"]
    assert "no compiler" in error_of(capsys, *train, "--trainer.kernels=true")
    assert not (tmp_path / "smoke").exists()


def test_predictions_as_csv_and_drawn_from_a_list_on_standard_input(trained, root, tmp_path, monkeypatch):
    names = sorted(map(str, (root / "val").rglob("*.png")))
    (tmp_path / "bad.png").write_bytes(b"")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*names, str(tmp_path / "bad.png")]) + "\n"))
    table, drawn = tmp_path / "names.csv", tmp_path / "drawn"
    arguments = ["predict", trained, "-", "--csv", table, "--draw", drawn, "--batch_size", "5", "--device=cpu"]
    assert run(list(map(str, arguments))) == 1
    rows = list(csv.DictReader(table.open()))
    assert [row["image"] for row in rows] == [*names, str(tmp_path / "bad.png")]
    assert "is empty" in rows[-1]["error"]
    model = tasks.load(trained)
    assert list(rows[0]) == ["image", "label", "score", "label2", "score2", "label3", "score3", "error"]
    prediction = model.predict(names[0], top_k=3)
    assert [rows[0][name] for name in ("label", "label2", "label3")] == [name for name, _ in prediction.top]
    assert float(rows[0]["score"]) == pytest.approx(prediction.score, abs=1e-4)
    assert rows[-1]["label"] == rows[-1]["score3"] == ""
    images = list(drawn.iterdir())
    assert len(images) == len(names)  # though names repeat from class to class
    assert Image.open(images[0]).height > Image.open(names[0]).height


@pytest.mark.parametrize("source", ["standard input", pytest.param("folder", marks=pytest.mark.exhaustive)])
def test_processes_share_the_images_and_the_first_writes_them_in_order(trained, root, tmp_path, source):
    """A list on standard input is read by the first; names that repeat get numbers."""
    one, two, drawn = tmp_path / "one.json", tmp_path / "two.json", tmp_path / "drawn"
    assert run(["predict", str(trained), str(root / "val"), "--json", str(one), "--device=cpu"]) == 0
    alone = json.loads(one.read_text())
    names = [result["image"] for result in alone]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sgformer"]
    images = "-" if source == "standard input" else str(root / "val")
    arguments = ["predict", str(trained), images, "--json", str(two), "--draw", str(drawn), "--device=cpu"]
    subprocess.run(
        [*launcher, *arguments], check=True, capture_output=True, timeout=120, input="\n".join(names), text=True
    )
    together = json.loads(two.read_text())
    assert [result["image"] for result in together] == names
    assert [result["label"] for result in together] == [result["label"] for result in alone]
    assert len(list(drawn.iterdir())) == len(names)
    assert {result["drawn"] for result in together} == {str(path) for path in drawn.iterdir()}


def test_patterns_do_not_follow_links_that_lead_in_circles(root, tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for name in ("a/1.png", "2.png", ".hidden.png"):
        (tmp_path / "photos" / name).write_bytes((root / "val" / "red" / "0.png").read_bytes())
    for name in ("a/circle", "a/other"):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "photos", target_is_directory=True)
    assert find([f"{tmp_path}/**/*.png"]) == [tmp_path / "photos" / "2.png", tmp_path / "photos" / "a" / "1.png"]
    assert find([f"{tmp_path}/photos/*.png"]) == [tmp_path / "photos" / "2.png"]
    with pytest.raises(ValueError, match="no images in"):
        find([f"{tmp_path}/*.png"])


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_a_file_that_cannot_be_written_is_said_before_the_work(trained, root, tmp_path, capsys, monkeypatch, verb):
    monkeypatch.setattr(tasks, "load", lambda *_, **__: pytest.fail("too late"))
    arguments = [verb, trained, *([root / "val"] if verb == "predict" else []), "--json"]
    assert "Is a directory" in error_of(capsys, *arguments, tmp_path)
    line = error_of(capsys, *arguments, root / "val" / "red" / "0.png" / "names.json")
    assert "names.json; name another path" in line
    assert not list(tmp_path.iterdir())


def test_a_report_on_classes_of_which_some_have_no_validation_images(root, tmp_path, capsys):
    tables = {"train": ["path,label"], "val": ["path,label"]}
    for path in sorted(root.rglob("*.png")):
        if path.parts[-3:-1] != ("val", "blue"):
            tables[path.parts[-3]].append(f"{path},{path.parts[-2]}")
    for split, rows in tables.items():
        (tmp_path / f"{split}.csv").write_text("\n".join(rows))
    lists = [f"--data.{split}_list={tmp_path}/{split}.csv" for split in tables]
    arguments = ["train", "smoke", "--out", str(tmp_path), "--data.source=list", *lists, *TINY]
    assert run([*arguments, "--trainer.max_epochs=1"]) == 0
    page = (tmp_path / "smoke" / "report.html").read_text("utf-8")
    matrix = page.split("What is taken for what")[1].split("<h2")[0]
    assert all(f">{name}<" in matrix for name in ("blue", "green", "red"))


def test_report_can_be_made_anew(trained, capsys):
    before = (trained / "report.html").read_text()
    (trained / "report.html").unlink()
    assert run(["report", str(trained), "--device=cpu"]) == 0
    assert str(trained / "report.html") in capsys.readouterr().out
    page = (trained / "report.html").read_text()
    for words in (
        "How training went",
        "calibration error: ",
        "What is taken for what",
        "blue",
        "max_epochs: 6",
        "torchmetrics",
    ):
        assert words in page
    assert page.count("<svg") == 4
    assert "http-equiv" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing has to be fetched
    assert len(page) == pytest.approx(len(before), rel=0.01)


def test_weights_in_half_the_space_say_the_same(trained, root, tmp_path):
    out = tmp_path / "small.safetensors"
    assert run(["convert", str(trained), str(out), "--half"]) == 0
    assert out.stat().st_size < 0.6 * (trained / "best.safetensors").stat().st_size
    image = next((root / "val").rglob("*.png"))
    small, whole = (tasks.load(path).predict(image) for path in (out, trained))
    assert small.label == whole.label
    assert small.score == pytest.approx(whole.score, abs=0.02)
    assert weights.read_metadata(out)["metrics"] == weights.read_metadata(trained)["metrics"]


def test_resume_goes_on_where_the_run_stopped(root, tmp_path, capsys):
    arguments = ["train", "smoke", "--out", str(tmp_path), "--data.source=folders", f"--data.root={root}", *TINY]
    assert run(arguments) == 0
    assert run(["train", "--resume", str(tmp_path / "smoke"), "--trainer.max_epochs", "3"]) == 0
    rows = list(csv.DictReader((tmp_path / "smoke" / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == list("123")
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"]
    assert "epoch 3/3" in capsys.readouterr().out


def test_the_smoke_recipe_on_digit_scenes(tmp_path, capsys):
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    quick = ["--data.scenes.num_train=32", "--data.scenes.num_val=20", "--data.augment.cutmix=1.0"]
    for name in ("smoke", "smoke-2"):  # a second run never overwrites the first
        assert run(["train", "smoke", "--out", str(tmp_path), *quick]) == 0
        assert (tmp_path / name / "best.safetensors").is_file()
    assert run(["evaluate", str(tmp_path / "smoke")]) == 0
    first, second = (weights.read(tmp_path / name / "last.safetensors")[0] for name in ("smoke", "smoke-2"))
    assert all(torch.equal(first[name], second[name]) for name in first)  # the seed decides
    Image.new("RGB", (50, 40)).save(tmp_path / "x.png")
    assert run(["predict", str(tmp_path / "smoke-2"), str(tmp_path / "x.png")]) == 0


def test_a_loss_that_is_no_number_ends_the_run(root, tmp_path, capsys):
    arguments = ["train", "smoke", "--out", tmp_path, "--data.source=folders", f"--data.root={root}", *TINY]
    line = error_of(capsys, *arguments, "--optim.lr", "1e30", code=1)
    assert "the loss is" in line
    assert "at step" in line
    assert "--optim.lr" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train"),
        (["xyz"], "--help"),
        (["train"], "name a recipe (sgformer list recipes), or a run to go on with: --resume RUN"),
        (["train", "smok"], "did you mean 'smoke'"),
        (["train", "smoke", "--data.sorce", "x"], "did you mean 'data.source'"),
        (["train", "smoke", "--epochs", "2"], "--trainer.max_epochs"),
        (["train", "smoke", "--batch-size=2"], "--data.batch_size"),
        (["train", "smoke", "-e", "2"], "such as --optim.lr 1e-3; see"),
        (["train", "smoke", "--data.root"], "needs a value"),
        (["train", "smoke", "--model.name", "sgformer_z"], "did you mean 'sgformer_"),
        (["train", "smoke", "--model.kwargs.depth", "3"], "depth"),
        (["train", "smoke", "--data.image_size", "31"], "at least 32x32"),
        (["train", "smoke", "--data.scenes.size", "8"], "32"),
        (["train", "smoke", "--optim.name", "adamx"], "did you mean"),
        (["train", "finetune"], "--data.root"),
        (["train", "finetune", "--data.root", "nowhere"], "there is no folder nowhere"),
        (["train", "finetune", "--model.weights", "nowhere", "--data.source=digit_scenes"], "nowhere"),
        (["train", "smoke", "--resume", "nowhere"], "nowhere"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["report", "nowhere"], "there is no folder nowhere"),
        (["evaluate", "nowhere"], "no weights file at nowhere"),
        (["predict", "nowhere", "x.jpg"], "no weights file at nowhere"),
        (["predict", "w", "x.jpg", "--top_k", "0"], "--top_k"),
        (["predict", "sgformer_t", "*.nothing"], "no images in"),
        (["list", "models", "nothing*"], "no model fits"),
        (["list", "cakes"], "recipes"),
        (["convert", "nowhere.pth", "out.safetensors"], "nowhere.pth"),
        (["convert", "nowhere.pth", "out.pth"], ".safetensors"),
        (["train", "smoke", "--bogus"], "--bogus"),
        (["train", "smoke", "--epochs", "3"], "come with their section, such as --optim.lr"),
        (["train", "smoke", "--trainer.devices", "many"], "nor auto"),
        (["train", "finetune", "--data.root", "a", "--data.root=b"], "--data.root is there twice, as a and as b"),
        (["convert", "sgformer_t", "."], "must end in .safetensors"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    line = error_of(capsys, *arguments)
    assert message in line
    assert not list(tmp_path.glob("runs/*/*.safetensors"))


def test_debug_shows_the_stack_trace():
    with pytest.raises(ValueError, match="unknown recipe"):
        run(["train", "nothing", "--debug"])


def test_a_full_disk_is_one_line(root, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    line = error_of(capsys, "train", "smoke", "--out", tmp_path, "--data.source=folders", f"--data.root={root}", *TINY)
    assert "No space left" in line
    assert str(tmp_path) in line
    assert "free some space" in line


def test_a_read_only_folder_is_said_before_a_run_begins(root, tmp_path, monkeypatch, capsys):
    def refuses(path, *_):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("os.mkdir", refuses)
    line = error_of(capsys, "train", "smoke", "--out", tmp_path, "--data.source=folders", f"--data.root={root}", *TINY)
    assert f"Read-only file system: {tmp_path}" in line
    assert "choose another folder" in line


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_training_image_is_one_line(tmp_path, capsys, workers):
    root = make_class_folders(tmp_path / "data", num_train=4, num_val=1)
    for path in root.glob("train/*/*.png"):
        path.write_bytes(path.read_bytes()[:200])
    arguments = ["train", "smoke", "--out", tmp_path, "--data.source=folders", f"--data.root={root}", *TINY]
    line = error_of(capsys, *arguments, f"--data.workers={workers}", code=1)
    assert "is cut off" in line or "is damaged" in line
    assert ".png" in line


def test_print_config_prints_a_recipe(capsys, tmp_path):
    assert run(["train", "imagenette160", "--print_config", "--optim.lr", "0.25"]) == 0
    (tmp_path / "my.yaml").write_text(capsys.readouterr().out)
    assert recipe.parse(tmp_path / "my.yaml", tasks.get("classification").Recipe).optim.lr == 0.25
