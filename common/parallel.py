"""Work in several processes: one pool for every program that uses more than one core."""

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
    """Yield (task, work(task)) for every task as it finishes: in order with one process, otherwise in any order.

    Tasks are taken only as needed, so they may be many and large. work: a module-level function, or a partial of one;
    what it loads once per process belongs in an lru_cache. processes: 1 works in this process, without a pool. Errors
    of `work` are passed on. UserError: a worker was killed; `remedy` follows "run the same command again with".
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
    # If the workers are gone, a task larger than the pipe blocks its sender, for which Python would wait at exit.
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
                # The pool does not notice the death of the worker started last until it is woken.
                pool.submit(int)  # never cancelled: a breaking pool would fail on a cancelled future
            for future in done:
                yield pending.pop(future), future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process was killed, probably for memory: run the same command again with {remedy}"
        ) from error
    finally:
        # After an error or an interrupt, the other workers would go on, or wait for tasks for ever.
        for child in multiprocessing.active_children():
            child.terminate()
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, work: Callable[[Task], Result], task: Task) -> Future[Result]:
    try:
        return pool.submit(work, task)
    except OSError as error:  # a worker died while it was being started
        raise BrokenProcessPool from error


def _follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and exit when the parent ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        with contextlib.suppress(InterruptedError):
            multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
