//! Faults of the network, in the namespace of the node that they happen to. Who is cut off keeps
//! its addresses and connections: packets are lost, nobody is told.

use anyhow::{Context as _, ensure};

use super::{
    super::{
        kind::Kind,
        net::{LINK, Net},
        scene::Scene,
    },
    Fault,
};

/// Of 100 packets that reach a node over a lossy link.
const LOST_PERCENT: u32 = 20;

/// Packets that the node must not get, or not send.
struct Rules {
    input: String,
    output: String,
}

impl Rules {
    fn of(fault: Fault, scene: &Scene) -> Self {
        let peers = || {
            let others = (0..scene.nodes.len()).filter(|at| *at != fault.node);
            format!("{{ {} }}", others.map(Net::address).collect::<Vec<_>>().join(", "))
        };
        let from = |who: &str| format!("ip saddr {who} counter drop");
        let to = |who: &str| format!("ip daddr {who} counter drop");
        let (input, output) = match fault.kind {
            Kind::CutPeers | Kind::CutLeader => (from(&peers()), to(&peers())),
            Kind::CutIn => (from(&peers()), String::new()),
            Kind::CutOut => (String::new(), to(&peers())),
            Kind::CutPair => {
                let other = Net::address(fault.other);
                (from(&other), to(&other))
            }
            Kind::CutClients => (from(&Net::clients()), to(&Net::clients())),
            Kind::LossyLink => {
                let lost = format!("numgen random mod 100 < {LOST_PERCENT} counter drop");
                (format!("iifname {LINK} {lost}"), String::new())
            }
            // Everybody; a node reaches itself over lo.
            _ => (format!("iifname {LINK} counter drop"), format!("oifname {LINK} counter drop")),
        };
        Self { input, output }
    }

    fn text(&self) -> String {
        let chain = |hook: &str, rule: &str| {
            format!("chain {hook} {{\n type filter hook {hook} priority 0\n {rule}\n}}\n")
        };
        let chains = [chain("input", &self.input), chain("output", &self.output)];
        format!("table inet faults {{\n{}}}\n", chains.concat())
    }
}

pub fn cut(fault: Fault, scene: &Scene) -> anyhow::Result<()> {
    let rules = Rules::of(fault, scene).text();
    scene.net.nodes[fault.node].feed("nft -f -", &rules)?;
    Ok(())
}

/// Packets that its rules have dropped.
pub fn dropped(scene: &Scene, at: usize) -> anyhow::Result<String> {
    let rules = scene.net.nodes[at].run("nft list table inet faults")?;
    let words: Vec<_> = rules.split_whitespace().collect();
    let counts = words.windows(2).filter(|pair| pair[0] == "packets");
    let dropped: u64 = counts.filter_map(|pair| pair[1].parse::<u64>().ok()).sum();
    ensure!(dropped > 0, "no packet was dropped:\n{rules}");
    Ok(format!("{dropped} packets were dropped"))
}

pub fn join(scene: &Scene, at: usize) -> anyhow::Result<()> {
    scene.net.nodes[at].run("nft delete table inet faults").map(|_| ())
}

pub fn slow(scene: &Scene, at: usize) -> anyhow::Result<()> {
    let shape = format!("tc qdisc add dev {LINK} root tbf rate 256kbit burst 8kb latency 200ms");
    scene.net.nodes[at].run(&shape).map(|_| ())
}

/// Packets that had to wait or found no room.
pub fn slowed(scene: &Scene, at: usize) -> anyhow::Result<String> {
    let told = scene.net.nodes[at].run(&format!("tc -s qdisc show dev {LINK}"))?;
    let after = told.split("overlimits ").nth(1).context("no count of what was slowed")?;
    let slowed: u64 = after.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    ensure!(slowed > 0, "no packet was slowed: {told}");
    Ok(format!("{slowed} packets were slowed"))
}

pub fn fast(scene: &Scene, at: usize) -> anyhow::Result<()> {
    scene.net.nodes[at].run(&format!("tc qdisc delete dev {LINK} root")).map(|_| ())
}
