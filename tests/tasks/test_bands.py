"""Images of other bands than red, green and blue: what is read, measured and refused, and whole runs on them."""

import csv
import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import sgformer
from sgformer.commands.embed import embed
from sgformer.commands.evaluate import evaluate
from sgformer.commands.explain import explain
from sgformer.commands.predict import predict
from sgformer.commands.serve import serve
from sgformer.commands.train import train
from sgformer.engine.weights import read_metadata
from sgformer.exporters.check import differences
from sgformer.exporters.parts import part_of
from sgformer.tasks.bands import BandOptions, Bands, BandsError, measured
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import ImageError, read_image

tifffile = pytest.importorskip("tifffile")

H, W, N = 20, 30, 5
NODATA = (42113, "s", 0, "0", True)  # as GDAL writes it


def pixels(seed=0, dtype="uint16", bands=N, size=(H, W)):
    values = np.random.default_rng(seed).integers(0, 4000, (bands, *size))
    return (values / 16 if dtype == "uint8" else values).astype(dtype)


def reader(bands=N, **more):
    return Bands(image_size=(32, 32), mean=(0.0,) * bands, std=(1.0,) * bands, **more)


GRAY = {"photometric": "minisblack"}
WAYS = {
    "contiguous": lambda path, a: tifffile.imwrite(path, np.moveaxis(a, 0, 2), planarconfig="contig", **GRAY),
    "planar": lambda path, a: tifffile.imwrite(path, a, planarconfig="separate", **GRAY),
    "deflate": lambda path, a: tifffile.imwrite(path, a, planarconfig="separate", compression="deflate", **GRAY),
    "tiles of a big file": lambda path, a: tifffile.imwrite(
        path, np.moveaxis(a, 0, 2), planarconfig="contig", tile=(16, 16), bigtiff=True, **GRAY
    ),
    "a band a page": lambda path, a: tifffile.imwrite(path, a, **GRAY),
    "big endian": lambda path, a: tifffile.imwrite(path, a, planarconfig="separate", byteorder=">", **GRAY),
    "ImageJ": lambda path, a: tifffile.imwrite(path, a, imagej=True, metadata={"axes": "CYX"}),
    # Without a word about what is what, tifffile writes an array (height, width, 5) as pages of (width, 5).
    "an array as it is": lambda path, a: tifffile.imwrite(path, np.moveaxis(a, 0, 2)),
    "NPY": lambda path, a: np.save(path.open("wb"), np.moveaxis(a, 0, 2)),
    "NPY, bands first": lambda path, a: np.save(path.open("wb"), a),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("way", WAYS)
def test_what_tools_write_is_read_as_it_is(tmp_path, way, dtype):
    path, values = tmp_path / "a.tif", pixels(dtype=dtype)
    WAYS[way](path, values)
    for image in (path, str(path), path.read_bytes()):
        found = reader().read(image)
        assert found.dtype == torch.float32
        assert np.array_equal(found, values.astype(np.float32))
    assert reader().size_of(path) == (H, W)
    kind = "float" if dtype == "float32" else dtype
    assert np.array_equal(reader(values=kind).read(path), found)
    with pytest.raises(BandsError, match=f"values of type {kind}, and the training images int16"):
        reader(values="int16").read(path)
    with pytest.raises(BandsError, match=r"and 4 (bands )?are expected"):
        reader(4).read(path)


@pytest.mark.parametrize("compression", ["lzw", "zstd"])
def test_compression_that_needs_more(tmp_path, compression):
    pytest.importorskip("imagecodecs")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(), planarconfig="separate", compression=compression, predictor=True, **GRAY)
    assert np.array_equal(reader().read(path), pixels())


def test_places_without_a_value_become_the_mean(tmp_path):
    path, values = tmp_path / "a.tif", pixels()
    values[:, :3] = 0
    tifffile.imwrite(path, values, planarconfig="separate", extratags=[NODATA], **GRAY)
    mean = (1.0, 2.0, 3.0, 4.0, 5.0)
    found = Bands(image_size=(32, 32), mean=mean, std=(1.0,) * N).read(path)
    assert (found[:, :3] == torch.tensor(mean)[:, None, None]).all()
    assert np.array_equal(found[:, 4:], np.where(values == 0, np.array(mean)[:, None, None], values)[:, 4:])
    floats = pixels(dtype="float32")
    floats[2, 5] = np.nan
    np.save(tmp_path / "a.npy", floats)
    assert (Bands(image_size=(32, 32), mean=mean, std=(1.0,) * N).read(tmp_path / "a.npy")[2, 5] == 3).all()


def test_arrays(tmp_path):
    values = pixels()
    assert np.array_equal(reader().read(values), reader().read(np.moveaxis(values, 0, 2)))
    assert np.array_equal(reader(1).read(values[0]), values[:1])
    read = reader().read(values)
    assert reader().read(read) is read
    for wrong in (values[:3], values[None], values.astype(complex)):
        with pytest.raises(BandsError):
            reader().read(wrong)


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.tif"

    def refused(words):
        with pytest.raises(ImageError, match=words) as caught:
            reader().read(path)
        assert caught.value.path == str(path)

    refused("No such file")
    tifffile.imwrite(path, pixels(), planarconfig="separate", **GRAY)
    path.write_bytes(path.read_bytes()[:900])
    refused("cannot be read")
    Image.new("RGB", (W, H)).save(path, "png")
    refused("no TIFF or NPY")
    path.write_bytes(b"")
    refused("no TIFF or NPY")
    tifffile.imwrite(path, np.stack([pixels(), pixels()]), planarconfig="separate", **GRAY)
    refused("several images")
    tifffile.imwrite(path, pixels()[0], **GRAY)
    tifffile.imwrite(path, pixels()[0, :9], append=True, **GRAY)
    refused("several images")
    values = pixels(dtype="float32")
    values[0, 0, 0] = np.inf
    np.save(path.open("wb"), values)
    refused("infinite")
    tifffile.imwrite(path, pixels(), planarconfig="separate", extratags=[(274, "H", 1, 6, True)], **GRAY)
    refused("Orientation")


def test_an_rgb_model_names_the_bands(tmp_path):
    for way in ("planar", "deflate", "contiguous"):
        WAYS[way](tmp_path / "a.tif", pixels())
        with pytest.raises(ImageError, match="bands"):
            read_image(tmp_path / "a.tif")


# ---- measured


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path):
    images = [pixels(seed) for seed in range(4)]
    images[0][2] = 0  # without values in one band of one image
    for i, image in enumerate(images):
        tifffile.imwrite(tmp_path / f"{i}.tif", image, planarconfig="separate", extratags=[NODATA], **GRAY)
    paths = sorted(tmp_path.glob("*.tif"))
    together = np.stack(images).astype(float)
    together[together == 0] = np.nan
    options = BandOptions()
    found, note = measured(reader(), options, paths)
    assert found.mean == pytest.approx(np.nanmean(together, (0, 2, 3)))
    assert found.std == pytest.approx(np.nanstd(together, (0, 2, 3)), rel=1e-5)
    assert found.values == "uint16"
    assert note == "5 bands of uint16, mean and deviation of 4 training images, 5.0% of them without values"
    assert (tuple(options.mean), tuple(options.std), options.values) == (found.mean, found.std, "uint16")
    shutil.rmtree(tmp_path)  # what is known is not measured again
    tmp_path.mkdir()
    WAYS["planar"](tmp_path / "0.tif", pixels(9))
    assert measured(reader(), options, [tmp_path / "0.tif"]) == (found, "5 bands of uint16")


def test_a_band_that_is_the_same_everywhere(tmp_path):
    values = pixels()
    values[1] = 7
    found, note = measured(reader(), BandOptions(), [values])
    assert found.mean[1] == 7
    assert found.std[1] == 1
    assert "band 2 the same everywhere" in note


def test_sets_that_do_not_go_together(tmp_path):
    for i in range(4):
        WAYS["planar"](tmp_path / f"{i}.tif", pixels(i))
    paths = sorted(tmp_path.glob("*.tif"))
    WAYS["planar"](tmp_path / "3.tif", pixels(3, bands=4))
    with pytest.raises(DataError, match=r"3\.tif: has 4 bands, and 5 are expected"):
        measured(reader(), BandOptions(), paths[:3], paths[3:])
    with pytest.raises(DataError, match=r"0\.tif: has 5 bands, and 4 .*2 more"):
        measured(reader(4), BandOptions(), paths)
    WAYS["planar"](tmp_path / "3.tif", pixels(3, dtype="uint8"))
    with pytest.raises(DataError, match=r"3\.tif: holds values of type uint8, and others uint16"):
        measured(reader(), BandOptions(), paths[:3], paths[3:])
    paths[3].write_bytes(b"II*\0 no more")  # the share of these is counted while training
    assert measured(reader(), BandOptions(), paths)[1].endswith("of 3 training images")
    with pytest.raises(DataError, match="none of 1 images can be read"):
        measured(reader(), BandOptions(), paths[3:])
    with pytest.raises(DataError, match=r"data\.bands\.mean has 2 numbers"):
        measured(reader(), BandOptions(mean=[1, 2]), paths)
    with pytest.raises(DataError, match=r"data\.bands\.std"):
        measured(reader(), BandOptions(std=[1, 1, 1, 1, 0]), paths)


# ---- whole runs

COMMON = {
    "trainer.max_epochs": 1,
    "trainer.precision": "32-true",
    "data.batch_size": 4,
    "data.workers": 0,
    "optim.lr": 3e-3,
    "trainer.ema_decay": None,
    "trainer.report": False,
}


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Two classes that differ in the fifth band alone, and a run on them."""
    root = tmp_path_factory.mktemp("classes")
    for split, num in (("train", 12), ("val", 3)):
        for place, name in enumerate("ab"):
            folder = root / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(num):
                values = pixels(i + 100 * place + 1000 * (split == "val"), size=(40 + i, 36))
                values[4] = values[4] // 8 + 3000 * place
                WAYS["planar" if i % 2 else "a band a page"](folder / f"{i}.tif", values)
    own = {"data.source": "folders", "data.root": str(root / "set"), "data.image_size": 32, "model.in_chans": N}
    overrides = COMMON | own
    return (
        root,
        overrides,
        train("smoke", overrides | {"trainer.max_epochs": 4, "trainer.report": True}, out=root / "runs"),
    )


def test_classification_learns_from_the_fifth_band(classes, tmp_path, capsys):
    root, _, run = classes
    assert evaluate(run).top1 == 1.0
    stored = read_metadata(run)
    assert stored["model"]["kwargs"]["in_chans"] == N
    assert stored["preprocessing"]["values"] == "uint16"
    values = [tifffile.imread(path) for path in (root / "set" / "train").rglob("*.tif")]
    mean = np.concatenate([one.reshape(N, -1) for one in values], 1).mean(1)
    assert stored["preprocessing"]["mean"] == pytest.approx(mean)
    table = tmp_path / "p.csv"
    assert predict(run, [str(root / "set" / "val")], csv=table, draw=tmp_path / "drawn") == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["label"] for row in rows] == ["a"] * 3 + ["b"] * 3
    assert Image.open(tmp_path / "drawn" / "0.png").size[0] == 36
    model, path = sgformer.load(run), root / "set" / "val" / "b" / "0.tif"
    assert model.predict(tifffile.imread(path)) == model.predict(path)
    assert embed(run, [str(path)], out=tmp_path / "f.npz") == 0
    assert explain(run, [str(path)], out=tmp_path / "explained") == 0
    assert (tmp_path / "explained" / "0" / "summary.png").is_file()
    Image.new("RGB", (40, 40)).save(tmp_path / "rgb.png")
    assert predict(run, [str(tmp_path / "rgb.png"), str(path)]) == 1
    assert "rgb.png: is no TIFF" in capsys.readouterr().err
    with pytest.raises(ValueError, match="5 bands, which no browser"):
        serve(run, port=0)


def test_a_resumed_run_keeps_what_was_measured(classes, tmp_path):
    root, _, run = classes
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(root / "set", tmp_path / "set")
    before = read_metadata(run)["preprocessing"]
    changed = {"data.root": str(tmp_path / "set"), "trainer.max_epochs": 5, "trainer.report": False}
    for path in (tmp_path / "set" / "train" / "a").iterdir():
        WAYS["planar"](path, tifffile.imread(path) // 2)
    train(overrides=changed, resume=tmp_path / "run")
    assert read_metadata(tmp_path / "run" / "last.safetensors")["preprocessing"] == before
    with pytest.raises(ValueError, match=r"cannot change data\.bands\.mean"):
        train(overrides={"data.bands.mean": [1, 2, 3, 4, 5]}, resume=tmp_path / "run")


def test_weights_to_start_from_are_adapted(classes, tmp_path):
    _, overrides, _ = classes
    short = COMMON | {"trainer.limit_train_batches": 1}
    rgb = train("smoke", short | {"data.scenes.num_train": 8, "data.scenes.num_val": 4}, out=tmp_path)
    again = {"optim.lr": 1e-9, "optim.final_lr": 0, "model.weights": str(rgb / "last.safetensors")}
    run = train("smoke", short | overrides | again, out=tmp_path)
    ours, theirs = (sgformer.load(path / "last.safetensors").backbone.stem.conv1.weight for path in (run, rgb))
    expected = theirs[:, [0, 1, 2, 0, 1]] * (3 / 5)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_segmentation_of_four_bands(tmp_path):
    root = tmp_path / "set"
    for split, num in (("train", 6), ("val", 3)):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for i in range(num):
            size = (48, 64) if i % 2 else (61, 45)
            values, mask = pixels(i, bands=4, size=size), np.zeros(size, np.uint8)
            mask[8:30, 10 + i : 40] = 1
            values[3] = values[3] // 16 + 3000 * mask.astype(np.uint16)
            WAYS["contiguous" if i % 2 else "NPY"](root / "images" / split / f"{i}.tif", values)
            Image.fromarray(mask).save(root / "masks" / split / f"{i}.png")
    (root / "classes.txt").write_text("ground\nplant\n")
    overrides = COMMON | {"data.source": "folders", "data.root": str(root), "data.masks": "masks/{split}"}
    overrides |= {"data.batch_size": 2, "data.image_size": 32, "model.in_chans": 4}
    overrides |= {"data.augment.max_share": 1.0, "trainer.max_epochs": 3}
    with pytest.raises(ValueError, match=r"augment\.photometric can vary red, green and blue only"):
        train("segmentation/smoke", overrides | {"data.augment.photometric": 0.5}, out=tmp_path)
    run = train("segmentation/smoke", overrides | {"data.augment.photometric": 0}, out=tmp_path)
    report = evaluate(run)
    maps, drawn = tmp_path / "maps", tmp_path / "drawn"
    assert predict(run, [str(root / "images" / "val")], maps=maps, draw=drawn) == 0
    given, masks = (
        np.concatenate([np.asarray(Image.open(path / f"{i}.png")).ravel() for i in range(3)])
        for path in (maps, root / "masks" / "val")
    )
    shares = [((given == i) & (masks == i)).sum() / ((given == i) | (masks == i)).sum() for i in range(2)]
    assert report.miou == pytest.approx(np.mean(shares))
    assert explain(run, [str(root / "images" / "val" / "0.tif")], out=tmp_path / "explained") == 0
    model = sgformer.load(run)
    part = part_of(model)
    assert part.channels == 4
    x = torch.randn(1, 4, 64, 96)
    with torch.no_grad():
        found = differences(part, x, part.module(x))
    assert all(difference <= 1e-3 * max(scale, 1) for difference, scale in found.values())
    # Another number of bands, and a mask that lies across its image, are named.
    WAYS["contiguous"](root / "images" / "val" / "1.tif", pixels(bands=3, size=(48, 64)))
    with pytest.raises(DataError, match=r"1\.tif: has 3 bands, and 4 are expected"):
        train("segmentation/smoke", overrides | {"data.augment.photometric": 0}, out=tmp_path)
    WAYS["contiguous"](root / "images" / "val" / "1.tif", pixels(bands=4, size=(64, 48)))
    with pytest.raises(DataError, match=r"48x64 pixels and its image .* 64x48"):
        evaluate(run)


def test_what_needs_rgb_is_refused(classes, tmp_path):
    _, overrides, _ = classes
    colours = {"data.augment.color_jitter": 0.4, "data.augment.rand_augment": "rand-m9"}
    with pytest.raises(ValueError, match=r"color_jitter and data\.augment\.rand_augment can vary red"):
        train("smoke", overrides | colours, out=tmp_path)
    with pytest.raises(DataError, match="digit_scenes gives RGB"):
        train("smoke", {"model.in_chans": 4}, out=tmp_path)
    with pytest.raises(DataError, match="digit_scenes gives RGB"):
        train("segmentation/smoke", {"model.in_chans": 4, "data.augment.photometric": 0}, out=tmp_path)
    with pytest.raises(ValueError, match="in_chans 0 must be at least 1"):
        train("smoke", {"model.in_chans": 0}, out=tmp_path)
    for recipe in ("detection/smoke", "pretrain/smoke"):
        with pytest.raises(ValueError, match=r"model\.in_chans 4: (detection|pretraining) takes RGB alone"):
            train(recipe, {"model.in_chans": 4}, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_given_numbers_and_places_without_a_value_are_told_apart():
    values = pixels().astype(np.int16)
    far = "and data.bands far from the training images, whose mean is"
    _, note = measured(reader(), BandOptions(mean=[0.4] * 5, std=[0.2] * 5), [values])
    assert note.startswith(f"5 bands of int16, {far} [")
    _, note = measured(reader(), BandOptions(mean=values.mean((1, 2)).tolist()), [values])
    assert note == "5 bands of int16, deviation of 1 training images"
    values[:, :8] = -9999
    _, note = measured(reader(), BandOptions(), [values])
    assert f"{8 / values.shape[1]:.1%} of them -9999 in all bands, as where there is nothing; if so, say" in note
    _, note = measured(reader(), BandOptions(), [values.astype(np.float32)])
    assert "if so, write NaN there" in note
