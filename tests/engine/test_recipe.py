import dataclasses
import re

import pytest
import timm

import sgformer  # noqa: F401
from sgformer import tasks
from sgformer.engine import devices, recipe
from sgformer.engine.recipe import RecipeError

PACKAGED = recipe.names()


def parse(name, overrides=None):
    path = recipe.find(name)
    return recipe.parse(path, tasks.get(recipe.task_of(path)).Recipe, overrides)


@pytest.mark.parametrize("name", PACKAGED)
def test_every_recipe_parses_and_survives_being_written(name, tmp_path):
    parsed = parse(name)
    assert timm.is_model(parsed.model.name)
    assert parsed.task == name.split("/")[0]
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(parsed))
    assert parse(tmp_path / "recipe.yaml") == parsed
    assert parse(tmp_path) == parsed  # a run folder


@pytest.mark.parametrize("name", PACKAGED)
def test_every_recipe_says_what_it_is_for(name):
    assert PACKAGED[name].read_text().startswith("# ")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trainer.max_epochs", "3", 3),
        ("trainer.max_epochs", 3, 3),
        ("optim.lr", "1e-4", 1e-4),
        ("data.root", "some/folder", "some/folder"),
        ("data.root", "123", "123"),
        ("data.image_size", "[96, 160]", (96, 160)),
        ("data.augment.crop_scale", [0.1, 1], (0.1, 1)),
        ("trainer.ema_decay", "null", None),
        ("model.kwargs", '{"a": [1, 2], "b": 0.5}', {"a": [1, 2], "b": 0.5}),
        ("model.kwargs.token_budget", "49", {"token_budget": 49}),
    ],
)
def test_overrides_take_strings_and_values(key, value, expected):
    found = parse("smoke", {key: value, "data.source": "folders"})
    for name in key.split("."):
        found = found if isinstance(found, dict) else getattr(found, name)
    assert found == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.kwargs", {"token_budget": 5}, {"token_budget": 5}),
        ("model.kwargs", "{}", {}),
        ("model.kwargs.token_budget", 5, {"img_size": 64, "token_budget": 5}),
        ("model", {"drop_path_rate": 0.2}, {"img_size": 64, "token_budget": 9}),  # a section keeps its other keys
    ],
)
def test_a_mapping_takes_the_place_of_the_recipes_own(key, value, expected):
    source = {"task": "classification", "model": {"kwargs": {"img_size": 64, "token_budget": 9}}}
    found = recipe.parse(source, tasks.get("classification").Recipe, {key: value})
    assert found.model.kwargs == expected


def test_what_belongs_to_the_class_is_no_key():
    with pytest.raises(RecipeError, match="unknown recipe key 'FOLLOWD'") as error:
        parse("smoke", {"FOLLOWD": 1})
    assert "FOLLOWED" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("classification/smoke", {"data.root": "photos"}),
        ("classification/smoke", {"data.source": "folders", "data.root": "photos", "data.val_list": "val.csv"}),
        ("classification/smoke", {"data.source": "list", "data.classes": "classes.txt"}),
        ("segmentation/smoke", {"data.root": "photos"}),
        ("segmentation/smoke", {"data.source": "cityscapes", "data.mapping": "mapping.yaml"}),
        ("segmentation/smoke", {"data.source": "ade20k", "data.images": "photos"}),
        ("detection/smoke", {"data.train.images": "photos"}),
        ("detection/smoke", {"data.source": "coco", "data.first_pixel": 0}),
        ("pretrain/smoke", {"data.root": "photos"}),
    ],
)
def test_a_key_that_the_source_does_not_read_is_refused(name, overrides):
    with pytest.raises(RecipeError, match=f"^{[*overrides][-1]} .*data.source"):
        parse(name, overrides)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("data.imge_size", "data.image_size"),
        ("optim.learning_rate", "optim."),
        ("trainer.epochs", "trainer.max_epochs"),
        ("sed", "seed"),
        ("modle.name", "model.name"),
        ("data.augment.flp", "data.augment.flip"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, key, nearest):
    with pytest.raises(RecipeError, match=f"unknown recipe key '{key.split('.')[0]}") as override:
        parse("smoke", {key: 1})
    nested = 1
    for name in reversed(key.split(".")):
        nested = {name: nested}
    with pytest.raises(RecipeError):
        recipe.parse({"task": "classification", **nested}, tasks.get("classification").Recipe)
    assert nearest in str(override.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.lr", "fast"),
        ("optim.lr", -1),
        ("trainer.max_epochs", 0),
        ("trainer.precision", "8"),
        ("data.source", "clouds"),
        ("data.image_size", "large"),
        ("data.batch_size", 0),
        ("trainer.ema_decay", 1.5),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")) as error:
        parse("smoke", {key: value})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_values_to_choose_from_are_listed_in_words():
    with pytest.raises(RecipeError, match=r"trainer\.accelerator.*'cuda' or 'mps', received 'warp'"):
        parse("smoke", {"trainer.accelerator": "warp"})
    with pytest.raises(RecipeError, match=r"'trainer\.clip_grad'.*number.*received 'much'"):
        parse("smoke", {"trainer.clip_grad": "much"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": "sgformer_t"}, r"model is a section of a recipe: it holds keys, such as model\.name"),
        ({"data": {"augment": 3}}, r"such as data\.augment\.crop_scale, and cannot be 3"),
        ({"loss": None}, r"such as loss\.label_smoothing, and cannot be None"),
    ],
)
def test_a_value_in_place_of_a_section(content, message):
    with pytest.raises(RecipeError, match=message):
        recipe.parse({"task": "classification", **content}, tasks.get("classification").Recipe)


def test_a_recipe_cannot_name_a_class_to_import(tmp_path):
    trace = tmp_path / "trace"
    bomb = {"class_path": "os.mkdir", "init_args": {"path": str(trace)}}
    for section in ({"model": bomb}, {"model": {"kwargs": {"x": bomb}}}, {"optim": {"kwargs": {"x": bomb}}}):
        with pytest.raises(RecipeError):
            recipe.parse({"task": "classification", **section}, tasks.get("classification").Recipe)
    assert not trace.exists()


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "task: [", "hello", "\x00"])
def test_a_file_that_is_no_recipe(tmp_path, content):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(RecipeError) as error:
        parse(tmp_path / "r.yaml")
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'imagenette160'"):
        recipe.find("imagenete")


def test_every_key_is_explained():
    def walk(section):
        for field in dataclasses.fields(section):
            docs = "".join(f"    {kind.__doc__}" for kind in section.__mro__)
            assert f"        {field.name}: " in docs, f"{section.__name__}.{field.name}"
            if dataclasses.is_dataclass(field.default_factory):
                walk(field.default_factory)

    for name in tasks.TASKS:
        walk(tasks.get(name).Recipe)


def test_a_recipe_of_a_protocol_takes_the_variant_as_a_key():
    rates = [parse("in1k", {"model.name": f"sgformer_{size}"}).model.drop_path_rate for size in "tsmb"]
    assert rates == [0.05, 0.1, 0.2, 0.4]
    assert parse("in1k", {"model.name": "resnet50", "model.drop_path_rate": 0}).model.drop_path_rate == 0
    with pytest.raises(ValueError, match=r"drop_path_rate.*none for resnet50.*--model\.drop_path_rate"):
        parse("in1k", {"model.name": "resnet50"})


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("sgformer_m_in1k", r"in1k --model\.name sgformer_m"),
        ("detection/mask_rcnn_sgformer_t_coco_3x", r"detection/mask_rcnn_coco_3x --model\.name sgformer_t"),
        ("upernet_sgformer_b_ade20k", r"upernet_ade20k --model\.name sgformer_b"),
    ],
)
def test_the_old_name_of_a_recipe_names_the_new_one(old, now):
    with pytest.raises(RecipeError, match=now):
        recipe.find(old)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_batch_is_shared_by_eight_processes_or_refused(name):
    size = parse(name).data.batch_size
    if size % 8:
        with pytest.raises(ValueError, match=rf"data\.batch_size {size} .*--data\.batch_size {-(-size // 8) * 8}|or "):
            devices.share(size, 8)
    else:
        assert devices.share(size, 8) * 8 == size


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.lr", "true"),
        ("optim.lr", "nan"),
        ("trainer.max_epochs", "1.5"),
        ("trainer.max_epochs", "yes"),
        ("trainer.report", "1"),
        ("data.image_size", "[64, true]"),
    ],
)
def test_a_value_of_another_type_is_refused(key, value):
    with pytest.raises(RecipeError, match=key):
        parse("smoke", {key: value})


@pytest.mark.parametrize(("text", "value"), [("1e-5", 1e-5), ("2E-3", 2e-3), ("1", 1.0), (".5", 0.5)])
def test_numbers_with_an_exponent(text, value, tmp_path):
    assert parse("smoke", {"optim.lr": text}).optim.lr == value
    file = tmp_path / "recipe.yaml"
    file.write_text(f"task: classification\nmodel: {{name: sgformer_test}}\noptim: {{lr: {text}}}\n")
    assert parse(file).optim.lr == value


def test_an_old_key_names_the_new_one_and_old_runs_are_read(tmp_path):
    with pytest.raises(RecipeError, match=r"data\.image_size is now data\.shorter_side and data\.max_side"):
        parse("detection/smoke", {"data.image_size": "[64, 96]"})
    text = PACKAGED["detection/smoke"].read_text()
    old = re.sub(r"shorter_side: 64\n +max_side: 64", "image_size: [64, 96]", text)
    for name in ("mine.yaml", "recipe.yaml"):
        (tmp_path / name).write_text(old)
    with pytest.raises(RecipeError, match="is now"):
        parse(tmp_path / "mine.yaml")
    assert parse(tmp_path / "recipe.yaml").data.sides == (64, 96)


@pytest.mark.parametrize(("text", "number"), [("010", 10), ("08", 8), ("3", 3), ("1_0", 10), ("0x10", 16)])
def test_a_number_that_begins_with_nought_is_decimal(tmp_path, text, number):
    assert parse("smoke", {"trainer.max_epochs": text}).trainer.max_epochs == number
    file = tmp_path / "own.yaml"
    file.write_text(f"task: classification\ntrainer: {{max_epochs: {text}}}\n")
    assert recipe.parse(file, tasks.get("classification").Recipe).trainer.max_epochs == number


@pytest.mark.parametrize("text", ["08", "010", "1e5", "1:30", "0x_", "7"])
def test_text_like_a_number_is_read_back_as_text(tmp_path, text):
    """A folder or a class may be called so; a run's recipe is read again by --resume and evaluate."""
    made = parse("finetune", {"data.root": text, f"loss.weights.{text}": "2"})
    (tmp_path / "own.yaml").write_text(recipe.to_yaml(made))
    assert recipe.parse(tmp_path / "own.yaml", type(made)) == made


def test_a_time_is_no_number():
    with pytest.raises(RecipeError, match=r"trainer\.max_epochs.*1:30"):
        parse("smoke", {"trainer.max_epochs": "1:30"})
    for text in ("1:30.5", "0x_"):
        with pytest.raises(RecipeError, match=rf"optim\.lr.*{text}"):
            parse("smoke", {"optim.lr": text})
