"""Where cities are, and what that makes of delays."""

import pytest

from causeway.lab.place import CITIES, LEAST_MS, Place, city

KNOWN = [  # from, to, kilometres along the great circle
    ("London", "New York", 5570),
    ("Amsterdam", "Frankfurt", 365),
    ("Singapore", "Sydney", 6300),
    ("Sao Paulo", "Lisbon", 7940),
    ("Tokyo", "San Jose", 8350),
]


@pytest.mark.parametrize(("a", "b", "kilometres"), KNOWN)
def test_distances_are_those_of_the_earth(a: str, b: str, kilometres: float) -> None:
    here, there = city(a), city(b)
    assert here and there
    assert here.distance_km(there) == pytest.approx(kilometres, rel=0.01)
    assert here.distance_km(there) == there.distance_km(here)


def test_a_city_is_found_by_name_or_code_in_any_case() -> None:
    assert city("AMS") == city("amsterdam") == Place("Amsterdam", 52.37, 4.90)
    assert city("Atlantis") is None


def test_every_city_has_a_name_a_code_and_a_place_of_its_own() -> None:
    codes, names = {code for code, *_ in CITIES}, {name.casefold() for _, name, *_ in CITIES}
    assert len(codes) == len(names) == len(CITIES) and not codes & names
    places = [found for code, *_ in CITIES if (found := city(code))]
    assert all(a.distance_km(b) > 30 for a in places for b in places if a != b)


def test_light_in_a_cable_takes_its_time_and_some_even_within_a_city() -> None:
    london, new_york = city("lhr"), city("ewr")
    assert london and new_york
    assert london.delay_ms(new_york) == pytest.approx(41.8, abs=0.5)
    assert london.delay_ms(new_york, detour=1) == pytest.approx(27.9, abs=0.3)
    assert london.delay_ms(london) == LEAST_MS
