import contextlib
import types

import pytest
import torch

from sgformer.engine import threads
from sgformer.engine.callbacks import ChooseThreads
from sgformer.engine.run_folder import say
from sgformer.engine.threads import MAX_SECONDS, SECONDS, Threads


class Machine:
    """So many cores, of which others keep some busy, and a clock; a thread waits for the one whose core is shared."""

    def __init__(self, cores, busy=0):
        self.cores, self.busy, self.now, self.asked = cores, busy, 0.0, []

    def clock(self):
        return self.now

    def rate(self, number):
        self.asked.append(number)
        return 1.0 if number + self.busy <= self.cores else 0.5


@pytest.fixture
def choose(monkeypatch):
    """A run of some steps on a machine: how many threads compute in the end."""
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def start(machine, device="cpu", world_size=1):
        monkeypatch.setattr(torch, "get_num_threads", lambda: machine.cores)
        chooser = ChooseThreads(Threads(say, machine.rate, machine.clock))
        chooser.on_fit_start(
            types.SimpleNamespace(world_size=world_size), types.SimpleNamespace(device=torch.device(device))
        )

        def run(steps, seconds=1.0):
            for _ in range(steps):
                machine.now += seconds
                chooser.on_train_batch_start(None, None, None, 0)
            return chooser.threads.threads

        return chooser, run, set_to

    return start


@pytest.mark.parametrize(
    ("cores", "busy", "found"), [(2, 0, 2), (2, 1, 1), (4, 1, 3), (4, 2, 2), (64, 0, 64), (64, 1, 63)]
)
def test_as_many_threads_as_do_not_wait(choose, cores, busy, found):
    machine = Machine(cores, busy)
    _, run, set_to = choose(machine)
    assert run(100) == found
    assert (set_to or [cores])[-1] == found


def test_back_when_the_others_leave_and_as_before_after_the_run(choose, capsys):
    machine = Machine(2, 1)
    chooser, run, set_to = choose(machine)
    assert run(20) == 1
    machine.busy = 0
    assert run(2 * int(MAX_SECONDS)) == 2
    machine.busy = 1
    assert run(2 * int(MAX_SECONDS)) == 1
    chooser.on_exception(None, None, KeyboardInterrupt())
    assert set_to[-1] == 2
    assert capsys.readouterr().out.count("1 of 2 threads") == 1  # a line a run


def test_a_quiet_machine_is_looked_at_less_and_less_often(choose):
    machine = Machine(2)
    _, run, _ = choose(machine)
    run(1000)
    assert len(machine.asked) <= 2 * threads.SAMPLES * (3 + 1000 / MAX_SECONDS)


def test_steps_that_become_slow_are_looked_into_soon(choose):
    machine = Machine(2)
    _, run, _ = choose(machine)
    run(300)
    machine.busy, start = 1, machine.now
    while run(1, seconds=4.0) == 2:
        pass
    assert machine.now - start <= SECONDS + 8


@pytest.mark.parametrize("fixed", [{"device": "meta"}, {"world_size": 2}, {"device": "cpu"}])
def test_what_is_left_alone(choose, monkeypatch, fixed):
    if fixed == {"device": "cpu"}:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    _, run, set_to = choose(Machine(2, 1), **fixed)
    run(100)
    assert set_to == []


@pytest.mark.parametrize(("busy", "seen"), [(1, [1, 1, 1]), (0, [2, 2, 2])])
def test_a_command_looks_before_its_first_step(monkeypatch, busy, seen):
    """Its steps may take minutes each. Afterwards, also after an error, all is as before."""
    machine = Machine(2, busy)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "operations_a_second", machine.rate)
    before, said = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        with contextlib.suppress(KeyError), threads.choosing(torch.device("cpu"), said.append) as before_step:
            for number in seen:
                before_step()
                assert torch.get_num_threads() == number
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert said == ["other work keeps cores busy: 1 of 2 threads compute, until it is over"] * busy


def test_operations_are_timed():
    before = torch.get_num_threads()
    try:
        assert threads.operations_a_second(1) > 0
    finally:
        torch.set_num_threads(before)
