//! Bytes to values and back: PROXY protocol v1 and v2 with TLVs, Simple Proxy Protocol, the first packets of Minecraft,
//! and what edges say to each other before a flow.
//!
//! No I/O, no allocation, no clock. What a client or an origin sent is only ever borrowed, and a length
//! field is compared with a limit before anybody waits for the bytes it promises.
#![forbid(unsafe_code)]

pub mod accept;
pub mod datagram;
mod endpoints;
pub mod frames;
pub mod gauge;
mod keep;
pub mod minecraft;
pub mod overlay;
pub mod proxy_v1;
pub mod proxy_v2;
pub mod simple_proxy;
pub mod tlv;

pub use accept::{HeaderError, Parsed};
pub use endpoints::Endpoints;
pub use proxy_v2::Transport;
pub use simple_proxy::SimpleProxyError;
