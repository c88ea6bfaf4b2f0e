"""Cases that run once by the kernel and once by the engine, over both families, all of them at the same time.

Most of a case is waiting for its record. The numbers of records say who really had a flow, see `both_ends`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from support.carried import Middle
from support.namespaces import Namespaces
from support.program import Programs

Case = Callable[[Middle, str, int], None]


class Runs:
    """Cases that have begun, to be asked for one by one."""

    def __init__(self, middle: Middle, pool: ThreadPoolExecutor) -> None:
        self._middle, self._pool = middle, pool
        self._begun: dict[tuple[Case, str, int], Future[None]] = {}

    def begin(self, act: Case, carrier: str, family: int) -> None:
        self._begun[act, carrier, family] = self._pool.submit(act, self._middle, carrier, family)

    def end(self, act: Case, carrier: str, family: int) -> None:
        """Wait for it, and fail as it did. Who asks again has it run again: a second try is one."""
        if (act, carrier, family) not in self._begun:
            self.begin(act, carrier, family)
        self._begun.pop((act, carrier, family)).result()


@contextmanager
def middle_of_both(namespaces: Namespaces, programs: Programs, folders: pytest.TempPathFactory) -> Iterator[Middle]:
    made = Middle(namespaces, programs, folders.mktemp("data"))
    made.edge.start()
    _ = made.edge.applications  # the zone is made before many ask for it
    yield made
    made.edge.close()
    made.edge.stop()
    made.flush()


def for_both_carriers(cases: list[Case]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parameters `act`, `family` and `carrier` of the test that has each case's answer."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        test = pytest.mark.parametrize("carrier", ["kernel", "engine"])(test)
        test = pytest.mark.parametrize("family", [4, 6])(test)
        names = [case.__name__ for case in cases]
        decorated: Callable[..., None] = pytest.mark.parametrize("act", cases, ids=names)(test)
        return decorated

    return decorate


@contextmanager
def begun(middle: Middle, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Everything that was selected of the module that asks."""
    with ThreadPoolExecutor(24) as pool:
        runs = Runs(middle, pool)
        for item in request.session.items:
            if isinstance(item, pytest.Function) and item.module is request.module and "act" in item.callspec.params:
                wanted: dict[str, Any] = dict(item.callspec.params)
                runs.begin(wanted["act"], wanted["carrier"], wanted["family"])
        yield runs
