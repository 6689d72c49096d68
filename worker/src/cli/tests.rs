//! Arguments as people type them.

use clap::Parser;
use shoal_proto::shoal::admin::v1 as pb;

use super::*;

#[derive(Parser, Debug)]
struct Shoal {
    #[command(subcommand)]
    command: Command,
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    Shoal::try_parse_from(line.split(' ')).map(|shoal| shoal.command)
}

#[test]
fn every_command_of_the_manual_parses() {
    for line in [
        "shoal dev --demo --no-report",
        "shoal dev --base-port 21000 --shards 64 --lease 5",
        "shoal status --linearizable --address localhost:11001",
        "shoal nodes --output json",
        "shoal shards --owner node-a --unsettled",
        "shoal lookup k",
        "shoal call incr k 5",
        "shoal call get k",
        "shoal plan",
        "shoal drain node-b --remove",
        "shoal drain 3 --cancel",
        "shoal drain node-b --no-wait",
        "shoal drain node-b --remove --timeout 60",
        "shoal snapshot registry.shoal",
        "shoal snapshot registry.shoal --inspect --output json",
        "shoal move 17 node-c",
        "shoal configure max_moves=8 rebalance=paused",
        "shoal top --interval 1000 -a localhost:11001",
        "shoal bench --rate 500 --seconds 5 --addresses localhost:11000,localhost:11001",
        "shoal bench --concurrency 8 --calls 1000 --keys 2000",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_excludes_each_other_or_is_out_of_range_is_refused() {
    for line in [
        "shoal drain node-b --remove --cancel",
        "shoal drain node-b --no-wait --timeout 3",
        "shoal configure",
        "shoal bench --calls 5 --seconds 5",
        "shoal bench --keys 10",
        "shoal bench --rate 0",
        "shoal bench --rate 500 --concurrency 8",
        "shoal bench --connections 0",
        "shoal move seventeen node-c",
        "shoal status --address nowhere",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn the_admin_port_is_two_thousand_above_unless_it_is_given() {
    let admin = |line| match parse(line).unwrap() {
        Command::Plan { target } => target.admin(),
        other => panic!("{other:?}"),
    };
    assert_eq!(admin("shoal plan --address [::1]:11000").unwrap(), "[::1]:13000");
    let given = "shoal plan --address localhost:11000 --admin-address localhost:1";
    assert_eq!(admin(given).unwrap(), "localhost:1");
    assert!(admin("shoal plan --address localhost:65000").is_err());
}

#[test]
fn settings_are_read_or_named_in_the_error() {
    let read = |pairs: &[&str]| {
        let pairs: Vec<_> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        admin::read_settings(&pairs)
    };
    let request = read(&["max_moves=8", "rebalance=paused"]).unwrap();
    assert_eq!((request.max_moves, request.rebalance.as_deref()), (Some(8), Some("paused")));
    assert_eq!(request.lease_ms, None);
    for (wrong, named) in [("max_moves", "key=value"), ("moves=1", "moves"), ("lease_ms=x", "x")] {
        assert!(read(&[wrong]).unwrap_err().to_string().contains(named), "{wrong}");
    }
}

#[test]
fn a_node_is_found_by_name_address_and_id() {
    let node = |id: u64, name: &str, address: &str| pb::Node {
        id,
        name: name.to_owned(),
        node_address: address.to_owned(),
        ..Default::default()
    };
    let nodes = [node(4, "node-a", "localhost:1"), node(9, "4", "localhost:2")];
    let id = |wanted| admin::find(&nodes, wanted).map(|node| node.id).ok();
    assert_eq!([id("node-a"), id("localhost:2"), id("n4")], [Some(4), Some(9), Some(4)]);
    assert_eq!(id("4"), Some(9), "a name goes before an id");
    assert_eq!(id("node-z"), None);
}

#[test]
fn every_help_names_units_or_examples_and_fits_100_columns() {
    use clap::CommandFactory as _;
    let mut shoal = Shoal::command();
    shoal.build();
    for command in shoal.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let help = command.render_long_help().to_string();
        for line in help.lines() {
            assert!(line.chars().count() <= 120, "{}: {line}", command.get_name());
        }
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let told = argument.get_help().is_some() || argument.is_positional();
            assert!(told, "{} {}", command.get_name(), argument.get_id());
        }
    }
}
