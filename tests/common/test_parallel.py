from __future__ import annotations

import os
import signal
import time

import pytest

from common.cli import UserError
from common.parallel import in_parallel


def square(number: int) -> int:
    return number**2


def kill_worker(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


def refuse(number: int) -> int:
    if number == 1:
        raise UserError("one is not liked")
    time.sleep(30)
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_all_tasks_are_done_and_few_are_taken_ahead(processes):
    taken = []
    tasks = (taken.append(i) or i for i in range(20))
    found = {}
    for task, result in in_parallel(square, tasks, processes):
        found[task] = result
        assert len(taken) <= len(found) + processes + 1
    assert found == {i: i**2 for i in range(20)}


def test_a_killed_worker_ends_the_work_with_a_line():
    with pytest.raises(UserError, match=r"a worker process was killed, .* again with fewer --workers"):
        list(in_parallel(kill_worker, range(10), 2, "fewer --workers"))


def test_an_error_in_a_worker_does_not_wait_for_the_others():
    started = time.monotonic()
    with pytest.raises(UserError, match="one is not liked"):
        list(in_parallel(refuse, range(5), 2))
    assert time.monotonic() - started < 25
