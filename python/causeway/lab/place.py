"""Where a node is, and how long light takes between two places. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt

_EARTH_KM = 6371.0
_FIBRE_KM_MS = 200.0  # two thirds of the speed of light
DETOUR = 1.5  # cables do not follow great circles; what measured round trips come to, at the median
LEAST_MS = 0.25  # one way, within a city


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    latitude: float
    longitude: float

    def distance_km(self, other: Place) -> float:
        """Along the great circle."""
        north, other_north = radians(self.latitude), radians(other.latitude)
        half_north, half_east = (other_north - north) / 2, radians(other.longitude - self.longitude) / 2
        chord = sin(half_north) ** 2 + cos(north) * cos(other_north) * sin(half_east) ** 2
        return 2 * _EARTH_KM * asin(sqrt(min(1.0, chord)))

    def delay_ms(self, other: Place, detour: float = DETOUR) -> float:
        """One way."""
        return max(LEAST_MS, self.distance_km(other) * detour / _FIBRE_KM_MS)


def city(name: str) -> Place | None:
    """Find a city by its name or the code of its airport, in any case."""
    wanted = name.casefold()
    for code, full, latitude, longitude in CITIES:
        if wanted in (code, full.casefold()):
            return Place(full, latitude, longitude)
    return None


CITIES = (  # code of its airport, name, degrees north, degrees east
    ("acc", "Accra", 5.60, -0.19),
    ("akl", "Auckland", -36.85, 174.76),
    ("ams", "Amsterdam", 52.37, 4.90),
    ("arn", "Stockholm", 59.33, 18.07),
    ("ath", "Athens", 37.98, 23.73),
    ("atl", "Atlanta", 33.75, -84.39),
    ("bcn", "Barcelona", 41.39, 2.17),
    ("bkk", "Bangkok", 13.76, 100.50),
    ("bne", "Brisbane", -27.47, 153.03),
    ("bog", "Bogota", 4.71, -74.07),
    ("bom", "Mumbai", 19.08, 72.88),
    ("bos", "Boston", 42.36, -71.06),
    ("bru", "Brussels", 50.85, 4.35),
    ("bud", "Budapest", 47.50, 19.04),
    ("cai", "Cairo", 30.04, 31.24),
    ("cdg", "Paris", 48.86, 2.35),
    ("cgk", "Jakarta", -6.21, 106.85),
    ("cph", "Copenhagen", 55.68, 12.57),
    ("cpt", "Cape Town", -33.92, 18.42),
    ("del", "Delhi", 28.61, 77.21),
    ("den", "Denver", 39.74, -104.99),
    ("dfw", "Dallas", 32.78, -96.80),
    ("dub", "Dublin", 53.35, -6.26),
    ("dxb", "Dubai", 25.20, 55.27),
    ("ewr", "New York", 40.71, -74.01),
    ("eze", "Buenos Aires", -34.60, -58.38),
    ("fra", "Frankfurt", 50.11, 8.68),
    ("gru", "Sao Paulo", -23.55, -46.63),
    ("hel", "Helsinki", 60.17, 24.94),
    ("hkg", "Hong Kong", 22.32, 114.17),
    ("iad", "Ashburn", 39.04, -77.49),
    ("icn", "Seoul", 37.57, 126.98),
    ("ist", "Istanbul", 41.01, 28.98),
    ("jnb", "Johannesburg", -26.20, 28.05),
    ("kix", "Osaka", 34.69, 135.50),
    ("lax", "Los Angeles", 34.05, -118.24),
    ("lhr", "London", 51.51, -0.13),
    ("lim", "Lima", -12.05, -77.04),
    ("lis", "Lisbon", 38.72, -9.14),
    ("los", "Lagos", 6.52, 3.38),
    ("mad", "Madrid", 40.42, -3.70),
    ("mel", "Melbourne", -37.81, 144.96),
    ("mex", "Mexico City", 19.43, -99.13),
    ("mia", "Miami", 25.76, -80.19),
    ("mrs", "Marseille", 43.30, 5.37),
    ("muc", "Munich", 48.14, 11.58),
    ("mxp", "Milan", 45.46, 9.19),
    ("nbo", "Nairobi", -1.29, 36.82),
    ("nrt", "Tokyo", 35.68, 139.69),
    ("ord", "Chicago", 41.88, -87.63),
    ("osl", "Oslo", 59.91, 10.75),
    ("otp", "Bucharest", 44.43, 26.10),
    ("per", "Perth", -31.95, 115.86),
    ("prg", "Prague", 50.08, 14.44),
    ("scl", "Santiago", -33.45, -70.67),
    ("sea", "Seattle", 47.61, -122.33),
    ("sin", "Singapore", 1.35, 103.82),
    ("sjc", "San Jose", 37.34, -121.89),
    ("sof", "Sofia", 42.70, 23.32),
    ("syd", "Sydney", -33.87, 151.21),
    ("tpe", "Taipei", 25.03, 121.57),
    ("txl", "Berlin", 52.52, 13.40),
    ("vie", "Vienna", 48.21, 16.37),
    ("waw", "Warsaw", 52.23, 21.01),
    ("yul", "Montreal", 45.50, -73.57),
    ("yvr", "Vancouver", 49.28, -123.12),
    ("yyz", "Toronto", 43.65, -79.38),
    ("zrh", "Zurich", 47.38, 8.54),
)
