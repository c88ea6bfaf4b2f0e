"""A second try is alone with the machine, whatever runs beside it in other workers (support/apart.py)."""

import fcntl
import threading
from pathlib import Path

from support.apart import Turns
from support.patience import eventually


def is_taken(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_who_wants_to_be_alone_waits_for_others_and_goes_before_those_that_come_later(tmp_path: Path) -> None:
    gate, room = tmp_path / "gate", tmp_path / "room"
    gate.touch()
    room.touch()
    order: list[str] = []

    def take(name: str, is_alone: bool) -> threading.Thread:
        def run() -> None:
            turns = Turns(gate, room)
            turns.begin(is_alone)
            order.append(name)
            turns.end()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    present = Turns(gate, room)
    present.begin(is_alone=False)
    take("beside it", is_alone=False).join(5)
    assert order == ["beside it"]

    alone = take("alone", is_alone=True)
    eventually(lambda: is_taken(gate))  # it waits in the gate
    later = take("later", is_alone=False)
    assert order == ["beside it"]
    present.end()
    alone.join(5)
    later.join(5)
    assert order == ["beside it", "alone", "later"]
