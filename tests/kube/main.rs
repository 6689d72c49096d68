//! `shoal-kube`: Kubernetes clusters of this machine for suites and demos, and images for them.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::ensure;
use clap::{Parser, Subcommand};
use shoal_tests::{
    Image,
    kube::{self, Cluster, Left, Tier},
};

#[derive(Parser)]
#[command(about = "Kubernetes clusters of this machine for suites and demos, and images for them")]
struct Arguments {
    #[command(subcommand)]
    command: Order,
}

#[derive(Subcommand)]
enum Order {
    /// Bring a cluster up; one that runs and is whole is left as it is. What SHOAL_TEST_KUBECONFIG
    /// names is used instead, here and below
    Up(Which),
    /// End a cluster [default: all] and remove it from this machine
    Down {
        #[arg(long)]
        name: Option<String>,
    },
    /// Say which clusters there are
    Status,
    /// Bring a cluster up and give images to its nodes
    Load {
        #[command(flatten)]
        which: Which,
        /// OCI archives
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Bring a cluster up and say how to use it
    Env(Which),
    /// Bring a cluster up and run a command in its network, with KUBECONFIG set and kubectl and
    /// helm on the path
    Exec {
        #[command(flatten)]
        which: Which,
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
    /// Write an image that holds a program and its libraries; print its name and digest
    Image {
        /// Becomes localhost/<name>:<hash of its content>
        #[arg(long)]
        name: String,
        #[arg(long)]
        binary: PathBuf,
        /// Where the program lies in the image
        #[arg(long)]
        entrypoint: String,
        #[arg(long)]
        out: PathBuf,
    },
    /// Keep the volumes of the cluster in which this runs
    #[command(hide = true)]
    Volumes,
}

#[derive(clap::Args)]
struct Which {
    #[arg(long, value_enum, default_value_t = Tier::Node)]
    tier: Tier,
    /// [default: the tier's, which the suites share]
    #[arg(long)]
    name: Option<String>,
}

impl Which {
    fn up(&self) -> anyhow::Result<Cluster> {
        match &self.name {
            Some(name) => Cluster::up(name, self.tier),
            None => Cluster::shared(self.tier),
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shoal-kube: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(order: Order) -> anyhow::Result<()> {
    match order {
        Order::Up(which) => println!("{}", which.up()?.kubeconfig().display()),
        Order::Down { name: Some(name) } => kube::down(&name)?,
        Order::Down { name: None } => {
            for (name, _) in kube::all()? {
                kube::down(&name)?;
            }
        }
        Order::Status => {
            for (name, left) in kube::all()? {
                let state = match left {
                    Left::Running => "running",
                    Left::Traces => "left behind: end it with down",
                    Left::Nothing => continue,
                };
                println!("{name}: {state}");
            }
        }
        Order::Load { which, archives } => {
            let cluster = which.up()?;
            for archive in archives {
                println!("{}", cluster.load(&archive)?.name);
            }
        }
        Order::Env(which) => {
            let cluster = which.up()?;
            let enter = cluster.command("")?;
            let words: Vec<_> = [enter.get_program()].into_iter().chain(enter.get_args()).collect();
            println!("KUBECONFIG={}", cluster.kubeconfig().display());
            println!("ENTER={}", words.join(std::ffi::OsStr::new(" ")).display());
        }
        Order::Exec { which, words } => return Err(exec(&which.up()?, &words)?.into()),
        Order::Image { name, binary, entrypoint, out } => {
            let mut image = Image::new(&name, &[&entrypoint]);
            image.program(&binary, &entrypoint)?;
            let built = image.write(&out)?;
            println!("{} {}", built.name, built.digest);
        }
        Order::Volumes => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(kube::keep_volumes());
        }
    }
    Ok(())
}

/// Becomes the command; returns only where that fails.
fn exec(cluster: &Cluster, words: &[String]) -> anyhow::Result<std::io::Error> {
    ensure!(!words.is_empty(), "no command");
    let mut command: Command = cluster.command(&words[0])?;
    Ok(command.args(&words[1..]).exec())
}
