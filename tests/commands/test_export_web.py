"""`sgformer export WEIGHTS FOLDER --web`: a folder with a page that runs a classifier in the browser."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from backbone.fill import fill_
from sgformer.commands import export, web_page
from sgformer.tasks.classification.model import Classifier
from sgformer.tasks.images import Preprocessing
from sgformer_cli import run

pytest.importorskip("onnxruntime", reason="what checks and runs the exported files")
pytest.importorskip("onnxscript", reason="what torch exports to ONNX with")


@pytest.fixture
def weights(tmp_path):
    preprocessing = Preprocessing(image_size=(64, 96), crop_fraction=0.9, interpolation="bicubic")
    options = {"depths": (2, 0, 0, 1)}
    model = Classifier("sgformer_test", classes=["</script>", "b", "c"], preprocessing=preprocessing, kwargs=options)
    fill_(model.backbone)
    model.save(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served():
    servers = []

    def serve(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()


def test_the_page_has_all_beside_it(weights, tmp_path, monkeypatch, capsys):
    """Without npm it names the files to bring; with them the folder is whole, and loads nothing else."""
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "page"
    assert run(["export", str(weights), str(folder), "--web"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert web_page.RUNTIME in line
    assert not folder.exists()
    folder.mkdir()
    for name in web_page.RUNTIME_FILES:
        (folder / name).write_text("")
    assert export.export(weights, folder, web=True) == folder / "index.html"
    assert {path.name for path in folder.iterdir()} == {"index.html", "model.onnx", *web_page.RUNTIME_FILES}
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert page.count("</script>") == 2  # those of the page, not the class of that name
    assert "{{" not in page


@pytest.mark.exhaustive
def test_the_page_predicts_what_predict_does(weights, tmp_path, served):
    from browser import Browser

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (11, 17, 3), np.uint8)).resize((331, 201), Image.Resampling.BICUBIC)
    image.save(tmp_path / "image.png")
    model = Classifier.from_weights(weights)
    expected, preprocessing = model.predict(image), model.preprocessing
    with Browser(tmp_path / "profile") as browser:
        try:
            page = export.export(weights, tmp_path / "page", web=True)
        except ValueError as error:
            pytest.skip(f"ONNX Runtime for browsers is not to be had: {error}")
        address = served(page.parent)
        browser.open(address)
        # The bar that tells of work is seen before the first answer, too, while the model loads.
        assert browser.run("document.querySelector('#busy').parentElement.closest('[hidden]')") is None
        browser.choose_file("#file", tmp_path / "image.png")
        browser.wait("!!document.querySelector('#lines li') || !document.querySelector('#error').hidden", 60)
        assert browser.run("document.querySelector('#error').textContent") == ""
        lines = browser.run("result.lines.map(({name, value}) => [name, value])")
        # Weights are random: what rounding re-ranks, changes more than with trained ones.
        assert lines[0] == [expected.label, pytest.approx(expected.score, abs=0.1)]
        prepared = "createImageBitmap(file).then((bitmap) => Array.from(prepare(bitmap, 64, 96)))"
        wanted = preprocessing.transform()(image).flatten().tolist()
        assert browser.run(prepared) == pytest.approx(wanted, abs=0.02)  # a step of 256, where it is half one
        browser.wait("document.querySelector('#image').naturalWidth === 331")
        (tmp_path / "text.png").write_text("no image")
        browser.choose_file("#file", tmp_path / "text.png")
        browser.wait("!document.querySelector('#error').hidden")
        assert "text.png" in browser.run("document.querySelector('#error').textContent")
        assert all(request.startswith((address, "blob:", "data:")) for request in browser.requests)
