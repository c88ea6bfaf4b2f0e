//! The Python surface of the engine: its calls and one error, nothing else.
//!
//! Bytes in, bytes out (JSON): shapes are checked by the types on either side, golden files prove that they agree.
//! Every call lets go of the interpreter; the engine's own threads never take it.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

use causeway_dns::{DnsError, Server};
use causeway_edge::{Config, Edge as Engine, EdgeError, Lenience};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

create_exception!(causeway._core, NativeError, PyException, "A call that the engine refused; nothing was changed.");

/// The engine's error with `code`, `side` and `message` as attributes.
fn raise(py: Python<'_>, error: EdgeError) -> PyErr {
    raise_as(py, error.code(), &error.side().to_string(), error.to_string())
}

fn raise_as(py: Python<'_>, code: &str, side: &str, message: String) -> PyErr {
    let raised = NativeError::new_err(message.clone());
    let value = raised.value(py);
    for (name, text) in [("code", code), ("side", side), ("message", message.as_str())] {
        if let Err(failure) = value.setattr(name, text) {
            return failure;
        }
    }
    raised
}

fn json<'py, T: serde::Serialize>(py: Python<'py>, value: &T) -> PyResult<Bound<'py, PyBytes>> {
    let text = serde_json::to_vec(value).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(PyBytes::new(py, &text))
}

#[pyclass(frozen, module = "causeway._core")]
struct Edge {
    engine: Engine,
}

#[pymethods]
impl Edge {
    #[staticmethod]
    fn start(py: Python<'_>, config: &[u8]) -> PyResult<Edge> {
        let config: Config =
            serde_json::from_slice(config).map_err(|error| raise(py, EdgeError::Config(error.to_string())))?;
        let engine = py.detach(|| Engine::start(config)).map_err(|error| raise(py, error))?;
        Ok(Edge { engine })
    }

    #[staticmethod]
    fn take_over(py: Python<'_>, config: &[u8], link: RawFd, within_ms: u64) -> PyResult<Edge> {
        let config: Config =
            serde_json::from_slice(config).map_err(|error| raise(py, EdgeError::Config(error.to_string())))?;
        let link = causeway_edge::duplicate(link)?;
        let engine = py
            .detach(|| Engine::take_over(config, link, Duration::from_millis(within_ms)))
            .map_err(|error| raise(py, error))?;
        Ok(Edge { engine })
    }

    fn hand_over(&self, py: Python<'_>, link: RawFd, within_ms: u64) -> PyResult<usize> {
        let link = causeway_edge::duplicate(link)?;
        py.detach(|| self.engine.hand_over(link, Duration::from_millis(within_ms))).map_err(|error| raise(py, error))
    }

    fn pulse(&self, py: Python<'_>, beat: RawFd) -> PyResult<()> {
        let beat = causeway_edge::duplicate(beat)?;
        py.detach(|| self.engine.pulse(&beat));
        Ok(())
    }

    fn apply<'py>(&self, py: Python<'py>, snapshot: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let report = py.detach(|| self.engine.apply(snapshot)).map_err(|error| raise(py, error))?;
        json(py, &report)
    }

    fn observe<'py>(&self, py: Python<'py>, max_events: usize) -> PyResult<Bound<'py, PyBytes>> {
        let report = py.detach(|| self.engine.observe(max_events));
        json(py, &report)
    }

    fn skip_events(&self, py: Python<'_>, keep: usize) -> u64 {
        py.detach(|| self.engine.skip_events(keep))
    }

    #[pyo3(signature = (kind, content, *, overlaps = false, private = false))]
    fn put_blob<'py>(
        &self,
        py: Python<'py>,
        kind: &str,
        content: &[u8],
        overlaps: bool,
        private: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let lenience = Lenience { overlaps, private };
        let report = py.detach(|| self.engine.put_blob(kind, content, lenience)).map_err(|error| raise(py, error))?;
        json(py, &report)
    }

    fn has_blob(&self, py: Python<'_>, digest: &str) -> bool {
        py.detach(|| self.engine.has_blob(digest))
    }

    fn rule_hits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let hits = py.detach(|| self.engine.rule_hits());
        json(py, &hits)
    }

    fn explain<'py>(
        &self,
        py: Python<'py>,
        application: &str,
        client: &str,
        port: u16,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let address = client.parse().map_err(|_| PyValueError::new_err(format!("{client:?} is no IP address")))?;
        let told = py.detach(|| self.engine.explain(application, address, port));
        json(py, &told)
    }

    fn identify(&self, py: Python<'_>, identity: &[u8]) -> PyResult<()> {
        py.detach(|| self.engine.identify(identity)).map_err(|error| raise(py, error))
    }

    fn steer(&self, py: Python<'_>, plan: &[u8]) -> PyResult<()> {
        py.detach(|| self.engine.steer(plan)).map_err(|error| raise(py, error))
    }

    fn guard_look<'py>(&self, py: Python<'py>, max_samples: usize) -> PyResult<Bound<'py, PyBytes>> {
        let look = py.detach(|| self.engine.guard_look(max_samples));
        json(py, &look)
    }

    fn mitigate<'py>(&self, py: Python<'py>, plan: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let report = py.detach(|| self.engine.mitigate(plan)).map_err(|error| raise(py, error))?;
        json(py, &report)
    }

    fn mitigation<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let plan = py.detach(|| self.engine.mitigation());
        json(py, &plan)
    }

    fn drain(&self, py: Python<'_>, deadline_ms: u64) -> usize {
        py.detach(|| self.engine.drain(Duration::from_millis(deadline_ms)))
    }
}

fn raise_dns(py: Python<'_>, error: &DnsError) -> PyErr {
    raise_as(py, error.code(), error.side(), error.to_string())
}

#[pyclass(frozen, module = "causeway._core")]
struct NameServer {
    server: Server,
}

#[pymethods]
impl NameServer {
    #[staticmethod]
    fn start(py: Python<'_>, listen: Vec<String>) -> PyResult<NameServer> {
        let parsed = listen.iter().map(|text| text.parse()).collect::<Result<Vec<SocketAddr>, _>>();
        let listen = parsed.map_err(|error| PyValueError::new_err(format!("{listen:?}: {error}")))?;
        let server = py.detach(|| Server::start(&listen)).map_err(|error| raise_dns(py, &error))?;
        Ok(NameServer { server })
    }

    fn set_table<'py>(&self, py: Python<'py>, table: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let facts = py.detach(|| self.server.set_table(table)).map_err(|error| raise_dns(py, &error))?;
        json(py, &facts)
    }

    fn set_places(&self, py: Python<'_>, mmdb: Option<&[u8]>) -> PyResult<()> {
        let content = mmdb.map(<[u8]>::to_vec);
        py.detach(|| self.server.set_places(content)).map_err(|error| raise_dns(py, &error))
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        json(py, &self.server.counters())
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.server.stop());
    }
}

/// Take all that an edge with this state directory has left in the kernel away; answers how much that was.
#[pyfunction]
fn flush(py: Python<'_>, state_dir: &str) -> PyResult<usize> {
    Ok(py.detach(|| causeway_edge::flush(std::path::Path::new(state_dir)))?)
}

/// Has an edge with this state directory left anything in the kernel?
#[pyfunction]
fn is_left(state_dir: &str) -> bool {
    causeway_edge::is_left(std::path::Path::new(state_dir))
}

/// What this machine can do, for `causeway doctor`.
#[pyfunction]
fn probe(py: Python<'_>) -> PyResult<Bound<'_, PyBytes>> {
    let capabilities = py.detach(causeway_edge::probe::probe);
    json(py, &capabilities)
}

/// End when the process `parent` ends, which started this one. False if it has ended already.
#[pyfunction]
fn die_with(parent: u32) -> bool {
    causeway_edge::die_with(parent)
}

/// Be the WAN of a lab until the process ends; a refused world or device raises.
#[pyfunction]
fn carry_wan(py: Python<'_>, world: &[u8], listener: RawFd) -> PyResult<()> {
    let listener = causeway_edge::duplicate(listener)?.into();
    py.detach(|| causeway_lab::run(world, listener))
        .map_err(|error| raise_as(py, error.code(), "operator", error.to_string()))
}

#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::{Edge, NameServer, NativeError, carry_wan, die_with, flush, is_left, probe};
}
