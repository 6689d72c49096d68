//! How the commands reach nodes: one port, or the first of several that answers.

use std::time::Duration;

use shoal_proto::shoal::admin::v1::admin_client::AdminClient;
use tokio::time::{self, Instant};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
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
    Refused(status).into()
}

/// A client of the admin port at `address`.
pub async fn connect(address: &str) -> anyhow::Result<Client> {
    channel(address).await.map(AdminClient::new)
}

pub async fn channel(address: &str) -> anyhow::Result<Channel> {
    let unreachable = |reason: String| Unreachable { address: address.to_owned(), reason };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| unreachable(error.to_string()))?;
    let endpoint = endpoint.connect_timeout(CONNECT_PATIENCE);
    Ok(endpoint.connect().await.map_err(|error| unreachable(root(&error)))?)
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

/// The answer of the first of `admins` that gives one.
pub async fn first<T, F>(admins: &[String], request: impl Fn(Client) -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut last = anyhow::anyhow!("no node runs");
    for address in admins {
        let asked = async {
            let client = connect(address).await?;
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
pub async fn change<F>(admins: &[String], request: impl Fn(Client) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), Status>>,
{
    let until = Instant::now() + CHANGE;
    loop {
        let asked = first(admins, |client| {
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
        let error = connect("127.0.0.1:1").await.unwrap_err();
        assert!(error.downcast_ref::<Unreachable>().is_some(), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("no node answers at 127.0.0.1:1 (connection refused)"), "{text}");
        assert!(text.contains("--address"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
