//! What Kubernetes says of the pod that a node runs in. Reads nothing but the settings.

use std::path::PathBuf;

use clap::Args;

use super::{Error, HostPort, invalid};

/// Where a pod takes clients and pipes; the other ports follow from it.
const DATA_PORT: u16 = 11_000;
/// Where the kubelet looks for a container's last words.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Set from the pod's own fields; an empty one is as good as none, for a label that a pod lacks
/// comes as the empty string.
#[derive(Args, Debug, Clone, Default)]
pub struct PodArgs {
    /// From metadata.name: makes this a node in a pod
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// From metadata.namespace
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,
    /// From metadata.uid: tells one pod of a name from the next
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
    /// From status.podIP
    #[arg(long, env = "POD_IP", value_name = "IP")]
    pub pod_ip: Option<String>,
    /// Version of the pod's template [default: the version of shoal]
    #[arg(long, env = "REVISION", value_name = "TEXT")]
    pub revision: Option<String>,
    /// File for the incarnation of this process, empty for none [default in a pod:
    /// /dev/termination-log]
    #[arg(long, env = "TERMINATION_LOG", value_name = "PATH")]
    pub termination_log: Option<String>,
}

/// The pod that this process runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub namespace: Option<String>,
    pub uid: Option<String>,
}

fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

impl PodArgs {
    pub(super) fn pod(&self) -> Option<Pod> {
        let name = given(&self.pod_name)?;
        Some(Pod { name, namespace: given(&self.pod_namespace), uid: self.uid() })
    }

    pub(super) fn uid(&self) -> Option<String> {
        given(&self.pod_uid)
    }

    pub(super) fn revision(&self) -> String {
        given(&self.revision).unwrap_or_else(|| crate::VERSION.to_owned())
    }

    /// The data port by POD_IP.
    pub(super) fn address(&self) -> Result<Option<HostPort>, Error> {
        const REMEDY: &str = "set it from status.podIP";
        let (Some(_), Some(ip)) = (given(&self.pod_name), given(&self.pod_ip)) else {
            return Ok(None);
        };
        match ip.parse::<std::net::IpAddr>() {
            Ok(ip) => Ok(Some(HostPort { host: ip.to_string(), port: DATA_PORT })),
            Err(_) => Err(invalid("POD_IP", ip, "it is no IP address", REMEDY)),
        }
    }

    pub(super) fn termination_log(&self) -> Option<PathBuf> {
        match &self.termination_log {
            Some(path) => Some(path.clone()).filter(|path| !path.is_empty()),
            None => given(&self.pod_name).map(|_| TERMINATION_LOG.to_owned()),
        }
        .map(PathBuf::from)
    }
}
