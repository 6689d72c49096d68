//! What to try with a cluster that has just started: commands to copy.

use super::{children::Node, cluster::Cluster};
use crate::cli::table::{Cell, Colour, Tone, table};

/// The port that commands ask where none is named.
const USUAL_PORT: u16 = 11_000;

/// The nodes, and what an evening with them could look like.
pub fn text(base_port: u16, cluster: &Cluster) -> String {
    let colour = Colour::of_stdout();
    let rows: Vec<Vec<Cell>> = cluster
        .nodes()
        .map(|node| {
            vec![
                node.name.as_str().into(),
                node.address().into(),
                format!("http://{}/metrics", node.http_address()).into(),
                node.log().display().to_string().into(),
            ]
        })
        .collect();
    let nodes = table(&["NODE", "NODE_ADDRESS", "METRICS", "LOG"], &rows, colour);
    let commands = commands(&program(), base_port, cluster);
    let width = commands.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    let tries: Vec<_> = commands
        .iter()
        .map(|(command, what)| format!("  {command:<width$}  {}", colour.paint(what, Tone::Dim)))
        .collect();
    format!(
        "\n{nodes}\n\nin another terminal:\n{}\n\nA node that is killed is started again. Ctrl-C stops them all; their data stays.\n",
        tries.join("\n")
    )
}

/// This program as the user called it.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "shoal".to_owned())
}

fn commands(shoal: &str, base_port: u16, cluster: &Cluster) -> Vec<(String, &'static str)> {
    let at =
        if base_port == USUAL_PORT { String::new() } else { format!(" -a localhost:{base_port}") };
    let entries: Vec<_> = cluster.nodes().map(Node::address).collect();
    let entries = entries.join(",");
    vec![
        (format!("{shoal} call incr visits{at}"), "runs on the owner of \"visits\""),
        (format!("{shoal} lookup visits{at}"), "which shard that is, and whose"),
        (format!("{shoal} top{at}"), "a live view"),
        (format!("{shoal} bench --addresses {entries}"), "load, each answer checked"),
        (format!("{shoal} drain node-b{at}"), "its shards move away, no call fails"),
        (format!("{shoal} drain node-b --cancel{at}"), "and come back"),
        (format!("{shoal} plan{at}"), "what the balancer would do, and why"),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Command, Target, dev::Args};

    #[derive(clap::Parser)]
    struct Shoal {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(clap::Parser)]
    struct Dev {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_command_of_the_guide_parses_and_asks_this_cluster() {
        let args = Dev::parse_from(["dev", "--base-port", "21000"]).args;
        let cluster = Cluster::new(&args, std::path::Path::new("data"));
        for (command, _) in commands("shoal", args.base_port, &cluster) {
            let parsed = Shoal::try_parse_from(command.split(' '));
            let command = parsed.unwrap_or_else(|error| panic!("{command}: {error}")).command;
            let asks = |target: &Target| assert_eq!(target.address.port, 21_000, "{command:?}");
            match &command {
                Command::Lookup { target, .. }
                | Command::Call { target, .. }
                | Command::Plan { target } => asks(target),
                Command::Top(args) => asks(&args.target),
                Command::Drain(args) => asks(&args.target),
                Command::Bench(args) => {
                    assert!(args.addresses.iter().all(|address| address.port >= 21_000));
                }
                Command::Dev(_)
                | Command::Status { .. }
                | Command::Nodes { .. }
                | Command::Shards { .. }
                | Command::Move { .. }
                | Command::Configure { .. }
                | Command::Snapshot(_)
                | Command::Recover(_) => panic!("{command:?} is not in the guide"),
            }
        }
    }
}
