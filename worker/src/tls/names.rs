//! Who is at the other end of a connection, as its certificate says, and whether a message
//! may speak in the name of a node there.

use std::{fmt, net::IpAddr, sync::Arc};

use rustls_pki_types::CertificateDer;
use tonic::Status;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// What a certificate says of whom it was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    dns: Vec<String>,
    ips: Vec<IpAddr>,
    /// It may be shown as a server's, which those of mere clients may not.
    serves: bool,
    pub serial: String,
    /// Unix seconds.
    pub not_after: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no X.509 certificate: {0}")]
pub struct Unreadable(String);

impl Names {
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let unreadable = |error: &dyn fmt::Display| Unreadable(error.to_string());
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|error| unreadable(&error))?;
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().map_err(|error| unreadable(&error))?;
        for name in names.into_iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => ips.extend(ip(bytes)),
                // Nodes are known by nothing else.
                _ => {}
            }
        }
        let usage = certificate.extended_key_usage().map_err(|error| unreadable(&error))?;
        Ok(Self {
            dns,
            ips,
            serves: usage.is_none_or(|usage| usage.value.any || usage.value.server_auth),
            serial: certificate.raw_serial_as_string(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Exactly this DNS name, or this IP address. No wildcard stands for a node.
    pub fn hold(&self, name: &str) -> bool {
        self.dns.iter().any(|held| held.eq_ignore_ascii_case(name))
            || name.parse().is_ok_and(|ip| self.ips.contains(&ip))
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ips = self.ips.iter().map(ToString::to_string);
        let all: Vec<_> = self.dns.iter().cloned().chain(ips).collect();
        if all.is_empty() { write!(f, "nobody") } else { write!(f, "{}", all.join(", ")) }
    }
}

/// Who sent a request. Stands in the extensions of each that comes over `tls::Stream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// TLS is disabled: whoever it says it is.
    Trusted,
    /// Without TLS where others use it.
    Plain,
    /// TLS without a certificate.
    Nameless,
    /// With a certificate of TLS_CA.
    Certified(Arc<Names>),
}

/// The certificate of a connection does not fit what was said on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{} takes part only with a certificate of TLS_CA", .claimed.as_deref().unwrap_or("a node"))]
    NoCertificate { claimed: Option<String> },
    #[error("the certificate is of {held} and for clients only, it is no node's")]
    ClientOnly { held: Arc<Names> },
    #[error("the certificate is of {held}, the message of {claimed:?}")]
    OtherName { held: Arc<Names>, claimed: String },
}

impl Caller {
    /// A request without a trace of its caller came through none of the ports.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or(Self::Plain)
    }

    /// Whether it may speak as the node of this name. A node that is not known by name yet
    /// must at least be one.
    pub fn must_be(&self, node: Option<&str>) -> Result<(), Error> {
        let claimed = || node.map(ToOwned::to_owned);
        match self {
            Self::Trusted => Ok(()),
            Self::Plain | Self::Nameless => Err(Error::NoCertificate { claimed: claimed() }),
            Self::Certified(held) if !held.serves => Err(Error::ClientOnly { held: held.clone() }),
            Self::Certified(held) => match node {
                Some(name) if !held.hold(name) => {
                    Err(Error::OtherName { held: held.clone(), claimed: name.to_owned() })
                }
                Some(_) | None => Ok(()),
            },
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::permission_denied(error.to_string())
    }
}
