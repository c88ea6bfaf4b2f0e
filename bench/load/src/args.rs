//! Options as `--name value`. A wrong one ends the program with status 2: the caller is a script.
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

pub struct Args {
    words: Vec<String>,
}

impl Args {
    pub fn from_env() -> Self {
        Self { words: std::env::args().skip(1).collect() }
    }

    pub fn mode(&mut self) -> String {
        if self.words.is_empty() { String::new() } else { self.words.remove(0) }
    }

    pub fn to(&mut self) -> SocketAddr {
        self.optional("--to").unwrap_or_else(|| refuse("--to ADDRESS:PORT is needed"))
    }

    pub fn value<T: FromStr<Err: Display>>(&mut self, name: &str, otherwise: T) -> T {
        self.optional(name).unwrap_or(otherwise)
    }

    pub fn seconds(&mut self, name: &str, otherwise: f64) -> Duration {
        let seconds: f64 = self.value(name, otherwise);
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|length| length.as_secs() <= 3600)
            .unwrap_or_else(|| refuse(format!("{name} {seconds}: 0 to 3600 seconds")))
    }

    pub fn count(&mut self, name: &str, otherwise: usize, most: usize) -> usize {
        let count = self.value(name, otherwise);
        if count == 0 || count > most {
            refuse(format!("{name} {count}: 1 to {most}"));
        }
        count
    }

    pub fn optional<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let at = self.words.iter().position(|word| word == name)?;
        self.words.remove(at);
        if at == self.words.len() {
            refuse(format!("{name} needs a value"));
        }
        let word = self.words.remove(at);
        Some(word.parse().unwrap_or_else(|error| refuse(format!("{name} {word}: {error}"))))
    }

    /// To be called once every option has been asked for.
    pub fn done(&self) {
        if let Some(word) = self.words.first() {
            refuse(format!("{word}: not an option of this mode"));
        }
    }
}

pub fn refuse(message: impl Display) -> ! {
    eprintln!("causeway-load: {message}");
    std::process::exit(2)
}
