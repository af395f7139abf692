"""`sgformer serve`: the page in a browser, what it asks for over HTTP, and what is refused."""

import inspect
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from local_client import Client
from sgformer import tasks
from sgformer.tasks.classification.model import Classifier
from sgformer.tasks.images import Preprocessing
from sgformer_cli import run

uvicorn = pytest.importorskip("uvicorn", reason="sgformer serve needs uvicorn")
pytest.importorskip("starlette", reason="sgformer serve needs starlette")

from sgformer.commands import tryout as tryouts  # noqa: E402
from sgformer.commands import web, web_page  # noqa: E402
from sgformer.commands.tryout import Tryout  # noqa: E402

CLASSES = ["cat", "dog", "<b>cow</b>"]


def classifier(name="sgformer_test", **kwargs):
    preprocessing = Preprocessing(image_size=(64, 64), crop_fraction=0.8)
    return Classifier(name, classes=CLASSES, preprocessing=preprocessing, **kwargs).eval()


def detector():
    pytest.importorskip("pycocotools", reason="detection needs pycocotools")
    from sgformer.tasks.detection import Detector
    from sgformer.tasks.detection.heads import HeadOptions
    from sgformer.tasks.detection.model import Preprocessing

    heads = HeadOptions(
        channels=16, box_channels=32, anchor_sizes=(16, 24, 32, 64, 128), num_proposals=50, num_sampled=32
    )
    preprocessing = Preprocessing.of("sgformer_test", (48, 96))
    model = Detector("sgformer_test", classes=CLASSES, preprocessing=preprocessing, heads=heads)
    for parameter in model.roi_heads.box_predictor.parameters():  # so that it finds something
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def segmenter():
    pytest.importorskip("segmentation_models_pytorch", reason="segmentation needs segmentation-models-pytorch")
    from sgformer.tasks.decoders import HeadOptions
    from sgformer.tasks.segmentation import Segmenter

    head = HeadOptions(name="upernet", channels=16, auxiliary=0)
    preprocessing = Preprocessing(image_size=(64, 64), crop_fraction=1.0)
    return Segmenter("sgformer_test", classes=CLASSES, preprocessing=preprocessing, head=head).eval()


MODELS = {"classification": classifier, "detection": detector, "segmentation": segmenter}


def photograph(width=120, height=90, kind="PNG"):
    """A file of noise on a gradient, so that maps differ from place to place."""
    rng = np.random.default_rng(0)
    pixels = np.linspace(0, 155, width)[None, :, None] + rng.integers(0, 100, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind)
    return file.getvalue()


@contextmanager
def serving(model, task="classification"):
    app = web.create_app(Tryout(model), hosts=["127.0.0.1", "localhost"])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return classifier()


@pytest.fixture(scope="module")
def client(model):
    with serving(model) as client:
        yield client


@pytest.mark.parametrize("task", MODELS)
def test_it_says_what_the_model_says_and_draws_it(task):
    model = MODELS[task]()
    file = photograph()
    with serving(model, task) as client:
        status, said = client.post(file, "?score_threshold=0.05")
        assert status == 200
        settings = {"score_threshold": 0.05} if task == "detection" else {}
        prediction = model.predict(file, **settings)
        assert said["lines"]
        assert said["summary"] == prediction.summary()
        assert {line["name"] for line in said["lines"]} <= set(CLASSES)
        assert [(pair["stage"], pair["pair"]) for pair in said["pairs"]] == [(1, 1), (2, 1), (3, 1)]
        assert said["drawn"] == (task != "classification")
        views = ["significance", "spending", "keys", "image", *(["prediction"] if said["drawn"] else [])]
        drawings = {view: client.ask("GET", f"/images/{said['id']}/{view}/2") for view in views}
        for view, (status, headers, jpeg) in drawings.items():
            assert (status, headers["content-type"]) == (200, "image/jpeg")
            image = Image.open(io.BytesIO(jpeg))
            assert image.width / image.height == pytest.approx(120 / 90), view
        assert len({jpeg for _, _, jpeg in drawings.values()}) == len(views)
        if task == "segmentation":
            assert set(said["colours"]) == set(CLASSES)


def test_a_baseline_has_no_maps_and_no_budget():
    with serving(classifier("test_resnet")) as client:
        facts = facts_of(client)
        assert (facts["views"], facts["budgets"]) == ({}, [])
        status, said = client.post(photograph(), "?token_budget=8")
        assert (status, said["pairs"]) == (200, [])
        assert client.ask("GET", f"/images/{said['id']}/image/0")[0] == 200
        assert client.ask("GET", f"/images/{said['id']}/significance/0")[0] == 404


def facts_of(client):
    page = client.ask("GET", "/")[2].decode()
    return json.loads(re.search(r"^const model = (.*);$", page, re.MULTILINE)[1])


def test_a_budget_is_of_one_request(client):
    totals = [client.post(photograph(), query)[1]["pairs"][0]["total"] for query in ("", "?token_budget=5", "")]
    assert totals[0] == totals[2] != totals[1]
    assert totals[1].endswith("tokens, 5 keys")


def test_the_budget_of_the_weights_is_where_the_slider_starts():
    with serving(classifier(kwargs={"token_budget": 7})) as client:
        facts = facts_of(client)
        keys = [
            client.post(photograph(), query)[1]["pairs"][0]["total"].split(", ")[-1]
            for query in ("", "?token_budget=7", "?token_budget=none", "?token_budget=5", "")
        ]
    assert keys[0] == keys[1] == keys[4]  # the model's own number where none is asked for
    assert len({*keys}) == 3
    assert facts["budget"] == 7
    assert 7 in facts["budgets"]
    assert facts["budgets"][-1] is None
    assert facts["budgets"][:-1] == sorted(facts["budgets"][:-1])


def bomb():
    """The header of a PNG of 3.6 billion pixels, which are not there."""
    file = bytearray(photograph())
    file[16:24] = (60_000).to_bytes(4, "big") * 2
    file[29:33] = zlib.crc32(bytes(file[12:29])).to_bytes(4, "big")
    return bytes(file)


BROKEN = {
    "nothing": (b"", "is empty"),
    "text": (b"no image at all", "is not an image"),
    "cut off": (photograph(kind="JPEG")[:-900], "is cut off"),
    "too many pixels": (bomb(), "60000 x 60000 pixels, 3600 million; the limit is 64: shrink it"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_gets_a_sentence(client, kind):
    file, reason = BROKEN[kind]
    status, said = client.post(file)
    assert status == 400
    assert reason in said["error"]
    assert "SGFORMER_MAX_PIXELS" not in said["error"]  # a visitor cannot set it
    assert client.post(photograph())[0] == 200


@pytest.mark.parametrize(
    ("mode", "width", "num", "note"),
    [
        ("RGB", 40, 1, ""),
        ("RGB", 2100, 1, "shrunk to 2048 pixels"),
        ("RGBA", 40, 1, "transparency"),
        ("RGB", 9, 2, "pages"),
    ],
)
def test_what_is_not_read_as_it_stands_is_said(client, mode, width, num, note):
    pages = [Image.new(mode, (width, 30), "red") for _ in range(num)]
    pages[0].save(file := io.BytesIO(), "TIFF", save_all=True, append_images=pages[1:])
    assert [note in said for said in client.post(file.getvalue())[1]["notes"]] == [True] * bool(note)


@pytest.mark.parametrize(
    ("query", "reason"),
    [("?token_budget=2", "token_budget is 2; it must be"), ("?token_budget=many", "must be a number, or none")],
)
def test_a_bad_setting_gets_a_sentence(client, query, reason):
    status, said = client.post(photograph(), query)
    assert status == 400
    assert reason in said["error"]


def test_a_large_upload_is_refused_whether_or_not_it_says_so(client, monkeypatch):
    monkeypatch.setattr(web, "MAX_BYTES", 2**20)
    for body in (bytes(2**20 + 1), iter([bytes(2**19)] * 3)):  # with its length, and in chunks without
        status, said = client.post(body)
        assert status == 413
        assert said["error"] == "has more than 1 MB; shrink it"
    assert client.post(photograph())[0] == 200


def test_the_page_lists_views_in_their_order_not_by_letter():
    html = web_page.page("model", {"views": {"significance": "", "keys": ""}})
    assert html.index('"significance"') < html.index('"keys"')


def test_pages_of_others_are_refused(client):
    file = photograph()
    for origin in ("https://example.org", "null", f"http://127.0.0.1:{client.port + 1}"):
        assert client.post(file, Origin=origin)[0] == 403
    assert client.post(file, Origin=f"http://127.0.0.1:{client.port}")[0] == 200
    # A name of someone else's that leads to this machine.
    assert client.ask("GET", "/", Host=f"example.org:{client.port}")[0] == 400
    assert client.ask("GET", "/", Host=f"localhost:{client.port}")[0] == 200


def test_the_page_may_load_nothing_from_elsewhere(client):
    _, headers, page = client.ask("GET", "/")
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert b"http:" not in page
    assert b"https:" not in page


def test_a_failure_of_the_model_is_told_and_survived(client, model, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("out of\nmemory")

    with monkeypatch.context() as patch:
        patch.setattr(model, "predict", fail)
        assert client.post(photograph()) == (500, {"error": "cannot be computed: out of memory"})
    assert "out of memory" in capsys.readouterr().err
    assert client.post(photograph())[0] == 200


def test_one_image_at_a_time_and_a_crowd_is_sent_away(client, model, monkeypatch):
    busy, most = [], []
    predict = model.predict

    def slow(*args, **kwargs):
        busy.append(1)
        most.append(len(busy))
        time.sleep(0.05)
        busy.pop()
        return predict(*args, **kwargs)

    monkeypatch.setattr(model, "predict", slow)
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(client.post(photograph())[0])) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert sorted(set(statuses)) == [200, 503]
    assert statuses.count(200) >= web.MAX_WAITING


def test_it_survives_many_uploads(client):
    """benchmarks/serve_uploads.py does the same at length, with its memory measured."""
    broken = [file for file, _ in BROKEN.values()]
    num_threads = threading.active_count()
    ids = []
    for i in range(40):
        status, said = client.post(broken[i // 10] if i % 10 == 9 else photograph(100 + i, 80))
        assert status == (400 if i % 10 == 9 else 200)
        ids.append(said.get("id"))
    kept = [name for name in ids if name and client.ask("GET", f"/images/{name}/keys/0")[0] == 200]
    assert kept == [name for name in ids if name][-tryouts.MAX_KEPT :]
    assert threading.active_count() <= num_threads + 1


def test_large_images_are_shrunk(model):
    tryout = Tryout(model)
    file = io.BytesIO()
    Image.new("RGB", (3000, 1500)).save(file, "JPEG")
    said = tryout.compute(file.getvalue())
    assert (said["width"], said["height"]) == (tryouts.MAX_SHOWN, tryouts.MAX_SHOWN // 2)


def test_in_a_browser(client, tmp_path):
    from browser import Browser

    (tmp_path / "photo.png").write_bytes(photograph())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    shown = "document.getElementById('image').src"
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"http://127.0.0.1:{client.port}/", size=(390, 844))
        browser.choose_file("#file", tmp_path / "photo.png")
        browser.wait(f"{shown}.includes('significance/0')")
        assert browser.run("[...document.querySelectorAll('li')].map((li) => li.innerText).join()").count("%") == 3
        assert browser.run("document.querySelectorAll('li b').length") == 3  # a class called <b> makes no bar
        assert "ms" in browser.run("document.getElementById('times').innerText")
        # By keyboard: the slider over pairs, then that of the budget.
        browser.run("document.getElementById('pair').focus()")
        browser.press("ArrowRight")
        browser.wait(f"{shown}.endsWith('significance/1')")
        assert browser.run("document.getElementById('pair-says').textContent") == "stage 2, pair 1"
        before = browser.run(shown)
        browser.run("document.getElementById('budget').focus()")
        for _ in range(12):
            browser.press("ArrowLeft")
        browser.wait(r"/, [1-4] keys\.$/.test(document.getElementById('note').textContent)")
        browser.wait(f"{shown}.endsWith('significance/1') && {shown} !== '{before}'")
        browser.run("document.querySelector('input[value=spending]').focus()")
        browser.press(" ")
        browser.wait(f"{shown}.endsWith('spending/1')")
        # A broken image gives a message; the image before it stays, and the next one is taken.
        browser.choose_file("#file", tmp_path / "broken.jpg")
        browser.wait("!document.getElementById('error').hidden")
        assert browser.run("document.getElementById('error').textContent").startswith("broken.jpg is ")
        assert "spending" in browser.run(shown)
        browser.choose_file("#file", tmp_path / "photo.png")
        browser.wait("document.getElementById('error').hidden")
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")  # on a phone
    assert {url.split("/")[2] for url in browser.requests if not url.startswith("data:")} == {
        f"127.0.0.1:{client.port}"
    }
    assert [problem for problem in browser.problems if "400" not in problem] == []


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model.save(path)
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_command_serves_until_it_is_interrupted(weights, host):
    if host == "::1":
        try:
            socket.create_server((host, 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "sgformer", "serve", str(weights), "--port", "0", "--device", "cpu"]
    command += ["--host", host]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"http://(127\.0\.0\.1|\[::1\]):(\d+)/", line)
            assert found, line
            client = Client(int(found[2]), host)
            assert client.ask("GET", "/")[0] == 200
            assert client.ask("GET", "/", Host="example.org")[0] == 400
            assert client.post(photograph(), Origin=found[0].rstrip("/"))[0] == 200
            expected = tasks.load(weights).predict(photograph()).summary()
            assert client.post(photograph())[1]["summary"] == expected
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_a_port_that_is_taken_is_named(weights, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", str(weights), "--port", str(port)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"port {port}" in lines[0]
    assert "--port" in lines[0]


def test_only_this_machine_is_listened_to_unless_told_otherwise():
    from sgformer.commands import serve

    assert inspect.signature(serve.serve).parameters["host"].default == "127.0.0.1"
    assert Path(serve.__file__).with_name("web.html").is_file()
