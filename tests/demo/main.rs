//! `make kube-demo`: Shoal on Kubernetes. Installs the operator by Helm, makes a ShardCluster,
//! and lets stock clients call it while it is scaled, rolled and loses a pod; then its process is
//! killed. Ends with a verdict, and with exit code 1 if a promise was broken.
//!
//! On the cluster that SHOAL_TEST_KUBECONFIG names, else on one of our own, which stays up for
//! the next run.
// Watches from outside: the clock of the standard library is its own.
#![allow(clippy::disallowed_methods)]

mod story;
mod tell;
mod verdict;

use std::process::ExitCode;

use anyhow::ensure;
use clap::Parser;
use shoal_tests::{
    deploy::{Images, Operator},
    kube::{Cluster, Tier},
};

use self::{story::Story, tell::Teller, verdict::Verdict};

/// Where the operator is installed.
const SYSTEM: &str = "shoal-system";
/// Namespaces of the demo begin with it.
const PREFIX: &str = "shoal-demo";

#[derive(Parser)]
#[command(about = "Shoal on Kubernetes: planned changes under stock clients, and a verdict")]
struct Arguments {
    /// How often the cluster is scaled from 3 nodes to 5, to 2 and back
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(verdict) if verdict.passed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shoal-kube-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let teller = Teller::new();
    let cluster = Cluster::alone(Tier::Node)?;
    // All threads and programs that follow are in its network too.
    cluster.enter()?;
    teller.say(format!("Kubernetes answers: {}", cluster.kubeconfig().display()));
    clear(&cluster)?;
    let images = Images::load(&cluster)?;
    teller.say(format!("images loaded: {}, {}", images.worker.name, images.next.name));
    let operator = Operator::install(&cluster, SYSTEM, &images.operator, &[])?;
    teller.say(format!("operator installed by helm in namespace {SYSTEM}"));
    let told = {
        let namespace = cluster.namespace(PREFIX)?;
        let told = Story::new(&cluster, &namespace, &images, &teller)?.tell(arguments.rounds);
        if told.is_err() {
            namespace.keep();
            eprintln!("kept until the next run: namespaces {namespace} and {SYSTEM}");
        }
        told
    };
    if told.is_ok() {
        operator.uninstall()?;
        cluster.kubectl(&["delete", "namespace", SYSTEM])?;
    }
    told
}

/// What a run that was interrupted has left.
fn clear(cluster: &Cluster) -> anyhow::Result<()> {
    let installed = cluster.kubectl(&["get", "namespace", SYSTEM, "--ignore-not-found"])?;
    ensure!(
        !cluster.is_users() || installed.is_empty(),
        "namespace {SYSTEM} is there already: the demo brings its own operator"
    );
    let namespaces = cluster.kubectl(&["get", "namespaces", "-o", "name"])?;
    let ours = format!("namespace/{PREFIX}-");
    for left in namespaces.lines().filter(|name| name.starts_with(&ours)) {
        cluster.kubectl(&["delete", left, "--wait"])?;
    }
    Ok(())
}
