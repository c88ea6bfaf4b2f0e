"""Fixtures for tests of the whole product; what they are made of is in `support`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.edge import Running
from support.namespaces import Namespace, Namespaces
from support.program import Programs


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Start real programs; they end with the test."""
    started = Programs(tmp_path)
    yield started
    started.end()


@pytest.fixture(scope="module")
def module_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    started = Programs(tmp_path_factory.mktemp("programs"))
    yield started
    started.end()


@pytest.fixture(scope="module")
def edge(module_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One edge on the loopback addresses of both families, for the tests of a module."""
    data_dir = tmp_path_factory.mktemp("data")
    running = Running(module_programs, data_dir, "--edge-ip", "127.0.0.1", "--edge-ip", "::1").start()
    yield running
    running.close()


@pytest.fixture
def make_edge(programs: Programs, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Make an edge of one's own, not started yet: `make_edge(*flags, inside=namespace)`."""
    made: list[Running] = []

    def make(
        *flags: str, inside: Namespace | None = None, data_dir: str = "data", under: Sequence[str] = ()
    ) -> Running:
        made.append(Running(programs, tmp_path / data_dir, *flags, inside=inside, under=under))
        return made[-1]

    yield make
    for running in made:
        running.close()


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Namespaces]:
    made = Namespaces()
    yield made
    made.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what its programs said."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for owner in item.funcargs.values():
            if isinstance(owner, Programs):
                report.sections += owner.transcripts()
    return report
