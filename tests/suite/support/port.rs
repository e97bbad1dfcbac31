//! Ports for processes that must be told theirs before they open it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where Linux begins to give out ports by itself (`ip_local_port_range`): below it nothing comes in
/// between the choice of a port and its opening.
const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;
/// Distance of two processes of tests that follow each other.
const STRIDE: u32 = 64;

/// An address of loopback that nobody has open, another one each time.
pub(crate) fn free() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(STRIDE);
    for _ in 0..COUNT {
        let turn = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(turn) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT - 1);
}
