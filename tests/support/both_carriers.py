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
Runs = dict[tuple[Case, str, int], Future[None]]


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
    runs: Runs = {}
    with ThreadPoolExecutor(24) as pool:
        for item in request.session.items:
            if isinstance(item, pytest.Function) and item.module is request.module and "act" in item.callspec.params:
                wanted: dict[str, Any] = dict(item.callspec.params)
                act, carrier, family = wanted["act"], wanted["carrier"], wanted["family"]
                runs[act, carrier, family] = pool.submit(act, middle, carrier, family)
        yield runs
