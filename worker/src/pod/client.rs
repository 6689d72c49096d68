//! A client of the API server: that of the service account, or as a kubeconfig says.

use std::{
    error::Error as StdError,
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::Status,
};

/// How long the API server is to keep one watch: a connection that died unseen is noticed by
/// then.
pub const WATCH_SECONDS: u32 = 60;
/// Silence after which a connection is given up: more than one watch lasts.
const READ_TIMEOUT: Duration = Duration::from_secs(75);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("KUBE_CONFIG is {path:?}: it cannot be used; name a readable kubeconfig, or unset it")]
    KubeConfig { path: PathBuf, source: KubeconfigError },
    #[error(
        "the API server is not known: this is no pod with a service account's token; mount one \
         (automountServiceAccountToken), or set KUBE_CONFIG to a kubeconfig"
    )]
    InCluster { source: InClusterError },
    #[error("the API server cannot be asked")]
    Client { source: kube::Error },
}

pub async fn new(kube_config: Option<&Path>) -> Result<Client, Error> {
    // An error only says that another part of the process was faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = match kube_config {
        Some(path) => {
            let failed = |source| Error::KubeConfig { path: path.to_owned(), source };
            let read = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(read, &options).await.map_err(failed)?
        }
        None => Config::incluster().map_err(|source| Error::InCluster { source })?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    // Watches try again by themselves; one question is not to be held up for minutes.
    config.default_retry = false;
    Client::try_from(config).map_err(|source| Error::Client { source })
}

/// What went wrong at the root, as one line: what an error repeats of its causes is for programs.
pub fn line(error: &(dyn StdError + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let boxed = root.downcast_ref::<Box<Status>>().map(Box::as_ref);
    let status = root.downcast_ref::<Status>().or(boxed);
    let text = status.map_or_else(|| root.to_string(), |status| status.message.clone());
    text.lines().collect::<Vec<_>>().join(" ")
}
