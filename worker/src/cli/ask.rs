//! How the commands reach nodes: one port, or the first of several that answers.

use std::{collections::BTreeMap, io, time::Duration};

use hyper_util::rt::TokioIo;
use shoal_proto::shoal::admin::v1::{self as pb, admin_client::AdminClient};
use tokio::time::{self, Instant};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    env::net,
    tls::{self, Tls},
};

const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// One request to one admin port.
const ASK: Duration = Duration::from_secs(5);
/// A change may wait for an election.
const CHANGE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

pub type Client = AdminClient<Channel>;

/// Nobody is there, which is another exit code than a refusal.
#[derive(Debug, thiserror::Error)]
#[error(
    "no node answers at {address} ({reason}): start one with `shoal dev`, or name another with --address"
)]
pub struct Unreachable {
    address: String,
    reason: String,
}

/// Somebody is there, and the two do not trust each other.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    #[error(
        "the node takes TLS only: set TLS_CERT, TLS_KEY and TLS_CA, or --tls-cert, --tls-key and --tls-ca"
    )]
    Plain,
    #[error(
        "no TLS with the node ({0}): check TLS_CERT, TLS_KEY and TLS_CA, and unset them where TLS is disabled"
    )]
    Handshake(String),
}

/// What a node said, without the frame that gRPC puts around it.
#[derive(Debug, thiserror::Error)]
#[error("{} ({})", .0.message(), code(.0.code()))]
pub struct Refused(pub Status);

/// The name of a code as its documents spell it.
fn code(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

pub fn told(status: Status) -> anyhow::Error {
    let why = std::error::Error::source(&status);
    if let Some(reason) = why.and_then(tls::failure) {
        return Untrusted::Handshake(reason).into();
    }
    if why.is_some_and(|why| caused_by(why, h2::Reason::INADEQUATE_SECURITY)) {
        return Untrusted::Plain.into();
    }
    Refused(status).into()
}

fn caused_by(error: &(dyn std::error::Error + 'static), reason: h2::Reason) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut h2 = causes.filter_map(|error| error.downcast_ref::<h2::Error>());
    h2.any(|error| error.reason() == Some(reason))
}

/// How this command connects to any node.
#[derive(Clone, Default)]
pub struct Dialer {
    tls: Tls,
    /// Of the nodes at addresses that the cluster told.
    names: BTreeMap<String, String>,
}

impl Dialer {
    pub fn new(tls: Tls) -> Self {
        Self { tls, names: BTreeMap::new() }
    }

    /// Each of them must hold its name from now on, and not the host of its address.
    pub fn learn(&mut self, nodes: &[pb::Node]) {
        let told = nodes.iter().map(|node| (node.admin_address.clone(), node.name.clone()));
        self.names.extend(told);
    }

    /// Who answers at this address must hold this name.
    pub fn name(&mut self, address: &str, name: &str) {
        self.names.insert(address.to_owned(), name.to_owned());
    }

    /// A connection, and TLS where it is enabled.
    pub async fn open(&self, address: &str) -> io::Result<tls::Stream> {
        let socket = net::connect(address).await?;
        let name = self.names.get(address).cloned().unwrap_or_else(|| tls::host(address));
        self.tls.connect(socket, &name).await
    }

    /// A client of the admin port at `address`.
    pub async fn connect(&self, address: &str) -> anyhow::Result<Client> {
        self.channel(address).await.map(AdminClient::new)
    }

    pub async fn channel(&self, address: &str) -> anyhow::Result<Channel> {
        let unreachable = |reason: String| Unreachable { address: address.to_owned(), reason };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| unreachable(error.to_string()))?;
        let (dialer, to) = (self.clone(), address.to_owned());
        let connect = move |_: Uri| {
            let (dialer, to) = (dialer.clone(), to.clone());
            async move { dialer.open(&to).await.map(TokioIo::new) }
        };
        let endpoint = endpoint.connect_timeout(CONNECT_PATIENCE);
        let connected = endpoint.connect_with_connector(tower::service_fn(connect)).await;
        connected.map_err(|error| match tls::failure(&error) {
            Some(reason) => Untrusted::Handshake(reason).into(),
            None => unreachable(root(&error)).into(),
        })
    }
}

/// Admin ports of one cluster, asked in turn.
pub struct Admins {
    pub addresses: Vec<String>,
    pub dialer: Dialer,
}

impl Admins {
    /// Without TLS.
    pub fn plain(addresses: Vec<String>) -> Self {
        Self { addresses, dialer: Dialer::default() }
    }

    /// The answer of the first that gives one.
    pub async fn first<T, F>(&self, request: impl Fn(Client) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut last = anyhow::anyhow!("no node runs");
        for address in &self.addresses {
            let asked = async {
                let client = self.dialer.connect(address).await?;
                request(client).await.map_err(told)
            };
            match time::timeout(ASK, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                // What a node said tells more than that another one is gone.
                Ok(Err(error)) if error.is::<Unreachable>() && last.is::<Refused>() => {}
                Ok(Err(error)) => last = error,
                Err(_) if last.is::<Refused>() => {}
                Err(_) => last = anyhow::anyhow!("{address} does not answer"),
            }
        }
        Err(last)
    }

    /// Asks for a change again while there is no leader to make it.
    pub async fn change<F>(&self, request: impl Fn(Client) -> F) -> anyhow::Result<()>
    where
        F: Future<Output = Result<(), Status>>,
    {
        let until = Instant::now() + CHANGE;
        loop {
            let asked = self.first(|client| {
                let asking = request(client);
                async move {
                    match asking.await {
                        Err(status) if status.code() != Code::Unavailable => Ok(Err(status)),
                        Err(status) => Err(status),
                        Ok(()) => Ok(Ok(())),
                    }
                }
            });
            match asked.await {
                Ok(answer) => return answer.map_err(told),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => time::sleep(POLL).await,
            }
        }
    }
}

/// The cause below all frames: what the system said.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    let text = cause.to_string().to_lowercase();
    // The number of the error says nothing that its text does not.
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_in_their_documents() {
        assert_eq!(code(Code::FailedPrecondition), "FAILED_PRECONDITION");
        let told = told(Status::not_found("no shard s9")).to_string();
        assert_eq!(told, "no shard s9 (NOT_FOUND)");
    }

    #[tokio::test]
    async fn nobody_there_is_one_line_with_a_remedy() {
        let error = Dialer::default().connect("127.0.0.1:1").await.unwrap_err();
        assert!(error.downcast_ref::<Unreachable>().is_some(), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("no node answers at 127.0.0.1:1 (connection refused)"), "{text}");
        assert!(text.contains("--address"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
