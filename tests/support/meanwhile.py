"""Something that goes on beside a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def again_and_again(act: Callable[[], object]) -> Iterator[None]:
    """Do it without a pause, in a thread, for as long as the block lasts."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
