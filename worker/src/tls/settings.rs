//! The settings TLS_*: what was given becomes what is asked of each port, or an error that
//! names the setting. Opens no file.

use std::path::PathBuf;

use crate::config::{Error, invalid};

const FILES: &str = "set TLS_CERT, TLS_KEY and TLS_CA to PEM files, all three";

/// As they were given to `shoal run`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Args {
    /// mutual or disabled [default: mutual with TLS_CERT, else disabled if all is loopback]
    #[arg(id = "tls_mode", long = "tls-mode", env = "TLS_MODE", value_name = "MODE")]
    pub mode: Option<String>,
    /// Of clients on the data port: optional, required, or mutual [default: optional]
    #[arg(id = "tls_clients", long = "tls-clients", env = "TLS_CLIENTS", value_name = "WHAT")]
    pub clients: Option<String>,
    #[command(flatten)]
    pub files: FileArgs,
}

/// As they were given to any command.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct FileArgs {
    /// Own certificate and those between it and the CA, PEM
    #[arg(
        id = "tls_cert",
        long = "tls-cert",
        env = "TLS_CERT",
        value_name = "PATH",
        help_heading = "TLS"
    )]
    pub cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(
        id = "tls_key",
        long = "tls-key",
        env = "TLS_KEY",
        value_name = "PATH",
        help_heading = "TLS"
    )]
    pub key: Option<PathBuf>,
    /// Certificates of the authorities that vouch for every node, PEM
    #[arg(
        id = "tls_ca",
        long = "tls-ca",
        env = "TLS_CA",
        value_name = "PATH",
        help_heading = "TLS"
    )]
    pub ca: Option<PathBuf>,
}

impl FileArgs {
    /// None: nothing was given.
    pub fn files(&self) -> Result<Option<Files>, Error> {
        match (&self.cert, &self.key, &self.ca) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), Some(ca)) => {
                Ok(Some(Files { cert: cert.clone(), key: key.clone(), ca: ca.clone() }))
            }
            (None, _, _) => Err(Error::Missing { setting: "TLS_CERT", remedy: FILES }),
            (_, None, _) => Err(Error::Missing { setting: "TLS_KEY", remedy: FILES }),
            (_, _, None) => Err(Error::Missing { setting: "TLS_CA", remedy: FILES }),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// What the data port demands of clients. Pipes of nodes present a certificate in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Plaintext and TLS, with or without a certificate.
    Optional,
    /// TLS, with or without a certificate.
    Required,
    /// TLS with a certificate of TLS_CA.
    Mutual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub files: Files,
    pub clients: Clients,
}

/// None: disabled. `loopback`: no address of the node can be reached from another machine.
pub fn settings(args: &Args, loopback: bool) -> Result<Option<Settings>, Error> {
    let enabled = match args.mode.as_deref() {
        Some("disabled") => false,
        Some("mutual") => true,
        Some(other) => {
            return Err(invalid(
                "TLS_MODE",
                other,
                "it is not a TLS mode",
                "set mutual, or disabled",
            ));
        }
        None if args.files.cert.is_some() => true,
        None if loopback => false,
        None => {
            return Err(Error::Missing {
                setting: "TLS_MODE",
                remedy: "set TLS_CERT, TLS_KEY and TLS_CA, or set TLS_MODE=disabled on a \
                         network where every peer and client is trusted",
            });
        }
    };
    let clients = clients(args.clients.as_deref())?;
    if !enabled {
        return match clients {
            Clients::Optional => Ok(None),
            Clients::Required | Clients::Mutual => Err(Error::Conflict {
                first: "TLS_CLIENTS",
                second: "disabled TLS",
                remedy: "set TLS_CERT, TLS_KEY and TLS_CA, or unset TLS_CLIENTS",
            }),
        };
    }
    let missing = Error::Missing { setting: "TLS_CERT", remedy: FILES };
    let files = args.files.files()?.ok_or(missing)?;
    Ok(Some(Settings { files, clients }))
}

fn clients(given: Option<&str>) -> Result<Clients, Error> {
    match given {
        None | Some("optional") => Ok(Clients::Optional),
        Some("required") => Ok(Clients::Required),
        Some("mutual") => Ok(Clients::Mutual),
        Some(other) => Err(invalid(
            "TLS_CLIENTS",
            other,
            "it is no demand on clients",
            "set optional, required, or mutual",
        )),
    }
}
