//! Ports for nodes under test, no two of them for two nodes, also of other test processes.
//!
//! A node uses its port and those 1000, 2000 and 3000 above it. They lie below the range
//! from which Linux takes the ports of outgoing connections, so that a node finds its own
//! ones free when it starts again. While a claim lives it holds the UDP port of the same
//! number: the kernel gives it to one process only, and takes it back from a dead one.

use std::{
    net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    ops::Range,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use crate::wait;

/// First ports of the four of a node.
const BLOCKS: [Range<u16>; 4] = [16_000..17_000, 20_000..21_000, 24_000..25_000, 28_000..29_000];
/// A port of a node and its offsets.
const OFFSETS: [u16; 4] = [0, 1_000, 2_000, 3_000];
/// A demo or another suite may hold the ports of the recipes meanwhile.
const PATIENCE: Duration = Duration::from_secs(180);

/// Consecutive ports, claimed as long as this lives.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    claims: Vec<UdpSocket>,
}

impl Ports {
    /// `count` consecutive ports that nobody uses.
    pub fn any(count: u16) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let room: u16 = BLOCKS.iter().map(|block| block.len() as u16).sum();
        // Processes begin at different places: fewer looks, not more safety.
        let offset = (std::process::id() as u16).wrapping_mul(97) % room;
        for _ in 0..room {
            let at = (NEXT.fetch_add(count, Ordering::Relaxed) % room + offset) % room;
            let block = &BLOCKS[usize::from(at / 1_000)];
            let first = block.start + at % 1_000;
            if first + count <= block.end
                && let Ok(ports) = Self::claim(first, count)
            {
                return ports;
            }
        }
        panic!("no {count} consecutive ports are free");
    }

    /// Exactly these, as soon as they are free.
    pub fn exactly(first: u16, count: u16) -> Self {
        let what = format!("ports {first} to {}", first + count - 1);
        wait::until_within(&what, PATIENCE, || Self::claim(first, count))
    }

    fn claim(first: u16, count: u16) -> Result<Self, String> {
        let mut claims = Vec::new();
        for port in first..first + count {
            let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
            claims.push(claim.map_err(|error| format!("{port} is claimed: {error}"))?);
            if let Some(taken) = OFFSETS.map(|offset| port + offset).into_iter().find(|&p| !free(p))
            {
                return Err(format!("{taken} is in use"));
            }
        }
        Ok(Self { first, claims })
    }

    pub fn get(&self, at: u16) -> u16 {
        assert!(usize::from(at) < self.claims.len(), "port {at} was not claimed");
        self.first + at
    }
}

/// Nobody listens on this port of loopback.
pub fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && (!has_ipv6() || TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok())
}

pub fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_claimed_once() {
        let ports = Ports::any(2);
        assert!(Ports::claim(ports.get(1), 1).is_err(), "still claimed");
        let port = ports.get(0);
        drop(ports);
        assert!(Ports::claim(port, 2).is_ok(), "free again");
    }

    #[test]
    fn a_listener_on_an_offset_is_seen() {
        let ports = Ports::any(1);
        let port = ports.get(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port + 3_000)).unwrap();
        assert!(!free(port + 3_000));
        drop((listener, ports));
    }
}
