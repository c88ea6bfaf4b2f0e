"""Who has which port, against a book that is kept port by port."""

from datetime import UTC, datetime
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from causeway.model.application import Application, DirectOrigin, Dns, DnsType, Ports, Transport
from causeway.model.claims import Claims

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESSES = (ip_address("127.0.0.1"), ip_address("127.0.0.2"), ip_address("::1"))


def application(number: int, transport: Transport, first: int, last: int) -> Application:
    ports = Ports(first, last)
    origins = (DirectOrigin(ip_address("192.0.2.1"), ports),)
    dns = Dns(DnsType.CNAME, "a.example.net")
    return Application(f"{number:032x}", "z", dns, transport, ports, origins, WHEN, WHEN)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(Transport),
        st.integers(1, 40),
        st.integers(0, 10),
        st.sets(st.sampled_from(ADDRESSES), min_size=1),
        st.booleans(),
    ),
    max_size=40,
)


@given(STEPS)
def test_claims_agree_with_a_book_kept_port_by_port(steps: list[tuple[Transport, int, int, set[object], bool]]) -> None:
    claims, book, holders = Claims(), {}, []
    for number, (transport, first, length, addresses, is_removal) in enumerate(steps):
        if is_removal and holders:
            gone, where = holders.pop(first % len(holders))
            claims.remove(gone, where)
            book = {place: holder for place, holder in book.items() if holder != gone.id}
            continue
        candidate = application(number, transport, first, first + length)
        where = tuple(address for address in ADDRESSES if address in addresses)
        places = [(transport, a, port) for a in where for port in range(first, first + length + 1)]
        taken = {book[place] for place in places if place in book}
        found = claims.rival(candidate, where)
        assert (found is not None) == bool(taken)
        if found:
            assert found[0] in taken
        else:
            claims.add(candidate, where)
            assert claims.rival(candidate, where) is None, "nobody is its own rival"
            book |= dict.fromkeys(places, candidate.id)
            holders.append((candidate, where))
