//! A line between two edges that a test can cut: with a word, or without one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone)]
pub struct Line {
    pub at: SocketAddr,
    is_silent: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    pub fn to(target: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Line { at: listener.local_addr().unwrap(), is_silent: Arc::default(), open: Arc::default() };
        let made = line.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(target) else { continue };
                made.join(&near, &far);
                made.join(&far, &near);
            }
        });
        line
    }

    fn join(&self, from: &TcpStream, to: &TcpStream) {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        self.open.lock().unwrap().push(from.try_clone().unwrap());
        let is_silent = self.is_silent.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                while is_silent.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(2)); // as long as the line is cut
                }
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }

    /// All connections over it end now; others may be made.
    pub fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing comes through any more, and nobody hears of it.
    pub fn silence(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
    }
}
