//! The command line of `shoal-operator`: what may be typed, not what is done about it.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Keeps what ShardClusters need, scales, drains and rolls them.
#[derive(Parser, Debug)]
#[command(name = "shoal-operator", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Runs the operator.
    Run(Settings),
    /// Prints the CustomResourceDefinition as YAML.
    Crd,
}

/// Settings of a run; the environment first, flags of the same name.
#[derive(Args, Debug, Clone)]
pub struct Settings {
    /// Namespaces to watch, by comma; empty: all.
    #[arg(long, env, default_value = "", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Namespace of the operator itself, where its Lease lies.
    #[arg(long, env)]
    pub pod_namespace: String,
    /// Name of the operator's pod, first part of its identity as a leader.
    #[arg(long, env)]
    pub pod_name: String,
    /// Name of the Lease by which operators elect their leader.
    #[arg(long, env, default_value = "shoal-operator")]
    pub lease_name: String,
    /// Address of /livez, /readyz and /metrics.
    #[arg(long, env, default_value = "[::]:8080")]
    pub http_address: SocketAddr,
    #[arg(long, env, default_value = "json")]
    pub log_format: LogFormat,
    /// Level, or directives by comma as in `info,shoal_operator=debug`.
    #[arg(long, env, default_value = "info")]
    pub log_level: String,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

impl Settings {
    /// The namespaces to watch; none named means all.
    pub fn namespaces(&self) -> Vec<&str> {
        self.watch_namespaces.iter().map(|name| name.trim()).filter(|n| !n.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Settings {
        let words = ["shoal-operator", "run", "--pod-namespace=shoal", "--pod-name=operator-1"];
        let cli = Cli::parse_from(words.iter().chain(arguments));
        match cli.command {
            Command::Run(settings) => settings,
            Command::Crd => panic!("run was typed"),
        }
    }

    #[test]
    fn namespaces_are_a_list_or_all() {
        assert!(run(&[]).namespaces().is_empty());
        assert_eq!(run(&["--watch-namespaces=a, b,"]).namespaces(), ["a", "b"]);
    }

    #[test]
    fn the_command_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
