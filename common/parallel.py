"""Work in several processes: one pool for every program that wants more than one core."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from common.cli import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
WAKE_EVERY = 2.0  # seconds


def in_parallel(
    work: Callable[[Task], Result], tasks: Iterable[Task], processes: int, remedy: str = "fewer --processes"
) -> Iterator[tuple[Task, Result]]:
    """(task, work(task)) for every task, as they are finished: in order with one process, otherwise in any order.

    Tasks are taken as there is room, so they may be many and large. work: a function of a module, or a partial of one;
    what it loads once a process belongs into an lru_cache. processes: 1 works here, without a pool.
    UserError: of `work`, as it is; or a worker was killed, and `remedy` follows "run the same command again with".
    """
    tasks = iter(tasks)
    first = list(islice(tasks, 2))
    if processes == 1 or len(first) < 2:
        for task in first:
            yield task, work(task)
        for task in tasks:
            yield task, work(task)
        return
    # "spawn", not "fork": threads of tokenizers, torch and the hub do not survive a fork.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    # A task larger than the pipe to the workers blocks its sender where they are gone, and Python waits for it at exit.
    pool._call_queue.cancel_join_thread()
    pending: dict[Future[Result], Task] = {}
    waiting = first
    try:
        while True:
            waiting += islice(tasks, max(processes + 1 - len(pending) - len(waiting), 0))
            pending |= {_submit(pool, work, task): task for task in waiting}
            waiting = []
            if not pending:
                break
            done, _ = wait(pending, WAKE_EVERY, FIRST_COMPLETED)
            if not done:
                # Of a worker that was started last the pool would not notice the death: it looks anew when it is woken.
                pool.submit(int)  # not cancelled: a pool that breaks would stumble over it
            for future in done:
                yield pending.pop(future), future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process was killed, probably for memory: run the same command again with {remedy}"
        ) from error
    finally:
        # After an error or an interrupt: the others would work on, or wait for tasks for ever.
        for child in multiprocessing.active_children():
            child.terminate()
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, work: Callable[[Task], Result], task: Task) -> Future[Result]:
    try:
        return pool.submit(work, task)
    except OSError as error:  # the process that was being started is gone
        raise BrokenProcessPool from error


def _follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and end with it even where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        with contextlib.suppress(InterruptedError):
            multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
