//! `host:port` as people write it: names, IPv4, IPv6 in brackets.

use std::{fmt, net::IpAddr, str::FromStr};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it has no port")]
    NoPort,
    #[error("its port is not a number from 1 to 65535")]
    Port,
    #[error("its host is empty or not a name")]
    Host,
    #[error("its IPv6 address is not in brackets")]
    Brackets,
}

impl HostPort {
    pub fn with_port_offset(&self, offset: u16) -> Option<Self> {
        Some(Self { host: self.host.clone(), port: self.port.checked_add(offset)? })
    }

    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for HostPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (host, port) = text.rsplit_once(':').ok_or(Error::NoPort)?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(Error::Port),
            Ok(port) => port,
        };
        if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            inner.parse::<std::net::Ipv6Addr>().map_err(|_| Error::Host)?;
            return Ok(Self { host: inner.to_owned(), port });
        }
        if host.contains(':') {
            return Err(Error::Brackets);
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if host.is_empty() || !host.chars().all(legal) {
            return Err(Error::Host);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
