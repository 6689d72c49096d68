//! The operator, installed and removed by Helm.

use std::path::Path;

use crate::{image::Built, kube::Cluster};

const RELEASE: &str = "shoal";

#[derive(Debug)]
pub struct Operator<'a> {
    cluster: &'a Cluster,
    namespace: String,
}

impl<'a> Operator<'a> {
    /// Installs or upgrades it in this namespace, which is made if it is missing; returns when
    /// it runs. `values` are of the form `key=value`.
    pub fn install(
        cluster: &'a Cluster,
        namespace: &str,
        image: &Built,
        values: &[&str],
    ) -> anyhow::Result<Self> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/shoal");
        let chart = chart.canonicalize()?.display().to_string();
        let (repository, tag) = image.name.rsplit_once(':').unwrap_or((&image.name, ""));
        let (repository, tag) =
            (format!("image.repository={repository}"), format!("image.tag={tag}"));
        let mut words = vec!["upgrade", "--install", RELEASE, &chart, "--namespace", namespace];
        words.extend(["--create-namespace", "--wait", "--timeout=2m"]);
        for value in [&*repository, &tag].iter().chain(values) {
            words.extend(["--set", value]);
        }
        cluster.helm(&words)?;
        Ok(Self { cluster, namespace: namespace.to_owned() })
    }

    /// `helm test`: how it ended. Not with its logs: Helm takes everything that it made for a pod.
    pub fn test(&self) -> anyhow::Result<String> {
        let words = ["test", RELEASE, "--namespace", &self.namespace, "--timeout=3m"];
        self.cluster.helm(&words)
    }

    /// Takes it away; the definition and every ShardCluster stay.
    pub fn uninstall(&self) -> anyhow::Result<()> {
        let words = ["uninstall", RELEASE, "--namespace", &self.namespace, "--ignore-not-found"];
        self.cluster.helm(&[&words[..], &["--wait", "--timeout=1m"]].concat()).map(drop)
    }
}
