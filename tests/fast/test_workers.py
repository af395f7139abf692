"""`each`: pieces of work by threads of one thread each, and nothing else of the process changed."""

import os
import threading
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sgformer.fast.workers import conducted, each


@pytest.fixture(autouse=True)
def _two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_results_come_in_order_from_threads_that_have_one_each():
    def task(i, seconds):
        time.sleep(seconds)
        return i, threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()

    results = each(task, [(0, 0.05), (1, 0.01), (2, 0.01)])
    numbers, idents, threads, gradients = zip(*results, strict=True)
    assert numbers == (0, 1, 2)
    assert len(set(idents)) == 2
    assert threading.get_ident() not in idents
    assert set(threads) == {1}
    assert not any(gradients)
    assert torch.get_num_threads() == 2
    begun = []
    thread = threading.Thread(target=lambda: begun.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert begun == [2]  # a thread of somebody else's has what it would have had


def test_what_lies_between_pieces_is_one_threads_work_too():
    def way(segment, x):
        def piece(i):
            return threading.get_ident(), torch.get_num_threads()

        here = threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()
        return here, each(piece, [(i,) for i in range(4)])

    segment = torch.nn.Linear(1, 1)
    (conductor, threads, gradients), pieces = conducted(way)(segment, torch.ones(1))
    assert conductor != threading.get_ident()
    assert (threads, gradients) == (1, False)
    assert conductor not in {ident for ident, _ in pieces}
    assert {threads for _, threads in pieces} == {1}
    assert torch.get_num_threads() == 2
    segment.register_forward_hook(lambda *args: None)  # it is to run where the user is
    (conductor, threads, _), _ = conducted(way)(segment, torch.ones(1))
    assert (conductor, threads) == (threading.get_ident(), 2)


def test_many_may_conduct_at_a_time():
    def way(segment, seconds):
        return sum(each(lambda i: time.sleep(seconds) or i, [(i,) for i in range(4)]))

    threads = [threading.Thread(target=lambda: sums.append(conducted(way)(torch.nn.ReLU(), 0.01))) for _ in range(8)]
    sums: list[int] = []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sums == [6] * 8


def test_an_error_arrives():
    def fail(segment, x):
        raise ValueError("the way")

    with pytest.raises(ValueError, match="the way"):
        conducted(fail)(torch.nn.ReLU(), torch.ones(1))

    def task(i):
        if i == 1:
            raise ValueError("piece 1")
        return i

    with pytest.raises(ValueError, match="piece 1"):
        each(task, [(i,) for i in range(4)])
    assert each(task, [(2,), (3,)]) == [2, 3]


def test_what_watches_one_thread_sees_it_all():
    x = torch.ones(8, 8)
    with FlopCounterMode(display=False) as counter:
        each(torch.mm, [(x, x)] * 3)
    assert counter.get_total_flops() == 3 * 2 * 8**3
    with torch.profiler.profile() as profile:
        each(torch.mm, [(x, x)] * 3)
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::mm") == 3


def test_tensors_of_inference_mode_may_be_written_to():
    with torch.inference_mode():
        x = torch.zeros(4, 3)
        each(lambda row: row.add_(1), [(row,) for row in x])
        assert x.sum() == 12


def test_one_thread_does_it_alone():
    torch.set_num_threads(1)
    assert set(each(lambda i: threading.get_ident(), [(0,), (1,)])) == {threading.get_ident()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_starts_its_own():
    each(lambda i: i, [(0,), (1,)])
    child = os.fork()
    if child == 0:
        os._exit(0 if each(lambda i: i, [(0,), (1,)]) == [0, 1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
