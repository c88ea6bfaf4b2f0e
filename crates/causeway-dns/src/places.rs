//! Where an address is: by the operator's MMDB file, which says a country or degrees, and a place for each country.
//!
//! What is not known is not guessed. A file that turns out to be damaged answers nothing.

use std::collections::HashMap;
use std::net::IpAddr;

use maxminddb::Reader;
use serde::Deserialize;

use crate::error::DnsError;

/// A place on the sphere, as a vector of length 1: what is nearer has the larger product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point([f64; 3]);

impl Point {
    /// # Errors
    /// There is no such place.
    pub fn of(latitude: f64, longitude: f64) -> Result<Self, String> {
        if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
            return Err(format!("{latitude},{longitude} are no degrees north and east"));
        }
        let (north, east) = (latitude.to_radians(), longitude.to_radians());
        Ok(Self([north.cos() * east.cos(), north.cos() * east.sin(), north.sin()]))
    }

    /// The cosine of the angle between the two.
    #[must_use]
    pub fn nearness(self, other: Self) -> f64 {
        self.0.iter().zip(other.0).map(|(mine, its)| mine * its).sum()
    }
}

#[derive(Debug)]
pub struct Places {
    reader: Reader<Vec<u8>>,
    countries: HashMap<String, Point>,
}

/// What is known of an address. `prefix_bits`: of the network that it holds for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub point: Option<Point>,
    pub prefix_bits: u8,
}

#[derive(Deserialize)]
struct Row {
    location: Option<Degrees>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    country_code: Option<String>,
    country: Option<Country>,
}

#[derive(Deserialize)]
struct Degrees {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Country {
    Code(String),
    Record { iso_code: Option<String> },
}

impl Places {
    /// # Errors
    /// It is no MMDB file.
    pub fn from_mmdb(content: Vec<u8>) -> Result<Self, DnsError> {
        let told = |error| DnsError::Places(format!("it is no MMDB file: {error}"));
        Ok(Self { reader: Reader::from_source(content).map_err(told)?, countries: countries() })
    }

    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Found> {
        let found = self.reader.lookup(address).ok()?;
        let network = found.network().ok()?;
        // An IPv4 address that is found above where IPv4 begins in the tree.
        let prefix_bits = if network.network().is_ipv4() == address.is_ipv4() { network.prefix() } else { 0 };
        let row = if found.has_data() { found.decode::<Row>().ok().flatten() } else { None };
        Some(Found { point: row.and_then(|row| self.point(row)), prefix_bits })
    }

    fn point(&self, row: Row) -> Option<Point> {
        let inner = row.location.map(|at| (at.latitude, at.longitude));
        if let Some((Some(latitude), Some(longitude))) = inner.or(Some((row.latitude, row.longitude))) {
            return Point::of(latitude, longitude).ok();
        }
        let code = match (row.country_code, row.country) {
            (Some(code), _) | (None, Some(Country::Code(code))) => code,
            (None, Some(Country::Record { iso_code })) => iso_code?,
            (None, None) => return None,
        };
        self.countries.get(&code.to_ascii_uppercase()).copied()
    }
}

fn countries() -> HashMap<String, Point> {
    let lines =
        include_str!("../../../python/causeway/model/countries.csv").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(country).collect()
}

fn country(line: &str) -> Option<(String, Point)> {
    let (code, degrees) = line.split_once(',')?;
    let (latitude, longitude) = degrees.split_once(',')?;
    Some((code.to_string(), Point::of(latitude.parse().ok()?, longitude.parse().ok()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_countries_is_read_and_each_is_where_it_is() {
        let found = countries();
        assert_eq!(found.len(), include_str!("../../../python/causeway/model/countries.csv").lines().count() - 1);
        let paris = Point::of(48.86, 2.35).unwrap();
        assert!(found["DE"].nearness(paris) > found["US"].nearness(paris));
        assert!(found["US"].nearness(paris) > found["AU"].nearness(paris));
    }

    #[test]
    fn degrees_beyond_the_sphere_are_refused() {
        for (latitude, longitude) in [(90.1, 0.0), (0.0, -180.5), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert!(Point::of(latitude, longitude).is_err(), "{latitude},{longitude}");
        }
    }
}
