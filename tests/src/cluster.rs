//! Several nodes on localhost as one cluster: formed, asked through the command line, settled.

use serde::Deserialize;

use crate::{Client, Node, Ports, Space, admin, command, wait};

/// Names of the nodes in their order.
const NAMES: [&str; 7] = ["node-a", "node-b", "node-c", "node-d", "node-e", "node-f", "node-g"];
/// Founding nodes that `founded_by` is given mostly.
pub const FOUNDERS: usize = 3;
/// Enough for every node to own several, few enough for a quick hand-over.
const SHARDS: &str = "64";

/// What `shoal status --output json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub cluster_id: String,
    pub formed: bool,
    pub leader_id: u64,
    pub map_version: u64,
    pub nodes: Vec<Row>,
    pub voters: Vec<u64>,
    pub shards: Shards,
    pub waiting: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    pub id: u64,
    pub name: String,
    pub life: String,
    pub drain: String,
    pub role: String,
    pub shards_owned: u32,
    pub shards_receiving: u32,
    pub incarnation: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Shards {
    pub total: u32,
    pub assigned: u32,
    pub moving: u32,
    pub unassigned: u32,
}

/// What `shoal shards --output json` says of each.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Shard {
    pub id: u32,
    pub epoch: u64,
}

impl Status {
    pub fn node(&self, name: &str) -> Option<&Row> {
        self.nodes.iter().find(|row| row.name == name)
    }

    pub fn leader(&self) -> Option<&Row> {
        self.nodes.iter().find(|row| row.id == self.leader_id)
    }

    fn up(&self) -> impl Iterator<Item = &Row> {
        self.nodes.iter().filter(|row| row.life == "up" && row.drain == "none")
    }

    /// Somebody leads `up` nodes, every shard has an owner, each node owns some.
    fn served(&self, up: usize) -> bool {
        self.formed
            && self.leader_id != 0
            && self.shards.unassigned == 0
            && self.up().count() == up
            && self.up().all(|row| row.shards_owned > 0)
    }

    /// Served, shared evenly, and nothing moves.
    fn settled(&self, up: usize) -> bool {
        let share = self.shards.total / up.max(1) as u32;
        self.served(up) && self.shards.moving == 0 && self.up().all(|row| row.shards_owned >= share)
    }
}

/// Declared so that nodes end before their directory goes.
pub struct Cluster {
    pub nodes: Vec<Node>,
    ports: Ports,
    pub space: Space,
}

impl Cluster {
    /// `founders` nodes with PEER_ADDRESSES, none of them started, and room for `more`.
    pub fn prepared(founders: usize, more: usize) -> Self {
        let ports = Ports::any((founders + more) as u16);
        let mut cluster = Self::of(Space::new(), ports, Vec::new());
        for at in 0..founders {
            cluster.add(at);
        }
        let peers = cluster.addresses().join(",");
        for node in &mut cluster.nodes {
            node.set("PEER_ADDRESSES", &peers);
        }
        cluster
    }

    pub fn of(space: Space, ports: Ports, nodes: Vec<Node>) -> Self {
        Self { nodes, ports, space }
    }

    /// Founded together, ready, every shard with an owner.
    #[track_caller]
    pub fn founded(founders: usize, more: usize) -> Self {
        let mut cluster = Self::prepared(founders, more);
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.nodes.iter_mut().for_each(Node::ready);
        cluster.settle(founders);
        cluster
    }

    /// Starts those that are prepared. The first one is early enough to be the oldest: it founds, and
    /// leads at the end.
    #[track_caller]
    pub fn start_led_by_first(&mut self) -> Status {
        let size = self.nodes.len();
        self.nodes[0].start();
        self.nodes[0].waits(&format!("waiting for {} of {size} founding peers", size - 1));
        self.nodes[1..].iter_mut().for_each(Node::start);
        self.nodes.iter_mut().for_each(Node::ready);
        wait::until("the first one leads a settled cluster", || {
            let status = self.status()?;
            let first = status.node(&self.nodes[0].name).map_or(0, |row| row.id);
            if !status.settled(size) || first == 0 {
                return Err(format!("{status:?}"));
            }
            if status.leader_id == first {
                return Ok(status);
            }
            // On a busy machine an election may come between.
            let asked = admin::lead(&self.nodes[0].admin_address(), first);
            Err(format!("{asked:?}, {status:?}"))
        })
    }

    fn add(&mut self, at: usize) -> &mut Node {
        let mut node = Node::new(&self.space, NAMES[at], self.ports.get(at as u16));
        node.set("SHARDS", SHARDS);
        self.nodes.push(node);
        self.nodes.last_mut().expect("just added")
    }

    /// One more node, which is to join at `through`; not started.
    pub fn joiner(&mut self, through: usize) -> &mut Node {
        let address = self.nodes[through].address();
        self.add(self.nodes.len()).set("JOIN_ADDRESS", &address)
    }

    /// The first of its ports.
    pub fn port(&self) -> u16 {
        self.ports.get(0)
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }

    pub fn client(&self, at: usize) -> Client {
        Client::to(&self.nodes[at].address())
    }

    /// Place in `nodes` of the node of that name.
    pub fn place(&self, name: &str) -> usize {
        self.nodes.iter().position(|node| node.name == name).expect("a node of this cluster")
    }

    /// `shoal <arguments>` asked of one node.
    #[track_caller]
    pub fn ask(&self, at: usize, arguments: &[&str]) -> command::Ended {
        let address = self.nodes[at].address();
        let mut settings = self.nodes[at].tls();
        settings.push(("NODE_ADDRESS", &address));
        command::run(arguments, &settings)
    }

    /// Some shard of the node of that name.
    #[track_caller]
    pub fn shard_of(&self, name: &str) -> Shard {
        let told = self.ask(0, &["shards", "--owner", name, "--output", "json"]).succeeded();
        let shards: Vec<Shard> = serde_json::from_str(&told).expect("shards as JSON");
        shards.into_iter().next().expect("it owns some")
    }

    pub fn status_of(&self, at: usize) -> Result<Status, String> {
        let ended = self.ask(at, &["status", "--output", "json"]);
        if ended.code != Some(0) {
            return Err(ended.stderr);
        }
        serde_json::from_str(&ended.stdout).map_err(|error| format!("{error}: {}", ended.stdout))
    }

    /// The cluster as the first running node tells it that is in it.
    pub fn status(&mut self) -> Result<Status, String> {
        let running: Vec<_> = (0..self.nodes.len()).filter(|at| self.nodes[*at].runs()).collect();
        let mut last = Err("no node runs".to_owned());
        for at in running {
            self.nodes[at].assert_runs();
            last = self.status_of(at);
            if last.as_ref().is_ok_and(|status| status.formed) {
                break;
            }
        }
        last
    }

    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        wait::until(what, || match self.status()? {
            status if wanted(&status) => Ok(status),
            status => Err(format!("{status:?}")),
        })
    }

    /// Until `up` nodes serve all shards, however these are shared.
    #[track_caller]
    pub fn serves(&mut self, up: usize) -> Status {
        self.until("all shards are served", |status| status.served(up))
    }

    /// Until `up` nodes share all shards evenly and nothing moves.
    #[track_caller]
    pub fn settle(&mut self, up: usize) -> Status {
        self.until("the cluster settles", |status| status.settled(up))
    }
}
