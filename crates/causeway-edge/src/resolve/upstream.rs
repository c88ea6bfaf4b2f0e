//! One look at a name: `/etc/hosts`, then name servers, both families at once, bounded in time.
//!
//! Nothing is cached here or in the library: the caller knows how long an answer lasts. Lookups run in tasks
//! of their own, so a panic in the library is an answer like any other.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::runtime::Runtime;
use super::{Family, MAX_ADDRESSES, ResolveCause};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

const TRY_TIMEOUT: Duration = Duration::from_secs(2);
const RETRIES: usize = 1; // clients wait for the first answer; later looks are spaced by the caller
const LOOK_TIMEOUT: Duration = Duration::from_secs(10); // search lists and CNAME chains included
const OTHER_FAMILY_TIMEOUT: Duration = Duration::from_millis(500); // some servers never answer AAAA
const MAX_DETAIL_CHARS: usize = 200;
// A look costs some 40 KiB while it lasts. 1,000 names that time out at every retry keep half of these busy.
const MAX_IN_FLIGHT: usize = 256;

/// Per family: the addresses (never empty) or why there are none; `None` where nobody asked.
#[derive(Debug, Default)]
pub struct Findings {
    pub a: Option<Finding>,
    pub aaaa: Option<Finding>,
}

pub type Finding = Result<Vec<IpAddr>, Missing>;

#[derive(Clone, Debug)]
pub struct Missing {
    pub cause: ResolveCause,
    pub detail: String,
}

#[derive(Debug)]
pub struct Upstream {
    servers: Vec<SocketAddr>,
    in_flight: Semaphore,
    source: Mutex<Option<(Stamp, Arc<Source>)>>,
}

/// Device, inode, size and change time of the two files: different when an operator changed one.
type Stamp = [Option<(u64, u64, u64, i64, i64)>; 2];

struct Source {
    hosts: Hosts,
    resolver: Result<Resolver<Runtime>, String>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("resolver", &self.resolver).finish_non_exhaustive()
    }
}

impl Upstream {
    pub fn new(servers: Vec<SocketAddr>) -> Upstream {
        Upstream { servers, in_flight: Semaphore::new(MAX_IN_FLIGHT), source: Mutex::default() }
    }

    pub async fn look_up(&self, name: &str, family: Family) -> Findings {
        let _turn = self.in_flight.acquire().await; // never closed, so never an error
        let source = self.source().await;
        let types: &[RecordType] = match family {
            Family::Any => &[RecordType::A, RecordType::AAAA],
            Family::A => &[RecordType::A],
            Family::Aaaa => &[RecordType::AAAA],
        };
        let mut findings = Findings::default();
        match (Name::from_ascii(name), &source.resolver) {
            (Ok(parsed), resolver) => {
                source.look_in_hosts(&parsed, types, &mut findings);
                match resolver {
                    _ if !findings.is_empty() => {}
                    Ok(resolver) => ask_servers(resolver, name, &parsed, types, &mut findings).await,
                    Err(why) => findings.fail_rest(name, types, why),
                }
            }
            (Err(error), _) => findings.fail_rest(name, types, &error.to_string()),
        }
        findings
    }

    /// Read again when a file changed: an edge outlives many a `resolv.conf`.
    async fn source(&self) -> Arc<Source> {
        let stamp = if self.servers.is_empty() { [stamp(HOSTS), stamp(RESOLV_CONF)] } else { [None; 2] };
        let mut slot = self.source.lock().await;
        match &*slot {
            Some((known, source)) if *known == stamp => source.clone(),
            _ => {
                let source = Arc::new(match self.servers.as_slice() {
                    // No such file, no such names.
                    [] => Source::of_system(&fs::read(HOSTS).unwrap_or_default(), fs::read(RESOLV_CONF)),
                    servers => Source::of(servers),
                });
                *slot = Some((stamp, source.clone()));
                source
            }
        }
    }
}

impl Source {
    fn of(servers: &[SocketAddr]) -> Source {
        let config = ResolverConfig::from_name_servers(servers.iter().map(name_server).collect());
        Source { hosts: Hosts::default(), resolver: build(config, ResolverOpts::default()) }
    }

    fn of_system(hosts_file: &[u8], resolv_conf: io::Result<Vec<u8>>) -> Source {
        let mut hosts = Hosts::default();
        // One stray byte in a comment must not hide every other line.
        let _ = hosts.read_hosts_conf(String::from_utf8_lossy(hosts_file).as_bytes());
        let resolver = resolv_conf
            .map_err(NetError::from)
            .and_then(parse_resolv_conf)
            .map_err(|error| format!("{RESOLV_CONF}: {error}"))
            .and_then(|(config, options)| build(config, options));
        Source { hosts, resolver }
    }

    fn look_in_hosts(&self, name: &Name, types: &[RecordType], findings: &mut Findings) {
        for record_type in types {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), *record_type));
            let addresses: Vec<IpAddr> = found
                .iter()
                .flat_map(|lookup| lookup.answers())
                .filter_map(|record| record.data.ip_addr())
                .take(MAX_ADDRESSES)
                .collect();
            if !addresses.is_empty() {
                findings.set(*record_type, Ok(addresses));
            }
        }
    }
}

async fn ask_servers(
    resolver: &Resolver<Runtime>,
    shown: &str,
    name: &Name,
    types: &[RecordType],
    findings: &mut Findings,
) {
    let (tell, mut told) = mpsc::channel(types.len());
    let ask = |record_type: &RecordType| {
        let (resolver, name, record_type, tell) = (resolver.clone(), name.clone(), *record_type, tell.clone());
        tokio::spawn(async move {
            let result = resolver.lookup(name, record_type).await;
            let _ = tell.send((record_type, result)).await; // nobody listens after a time-out
        })
    };
    let tasks: Vec<_> = types.iter().map(ask).collect();
    drop(tell); // so that tasks that panicked end the wait
    let mut deadline = Instant::now() + LOOK_TIMEOUT;
    while let Ok(Some((record_type, result))) = timeout_at(deadline, told.recv()).await {
        let finding = judge(shown, record_type, result);
        if finding.is_ok() {
            deadline = deadline.min(Instant::now() + OTHER_FAMILY_TIMEOUT);
        }
        findings.set(record_type, finding);
    }
    tasks.iter().for_each(|task| task.abort());
    findings.fail_rest(shown, types, "no answer in time");
}

impl Findings {
    fn set(&mut self, record_type: RecordType, finding: Finding) {
        match record_type {
            RecordType::AAAA => self.aaaa = Some(finding),
            _ => self.a = Some(finding),
        }
    }

    fn get(&self, record_type: RecordType) -> Option<&Finding> {
        match record_type {
            RecordType::AAAA => self.aaaa.as_ref(),
            _ => self.a.as_ref(),
        }
    }

    fn fail_rest(&mut self, name: &str, types: &[RecordType], why: &str) {
        for record_type in types {
            if self.get(*record_type).is_none() {
                self.set(*record_type, Err(failure(name, &format!("{record_type}: {why}"))));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.a.is_none() && self.aaaa.is_none()
    }
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = server.port());
    NameServerConfig::new(server.ip(), true, connections)
}

fn build(config: ResolverConfig, options: ResolverOpts) -> Result<Resolver<Runtime>, String> {
    let mut builder = Resolver::builder_with_config(config, Runtime::default()).with_options(options);
    let options = builder.options_mut();
    options.timeout = TRY_TIMEOUT;
    options.attempts = RETRIES;
    options.use_hosts_file = ResolveHosts::Never; // asked before, for both families together as libc does
    options.cache_size = 0;
    options.positive_max_ttl = Some(Duration::ZERO);
    options.negative_max_ttl = Some(Duration::ZERO);
    options.preserve_intermediates = false;
    // The library would bind any port from 1024 up, and so now and then one that an application is to listen on.
    options.os_port_selection = true;
    builder.build().map_err(|error| error.to_string())
}

fn judge(name: &str, record_type: RecordType, result: Result<hickory_resolver::lookup::Lookup, NetError>) -> Finding {
    let not_found = |why: &str| {
        let detail = format!("{name} has no {record_type} record{why}: check the name");
        Err(Missing { cause: ResolveCause::NotFound, detail })
    };
    let lookup = match result {
        Ok(lookup) => lookup,
        Err(error) if error.is_nx_domain() => return not_found(" (there is no such name)"),
        Err(error) if error.is_no_records_found() => return not_found(""),
        Err(error) => return Err(failure(name, &error.to_string())),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    let of_family = |address: &IpAddr| address.is_ipv6() == (record_type == RecordType::AAAA);
    for address in lookup.answers().iter().filter_map(|record| record.data.ip_addr()).filter(of_family) {
        if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { not_found("") } else { Ok(addresses) }
}

fn failure(name: &str, why: &str) -> Missing {
    // Errors of the library may quote the answer: keep what a hostile server can make us say short.
    let why: String = why.chars().filter(|c| !c.is_control()).take(MAX_DETAIL_CHARS).collect();
    let detail = format!("{name} could not be resolved: {why}");
    Missing { cause: ResolveCause::Failure, detail }
}

fn stamp(path: &str) -> Option<(u64, u64, u64, i64, i64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn in_hosts(name: &str, types: &[RecordType]) -> Findings {
        let hosts = b"# caf\xe9\n192.0.2.7 box Box.example.net # comment\n2001:db8::7 box\n192.0.2.8 box\n";
        let source = Source::of_system(hosts, Ok(b"nameserver 192.0.2.53".to_vec()));
        let mut findings = Findings::default();
        source.look_in_hosts(&Name::from_ascii(name).unwrap(), types, &mut findings);
        findings
    }

    fn addresses(finding: Option<Finding>) -> Vec<String> {
        finding.into_iter().flatten().flatten().map(|address| address.to_string()).collect()
    }

    #[test]
    fn the_hosts_file_is_read_past_bytes_that_are_no_utf8() {
        let both = [RecordType::A, RecordType::AAAA];
        let found = in_hosts("box", &both);
        assert_eq!(addresses(found.a), ["192.0.2.7", "192.0.2.8"]);
        assert_eq!(addresses(found.aaaa), ["2001:db8::7"]);
        let found = in_hosts("box.example.net.", &both);
        assert_eq!(addresses(found.a), ["192.0.2.7"]);
        assert!(found.aaaa.is_none());
        assert!(in_hosts("box", &[RecordType::AAAA]).a.is_none());
        assert!(in_hosts("other", &both).is_empty());
    }

    #[test]
    fn a_machine_without_name_servers_says_so() {
        for resolv_conf in [Ok(b"# empty".to_vec()), Err(io::ErrorKind::NotFound.into())] {
            let why = Source::of_system(b"", resolv_conf).resolver.unwrap_err();
            assert!(why.starts_with("/etc/resolv.conf: "), "{why}");
        }
    }

    #[test]
    fn an_error_text_cannot_grow_or_carry_control_characters() {
        let missing = failure("o.example.net", &"\x1b[2J\n".repeat(1000));
        assert!(missing.detail.len() < 300 && !missing.detail.contains(char::is_control));
    }
}
