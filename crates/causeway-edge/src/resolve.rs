//! Origin names: one thread keeps the addresses of every watched name fresh, workers read them without a lock.
//!
//! A name keeps its last good answer through any failure. Answers are hostile input: bounded, deduplicated
//! and of the asked family only. Whether an address may be connected to is not known here, see `origin`.

mod memory;
mod runtime;
mod upstream;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use memory::Memory;
use upstream::Upstream;

/// More addresses than this in one answer are noise or an attack.
pub const MAX_ADDRESSES: usize = 64;

const MIN_TTL: Duration = Duration::from_millis(100); // below this a name would be a query storm

/// Which records of a name count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// A and AAAA, interleaved, A first.
    Any,
    A,
    Aaaa,
}

/// What is known of a name right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not answered yet, neither well nor badly.
    Pending,
    /// In the order to try them; never empty.
    Addresses(Box<[IpAddr]>),
    /// There has never been an address; a sentence for the operator.
    Failed { cause: ResolveCause, detail: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveCause {
    /// The name does not exist or has no address of the asked family.
    NotFound,
    /// No usable answer: time-out, server failure, garbage.
    Failure,
}

impl ResolveCause {
    /// The status code of the Spectrum event log.
    pub fn status(self) -> u16 {
        match self {
            ResolveCause::Failure => 530,
            ResolveCause::NotFound => 531,
        }
    }
}

/// The resolver. Its thread ends once every handle and every [`Watched`] name are gone.
#[derive(Clone, Debug)]
pub struct Names {
    registry: Arc<Registry>,
}

impl Names {
    /// Ask `servers`, or when there are none whatever `/etc/hosts` and `/etc/resolv.conf` say at the time.
    pub fn start(servers: Vec<SocketAddr>) -> io::Result<Names> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (watches, mut incoming) = unbounded_channel::<Weak<Watched>>();
        let upstream = Arc::new(Upstream::new(servers));
        let serve = async move {
            while let Some(watched) = incoming.recv().await {
                tokio::spawn(follow(watched, upstream.clone()));
            }
        };
        std::thread::Builder::new().name("causeway-names".into()).spawn(move || runtime.block_on(serve))?;
        Ok(Names { registry: Arc::new(Registry { watches, known: Mutex::default() }) })
    }

    /// Keep `name` fresh until the last clone of the answer is dropped. The same question is asked once.
    pub fn watch(&self, name: &str, family: Family, ttl: Duration) -> Arc<Watched> {
        let question = Question { name: name.to_ascii_lowercase(), family, ttl: ttl.max(MIN_TTL) };
        let mut known = lock(&self.registry.known);
        if let Some(watched) = known.get(&question).and_then(Weak::upgrade) {
            return watched;
        }
        let (answer, is_followed) = match check_name(name) {
            Ok(()) => (Answer::Pending, true),
            Err(detail) => (Answer::Failed { cause: ResolveCause::NotFound, detail }, false),
        };
        let watched = Arc::new(Watched {
            question: question.clone(),
            answer: ArcSwap::from_pointee(answer),
            waiters: Mutex::default(),
            dropped: Arc::default(),
            registry: self.registry.clone(),
        });
        known.insert(question, Arc::downgrade(&watched));
        if is_followed && self.registry.watches.send(Arc::downgrade(&watched)).is_err() {
            let detail = "the resolver thread has ended: restart the edge".to_string();
            watched.publish(Answer::Failed { cause: ResolveCause::Failure, detail });
        }
        watched
    }
}

/// Refuse what is no host name (RFC 1035 lengths; letters, digits, `-` and `_`), in a sentence.
pub fn check_name(name: &str) -> Result<(), String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let refuse = |why: &str| {
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        Err(format!("\"{shown}\" is no host name: {why}"))
    };
    if bare.is_empty() {
        return refuse("it is empty");
    }
    if bare.len() > 253 {
        return refuse("it is longer than 253 characters");
    }
    for label in bare.split('.') {
        if label.is_empty() {
            return refuse("it has an empty label");
        }
        if label.len() > 63 {
            return refuse("a label is longer than 63 characters");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return refuse("only letters, digits, '-' and '_' are allowed (write other scripts in their xn-- form)");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refuse("a label starts or ends with '-'");
        }
    }
    match bare.rsplit('.').next() {
        Some(last) if last.bytes().all(|byte| byte.is_ascii_digit()) => {
            refuse("the last label is a number (give an IP address as an address)")
        }
        _ => Ok(()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    name: String,
    family: Family,
    ttl: Duration,
}

#[derive(Debug)]
struct Registry {
    /// The thread lives as long as this end does.
    watches: UnboundedSender<Weak<Watched>>,
    known: Mutex<HashMap<Question, Weak<Watched>>>,
}

/// A name that is kept fresh while somebody holds this.
#[derive(Debug)]
pub struct Watched {
    question: Question,
    answer: ArcSwap<Answer>,
    waiters: Mutex<Vec<Waiter>>,
    dropped: Arc<Notify>,
    registry: Arc<Registry>,
}

/// Our own duplicate of an eventfd, so that a worker that is gone can never make us write to a stranger.
#[derive(Debug)]
struct Waiter {
    asked_as: RawFd,
    wake: OwnedFd,
}

impl Watched {
    pub fn name(&self) -> &str {
        &self.question.name
    }

    /// Lock-free; never goes back to [`Answer::Pending`].
    pub fn current(&self) -> Arc<Answer> {
        self.answer.load_full()
    }

    /// Write 1 to the eventfd `wake` once, when the first answer (good or bad) is there.
    /// `false` if there is nothing to wait for: it was written at once, and `current` tells the rest.
    /// Asking again with the same descriptor changes nothing.
    pub fn wait_with(&self, wake: RawFd) -> bool {
        let mut waiters = lock(&self.waiters);
        if waiters.iter().any(|waiter| waiter.asked_as == wake) {
            return true;
        }
        match (&*self.answer.load_full(), duplicate(wake)) {
            (Answer::Pending, Ok(copy)) => {
                waiters.push(Waiter { asked_as: wake, wake: copy });
                true
            }
            // Answered, or out of descriptors: then nobody could connect to an origin either.
            _ => {
                write_one(wake);
                false
            }
        }
    }

    fn publish(&self, answer: Answer) {
        if *self.answer.load_full() != answer {
            self.answer.store(Arc::new(answer));
        }
        // After the store: whoever registers from here on sees the answer.
        for waiter in lock(&self.waiters).drain(..) {
            write_one(waiter.wake.as_raw_fd());
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.dropped.notify_one();
        let mut known = lock(&self.registry.known);
        // The same question may have been asked anew in the meantime; that one stays.
        if known.get(&self.question).is_some_and(|other| other.strong_count() == 0) {
            known.remove(&self.question);
        }
    }
}

/// The life of one watched name: look up, tell, sleep.
async fn follow(watched: Weak<Watched>, upstream: Arc<Upstream>) {
    let Some((question, dropped)) =
        watched.upgrade().map(|watched| (watched.question.clone(), watched.dropped.clone()))
    else {
        return;
    };
    let mut memory = Memory::default();
    loop {
        let findings = upstream.look_up(&question.name, question.family).await;
        let answer = memory.learn(&question.name, findings);
        match watched.upgrade() {
            Some(watched) => watched.publish(answer),
            None => return,
        }
        let delay = jittered(memory.next_look(question.ttl));
        if tokio::time::timeout(delay, dropped.notified()).await.is_ok() {
            return;
        }
    }
}

/// ±10 %, so that names watched together are not asked together for ever.
fn jittered(delay: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) % 2001;
    delay.mul_f64(0.9 + random as f64 / 10_000.0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with integer arguments touches no memory of ours.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// A full counter (`EAGAIN`) wakes its reader as well, so the result does not matter.
fn write_one(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the pointer and length describe `one`.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
