"""Which identity an edge starts with: the one it was certified with, or that of a later invitation."""

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from causeway.exchange import identity
from causeway.exchange.authority import Authority
from causeway.exchange.identity import Identity
from causeway.exchange.nats_jwt import Rights, user_jwt
from causeway.premises import edge_identity
from causeway.settings import StartError

NAME = "fra-1"
HOUR_S = 3_600


@dataclass
class Place:
    authority: Authority
    kept: Path
    join: Path

    def write(self, path: Path, invitation: str, made_s: int, lives_s: int, name: str = NAME) -> Identity:
        """An identity of that age, counted from now."""
        key, _ = identity.new_key()
        now = int(time.time())
        said = user_jwt(key, key.public_key(), name, Rights(), now + made_s, now + made_s + lives_s)
        own = self.authority.invitation("1" * 32, name)
        made = msgspec.structs.replace(own, invitation=invitation, jwt=said)
        identity.write(path, made)
        return made


@pytest.fixture
def place(tmp_path: Path) -> Place:
    authority = Authority(tmp_path / "authority", "tls://127.0.0.1:4222")
    return Place(authority, tmp_path / "identity.json", tmp_path / "fra-1.join")


@pytest.mark.parametrize(
    ("invited_s", "lives_s", "is_kept"),
    [
        (-2 * HOUR_S, HOUR_S, True),  # the one that was used
        (-HOUR_S // 2, HOUR_S, False),  # a later one: it was revoked, or its certificate had ended
        (-HOUR_S // 2, 60, True),  # a later one that nobody used in time
    ],
)
def test_a_later_invitation_counts_while_it_is_one(place: Place, invited_s: int, lives_s: int, is_kept: bool) -> None:
    kept = place.write(place.kept, "", -HOUR_S, 24 * HOUR_S)
    invited = place.write(place.join, "1" * 32, invited_s, lives_s)
    assert edge_identity(place.kept, place.join) == (kept if is_kept else invited)


def test_what_is_kept_needs_no_invitation_any_more(place: Place) -> None:
    kept = place.write(place.kept, "", -HOUR_S, 24 * HOUR_S)
    assert edge_identity(place.kept, place.join) == kept


def test_an_edge_that_is_new_begins_with_its_invitation(place: Place) -> None:
    invited = place.write(place.join, "1" * 32, 0, HOUR_S)
    assert edge_identity(place.kept, place.join) == invited


def test_an_invitation_of_another_edge_and_a_copied_identity_are_refused(place: Place) -> None:
    place.write(place.kept, "", -HOUR_S, 24 * HOUR_S)
    place.write(place.join, "1" * 32, 0, HOUR_S, "ams-1")
    with pytest.raises(StartError, match="a --data-dir of its own"):
        edge_identity(place.kept, place.join)
    place.write(place.join, "", 0, HOUR_S)
    with pytest.raises(StartError, match="on one machine alone"):
        edge_identity(place.kept, place.join)
