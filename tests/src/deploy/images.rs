//! The images that `tests/kube/images.sh` has written: for the profile that SHOAL_IMAGES names, else
//! for the profile of this program.

use std::env;

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
        let own = profile_directory();
        let profile = match env::var_os("SHOAL_IMAGES") {
            Some(profile) => profile,
            None => own.file_name().context("a profile has a name")?.to_owned(),
        };
        let images = build_directory().join("images").join(&profile);
        let load = |name: &str| {
            let archive = images.join(name).with_extension("tar");
            let missing = format!("tests/kube/images.sh {} --next was not run", profile.display());
            cluster.load(&archive).context(missing)
        };
        Ok(Self {
            worker: load("shoal")?,
            next: load("shoal-next")?,
            operator: load("shoal-operator")?,
        })
    }
}
