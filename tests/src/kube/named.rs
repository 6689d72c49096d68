//! A cluster of the user, used only when it is named: SHOAL_TEST_KUBECONFIG, and where its
//! current context is not the one meant, SHOAL_TEST_CONTEXT.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::{
    lifecycle::{build, run},
    place,
};

#[derive(Debug)]
pub(crate) struct Named {
    kubeconfig: PathBuf,
    context: String,
}

impl Drop for Named {
    fn drop(&mut self) {
        // It holds the user's keys; an error leaves them readable for the user alone, as before.
        let _ = fs::remove_file(&self.kubeconfig);
    }
}

impl Named {
    pub fn from_environment() -> anyhow::Result<Option<Self>> {
        let Some(path) = env::var_os("SHOAL_TEST_KUBECONFIG") else { return Ok(None) };
        build()?;
        let mut view = Command::new(place::tools().join("kubectl"));
        view.args(["config", "view", "--raw", "--flatten", "--minify"]).env("KUBECONFIG", &path);
        if let Ok(context) = env::var("SHOAL_TEST_CONTEXT") {
            view.arg(format!("--context={context}"));
        }
        let shown = Path::new(&path).display().to_string();
        let text = run(&mut view).with_context(|| shown.clone())?;
        // A copy with that context alone: the user's file is read only, and no other of its
        // contexts can be reached by mistake.
        let kubeconfig = place::named_kubeconfig()?;
        let mut options = fs::File::options();
        options.create_new(true).write(true).mode(0o600);
        options.open(&kubeconfig)?.write_all(text.as_bytes())?;
        let mut current = Command::new(place::tools().join("kubectl"));
        current.args(["config", "current-context"]).env("KUBECONFIG", &kubeconfig);
        let context = run(&mut current)?.trim().to_owned();
        Ok(Some(Self { kubeconfig, context }))
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// By the command of whatever runs the cluster.
    pub fn load(&self, archive: &Path) -> anyhow::Result<()> {
        let mut command;
        if let Some(name) = self.context.strip_prefix("kind-") {
            command = Command::new("kind");
            command.args(["load", "image-archive", "--name", name]).arg(archive);
        } else if let Some(name) = self.context.strip_prefix("k3d-") {
            command = Command::new("k3d");
            command.args(["image", "import", "--cluster", name]).arg(archive);
        } else if self.context == "minikube" {
            command = Command::new("minikube");
            command.args(["image", "load"]).arg(archive);
        } else {
            bail!("give {} to the nodes of context {} yourself", archive.display(), self.context);
        }
        run(&mut command).map(drop)
    }
}
