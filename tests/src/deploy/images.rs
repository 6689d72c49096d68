//! The images that `tests/kube/images.sh` has written for the profile of this program.

use anyhow::Context as _;

use crate::{
    image::Built,
    kube::Cluster,
    space::{build_directory, profile_directory},
};

#[derive(Clone, Debug)]
pub struct Images {
    pub worker: Built,
    /// The worker of the next version.
    pub next: Built,
    pub operator: Built,
}

impl Images {
    /// Gives them to every node.
    pub fn load(cluster: &Cluster) -> anyhow::Result<Self> {
        let profile = profile_directory();
        let profile = profile.file_name().context("a profile has a name")?;
        let images = build_directory().join("images").join(profile);
        let load = |name: &str| {
            let archive = images.join(name).with_extension("tar");
            cluster.load(&archive).context("tests/kube/images.sh --next was not run")
        };
        Ok(Self {
            worker: load("shoal")?,
            next: load("shoal-next")?,
            operator: load("shoal-operator")?,
        })
    }
}
