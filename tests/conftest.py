"""Fixtures for tests of the whole product; what they are made of is in `support`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.apart import Turns, move_to_a_network_of_its_own
from support.edge import Running
from support.namespaces import Namespace, Namespaces
from support.postgres import PostgresServer, postgres_server
from support.program import Programs


@pytest.hookimpl(trylast=True)  # pytest-rerunfailures connects to the process that counts tries before
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # of pytest-xdist: others run beside it
        move_to_a_network_of_its_own()
        config.pluginmanager.register(InTurn())


class InTurn:
    """The second try of a test waits until nothing runs beside it: the first may have failed because of that."""

    def __init__(self) -> None:
        self._turns = Turns(Path(__file__), Path(__file__).parent / "support/apart.py")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._turns.begin(is_alone=getattr(item, "execution_count", 1) > 1)  # of pytest-rerunfailures

    def pytest_runtest_logfinish(self) -> None:
        self._turns.end()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, the files that take longest begin first, so that no worker is left with one in the end."""
    if hasattr(config, "workerinput"):
        places = {"netns": 0, "contract": 1}
        items.sort(key=lambda item: places.get(item.path.parent.name, 2))


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


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One for all tests that make a database of their own in it."""
    started = Programs(tmp_path_factory.mktemp("postgres"))
    try:
        with postgres_server(started) as server:
            yield server
    finally:
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name each test that needed a second try, with what its programs said at the first (`scripts/test` allows one)."""
    lost = {report.nodeid for kind in ("failed", "error") for report in terminalreporter.stats.get(kind, [])}
    unlucky = [report for report in terminalreporter.stats.get("rerun", []) if report.nodeid not in lost]
    for report in unlucky:
        terminalreporter.section(f"passed only at the second try: {report.nodeid}", "-", yellow=True)
        for title, said in report.sections:
            terminalreporter.write_line(f"{title}: {said}")
