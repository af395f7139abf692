"""`sgformer benchmark`: what its files hold, what it refuses, and that its scales are true."""

import csv
import json
import os

import pytest
import torch

from sgformer.benchmark import machine_load, measure, parity, turns, worker
from sgformer.benchmark.measure import Case
from sgformer.commands.benchmark import COLUMNS, benchmark
from sgformer.commands.inputs import parse_size
from sgformer.ops import float32
from sgformer_cli import run

TINY = {"size": [64], "rounds": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """Samples of one step, without rest; the number of threads stays what it is."""
    monkeypatch.setattr(turns, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(turns, "MIN_SECONDS", 0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_files_hold_a_row_for_each_model_and_their_protocol(tmp_path):
    names = ["sgformer_test@3", "resnet10t"]
    path = benchmark(names, size=["64", "33x47"], memory=False, rounds=2, device="cpu", out=tmp_path)
    rows = list(csv.DictReader(path.open()))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["model"] for row in rows] == names * 2
    assert {(row["height"], row["width"]) for row in rows} == {("64", "64"), ("33", "47")}
    for row in rows:
        assert 0 < float(row["seconds_q25"]) <= float(row["seconds_median"]) <= float(row["seconds_q75"])
        assert float(row["images_per_second"]) == pytest.approx(1 / float(row["seconds_median"]), rel=1e-3)
        assert row["peak_memory_mb"] == ""
    protocol = json.loads(path.with_suffix(".json").read_text())
    assert protocol["rounds"] == 2
    assert protocol["num_threads"] == torch.get_num_threads()
    assert protocol["versions"]["torch"] in torch.__version__
    assert path.with_suffix(".png").stat().st_size > 5000
    assert f"{torch.get_num_threads()}threads_torch" in path.name
    assert protocol["freed_memory"] == "kept"
    again = benchmark(["resnet10t"], memory=False, keep_memory=False, out=tmp_path, **TINY)
    assert again != path  # an earlier result is never overwritten
    assert json.loads(again.with_suffix(".json").read_text())["freed_memory"] == "given back"


def test_freed_memory_is_kept_where_a_case_says_so(monkeypatch):
    calls = []
    monkeypatch.setattr("sgformer.fast.keep_freed_memory", lambda: calls.append(1))
    measure.step_of(Case("resnet10t", 32, 32, keep_memory=False))
    assert not calls
    measure.step_of(Case("resnet10t", 32, 32))
    assert calls


@pytest.mark.exhaustive
def test_memory_is_that_of_the_step_and_not_of_the_model(tmp_path):
    """The largest maps of a ResNet of 256 pixels are 64 times those of 32; the parameters are the same."""
    sizes = [Case("resnet10t", n, n) for n in (32, 512)]
    ((small,), (large,)) = turns.measure_in_turns([[case] for case in sizes], rounds=0, threads=1)
    assert large.peak_memory_mb > small.peak_memory_mb + 20
    assert large.samples == []
    path = benchmark(["sgformer_test"], time=False, out=tmp_path, **TINY)
    (row,) = csv.DictReader(path.open())
    assert 0 < float(row["peak_memory_mb"]) < 500
    assert row["seconds_median"] == ""


def test_models_take_turns_forth_and_back():
    order = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def peak_memory(self):
            order.append(self.name.upper())

        def seconds(self, repeats):
            order.append(self.name)
            return 1.0

    measured = turns.take_turns([Recorder(name) for name in "abc"], rounds=2)
    assert "".join(order) == "ABC" + "abc" + "abc" + "cba"
    assert [len(m.samples) for m in measured] == [2, 2, 2]


def test_neighbours_are_there_while_times_are_taken(monkeypatch):
    seen = []

    class Recorder:
        def peak_memory(self):
            seen.append(neighbours())

        def seconds(self, repeats):
            seen.append(neighbours())
            return 1.0

    started = []
    original = machine_load.subprocess.Popen
    monkeypatch.setattr(machine_load.subprocess, "Popen", lambda *args: started.append(original(*args)) or started[-1])

    def neighbours():
        return sum(process.poll() is None for process in started)

    turns.take_turns([Recorder()], rounds=1, neighbours=1.5)
    assert seen == [0, 2, 2]
    assert neighbours() == 0


def test_a_busy_machine_is_told(monkeypatch, tmp_path):
    ticks = iter([100.0, 100.0 + os.sysconf("SC_CLK_TCK")])
    monkeypatch.setattr(machine_load, "_ticks", lambda: next(ticks))
    with pytest.warns(UserWarning, match=r"keep 2\.0 of .* cores busy"):
        path = benchmark(["resnet10t"], memory=False, neighbours=0.5, float32="default", out=tmp_path, **TINY)
    assert json.loads(path.with_suffix(".json").read_text())["busy_cores_before"] == 2.0
    assert [row["neighbours"] for row in csv.DictReader(path.open())] == ["0.5"]
    assert machine_load.warning(0.1) is None
    with pytest.raises(ValueError, match="neighbours"):
        benchmark(["resnet10t"], neighbours=-1, out=tmp_path, **TINY)


def test_both_kinds_of_products_take_turns(monkeypatch, tmp_path):
    monkeypatch.setattr(turns, "Worker", Pretender)
    monkeypatch.setattr(float32, "why_not", lambda: None)
    path = benchmark(["resnet10t"], dtype=["float32", "bfloat16"], float32="both", out=tmp_path, **TINY)
    rows = [(row["dtype"], row["float32"]) for row in csv.DictReader(path.open())]
    assert rows == [("float32", "default"), ("float32", "fast"), ("bfloat16", "default")]
    monkeypatch.setattr(float32, "why_not", lambda: "it rounds")
    with pytest.raises(ValueError, match="it rounds"):
        benchmark(["resnet10t"], float32="both", out=tmp_path, **TINY)
    with pytest.warns(UserWarning, match="it rounds"):
        path = benchmark(["sgformer_test", "resnet10t"], float32="both", out=tmp_path, **TINY)
    rows = [(row["model"], row["float32"]) for row in csv.DictReader(path.open())]
    assert rows == [("sgformer_test", "default"), ("resnet10t", "default"), ("sgformer_test", "fast")]


class Pretender:
    """A worker without a process."""

    def __init__(self, case, *, threads):
        self.case = case

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def peak_memory(self):
        return 1.0

    def seconds(self, repeats):
        return 1.0


def test_all_may_be_built_at_once():
    groups = [[Case("resnet10t", n, n)] for n in (32, 64)]
    measured = list(turns.measure_in_turns(groups, rounds=1, threads=1, together=True))
    assert [len(of_group) for of_group in measured] == [1, 1]
    assert all(of_group[0].samples[0] > 0 for of_group in measured)


def test_a_worker_counts_the_steps_it_is_asked_for(monkeypatch, capsys):
    steps = []
    monkeypatch.setattr(worker, "step_of", lambda case: lambda: steps.append(1))
    monkeypatch.setattr("sys.stdin", iter(["3\n"]))
    worker.serve(Case("resnet10t", 32, 32))
    assert len(steps) == 1 + 3
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["peak_memory_mb"] >= 0
    assert second["seconds"] > 0


def test_a_process_that_dies_is_named():
    case = Case("resnet10t", 32, 32)
    with turns.Worker(case, threads=1) as dying:
        dying._process.kill()
        with pytest.raises(RuntimeError, match="the process that measures resnet10t ended"):
            dying.peak_memory()


def test_a_training_step_trains(monkeypatch):
    model = measure.create(Case("sgformer_test", 64, 64))
    monkeypatch.setattr(measure, "create", lambda case: model)
    before = [p.detach().clone() for p in model.parameters()]
    measure.step_of(Case("sgformer_test", 64, 64, mode="training", dtype="bfloat16"))()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert all(p.dtype is torch.float32 for p in model.parameters())


def test_counts_are_those_of_the_readme():
    mparams, gmacs = measure.count(Case("sgformer_s", 224, 224))
    assert (mparams, gmacs) == pytest.approx((22.55, 4.78), abs=0.007)
    assert measure.count(Case("sgformer_s@60", 224, 224))[1] < gmacs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parity_holds(dtype):
    assert parity.failures(dtype=dtype) == []


def test_no_speed_while_parity_fails(monkeypatch, tmp_path, capsys):
    wrong = {case: tuple(logit + 1e-6 for logit in logits) for case, logits in parity.EXPECTED.items()}
    monkeypatch.setattr(parity, "EXPECTED", wrong)
    assert run(["benchmark", "sgformer_test", "--out", str(tmp_path), "--size", "64", "--device", "cpu"]) == 2
    assert "no speed is reported while parity fails: sgformer_test at 33x47" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    benchmark(["resnet10t"], memory=False, out=tmp_path, **TINY)  # has no part in it


def test_parity_sees_a_wrong_significance(monkeypatch):
    from sgformer import SGFormer

    original = SGFormer.forward_significance
    monkeypatch.setattr(
        SGFormer,
        "forward_significance",
        lambda self, x: [m * 1.001 if x.dtype is torch.float32 else m for m in original(self, x)],
    )
    assert all("significance in float32" in sentence for sentence in parity.failures())
    assert len(parity.failures()) == len(parity.EXPECTED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sgformer_x"], "timm has no model 'sgformer_x'"),
        (["resnet10t@20"], "a token budget is a number after @"),
        (["sgformer_test@many"], "a token budget is a number after @"),
        (["sgformer_test", "--size", "224y"], "size '224y' is neither a number nor HEIGHTxWIDTH"),
        (["sgformer_test", "--size", "0"], "size '0'"),
        (["sgformer_test", "--rounds", "0"], "must be at least 1"),
        (["sgformer_test", "--no-time", "--no-memory"], "nothing to measure"),
        (["sgformer_test", "--size", "31"], "needs at least 32x32"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, capsys):
    assert run(["benchmark", *arguments, "--out", str(tmp_path), "--device", "cpu"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_sizes():
    assert [parse_size(s) for s in (224, "64", "800x1333")] == [(224, 224), (64, 64), (800, 1333)]
