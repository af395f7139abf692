"""`each`: pieces of work by threads of one thread each, and nothing else of the process changed."""

import os
import threading
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sgformer.fast.workers import each


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


def test_an_error_arrives():
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
