//! The leader's loop over a real log of one voter; the test plays the processes it leads.

use std::{collections::BTreeSet, time::Duration};

use shoal_core::{
    handoff::{self, News, Process},
    id::{ClusterId, Epoch, Incarnation, NodeId, ShardId},
    planner::Standing,
    registry::{Addresses, Configure, Holding, MoveRef, NodeInfo},
};
use tempfile::TempDir;

use super::*;
use crate::peer::{AddressBook, Channels};

const CLUSTER: ClusterId = ClusterId(0xc0);
/// A generous bound on any one wait.
const PATIENCE: Duration = Duration::from_secs(30);
const RENEW_EVERY: Duration = Duration::from_millis(300);
/// What the owner and the target of a small shard take for a move.
const HAND_OVER: Duration = Duration::from_millis(20);
const FOUNDERS: [&str; 3] = ["a", "b", "c"];

fn info(name: &str) -> NodeInfo {
    NodeInfo {
        name: name.to_owned(),
        // Nobody is there: only this node's log counts.
        addresses: Addresses { data: name.to_owned(), ..Addresses::default() },
        weight: 100,
        feature_level: 1,
        ..NodeInfo::default()
    }
}

struct Leader {
    table: Table,
    control: Handle,
    raft: raft::Handle,
    stop: CancellationToken,
    _dir: TempDir,
}

impl Leader {
    /// Founded with `shards`, its founders joined, not formed.
    async fn start(shards: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let table = Table::default();
        let cluster = raft::ClusterCell::default();
        cluster.set(Some(CLUSTER));
        let raft = raft::Handle::start(raft::Config {
            dir: dir.path().to_owned(),
            cluster,
            id: NodeId(1),
            name: FOUNDERS[0].to_owned(),
            address: "127.0.0.1:9".to_owned(),
            lease: Lease::default(),
            table: table.clone(),
            channels: Channels::new(AddressBook::default()),
            slot: raft::Slot::default(),
            metrics: raft::metrics::Metrics::default(),
        });
        let raft = raft.await.unwrap();
        raft.initialize_alone().await.unwrap();
        let config = Config {
            node: NodeId(1),
            founding: FOUNDERS.map(str::to_owned).to_vec(),
            founding_size: 1,
            found: Some(Command::Found {
                cluster: CLUSTER,
                founder: info(FOUNDERS[0]),
                directory: 1,
                shard_count: shards,
                lease_ms: 3_000,
            }),
            metrics: metrics::Metrics::default(),
        };
        let (control, handle) = Control::new(config, raft.clone(), table.clone());
        let stop = CancellationToken::new();
        tokio::spawn(control.run(stop.clone()));
        let leader = Self { table, control: handle, raft, stop, _dir: dir };
        leader.until("founded", |registry| registry.founded()).await;
        leader.join(FOUNDERS[1]).await;
        leader.join(FOUNDERS[2]).await;
        leader
    }

    /// Formed, the founders registered, every shard assigned.
    async fn of_three(shards: u32) -> Self {
        let leader = Self::start(shards).await;
        leader.form().await;
        for node in leader.nodes() {
            leader.register(node, 1).await;
        }
        leader.rest().await;
        leader
    }

    async fn ask(&self, request: Request) -> Result<Granted, Denied> {
        tokio::time::timeout(PATIENCE, self.control.ask(request)).await.unwrap()
    }

    async fn propose(&self, command: Command) {
        self.ask(Request::Propose(command)).await.unwrap();
    }

    async fn join(&self, name: &str) -> NodeId {
        let directory = u128::from(name.as_bytes()[0]);
        let granted = self.ask(Request::Join { info: info(name), directory }).await.unwrap();
        match granted.outcome {
            Outcome::Event(shoal_core::registry::Event::Joined { node }) => node,
            other => panic!("{other:?}"),
        }
    }

    async fn form(&self) {
        let highest_epoch_found = Epoch::default();
        self.propose(Command::Form { unix_seconds: 1_800_000_000, highest_epoch_found }).await;
    }

    /// A process of the node registers and renews until the test ends.
    async fn register(&self, node: NodeId, run: u64) -> Process {
        let incarnation = Incarnation { counter: run, nonce: node.0 };
        let info = self.table.registry().node(node).unwrap().info.clone();
        let register = Register { node, incarnation, info, lock: None };
        self.ask(Request::Register(register)).await.unwrap();
        let (control, table) = (self.control.clone(), self.table.clone());
        let renewing = async move {
            loop {
                let table = table.applied();
                let renew = Renew { node, incarnation, table, leaves_within: None };
                if control.ask(Request::Renew(renew)).await.is_err() {
                    return;
                }
                tokio::time::sleep(RENEW_EVERY).await;
            }
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(renewing).await });
        Process::new(node, incarnation)
    }

    /// Owners release what moves away, each after `pause`, until the test ends.
    fn hand_over(&self, pause: Duration) {
        let (control, table) = (self.control.clone(), self.table.clone());
        let owners = async move {
            let mut map = table.watch_map();
            let mut released = BTreeSet::new();
            loop {
                map.borrow_and_update();
                for report in moving(&table)
                    .filter(|report| released.insert((report.key.shard, report.key.id)))
                {
                    let control = control.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(pause).await;
                        control.ask(Request::Report(report)).await
                    });
                }
                if map.changed().await.is_err() {
                    return;
                }
            }
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(owners).await });
    }

    /// Of a node that is up, as the planner sees it now.
    async fn standing_of(&self, node: NodeId) -> Standing {
        let Outcome::Plan(plan) = self.ask(Request::Plan).await.unwrap().outcome else {
            panic!("a plan was asked for")
        };
        let share = plan.report.shares.iter().find(|share| share.node == node);
        share.expect("it is up").standing
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.table.registry().nodes().map(|(id, _)| id).collect()
    }

    async fn until(&self, what: &str, met: impl Fn(&shoal_core::registry::Registry) -> bool) {
        let mut applied = self.table.watch_applied();
        let waiting = async {
            loop {
                applied.borrow_and_update();
                if met(&self.table.registry()) {
                    return;
                }
                applied.changed().await.unwrap();
            }
        };
        let met = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(met.is_ok(), "in vain: {what}");
    }

    /// Until every shard has an owner and none moves.
    async fn rest(&self) {
        let owned = |holding| matches!(holding, Holding::Owned { .. });
        self.until("every shard rests", |registry| {
            registry.formed() && registry.shards().all(|(_, row)| owned(row.holding))
        })
        .await;
    }

    fn shares(&self) -> Vec<u32> {
        let registry = self.table.registry();
        registry.nodes().map(|(id, _)| registry.held(id).owned).collect()
    }

    /// Changes of owner so far.
    fn changes(&self) -> u64 {
        let registry = self.table.registry();
        registry.shards().map(|(_, row)| u64::from(row.epoch.count())).sum()
    }

    async fn end(self) {
        self.stop.cancel();
        self.raft.shutdown().await;
    }
}

/// What each owner of a moving shard would report once it has handed it over.
fn moving(table: &Table) -> impl Iterator<Item = handoff::Report> {
    let registry = table.registry();
    let report = |(shard, row): (ShardId, &shoal_core::registry::ShardRow)| match row.holding {
        Holding::Moving { node, incarnation, target, target_incarnation, id, .. } => {
            Some(handoff::Report {
                key: MoveRef { shard, epoch: row.epoch, id },
                source: Process::new(node, incarnation),
                target: Process::new(target, target_incarnation),
                news: News::Released,
            })
        }
        Holding::Owned { .. } | Holding::Unassigned => None,
    };
    registry.shards().filter_map(report).collect::<Vec<_>>().into_iter()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shard_has_an_owner_within_a_second_of_forming() {
    for registering in [3, 2] {
        let leader = Leader::start(1_024).await;
        leader.form().await;
        let formed = clock::now();
        for node in leader.nodes().into_iter().take(registering) {
            leader.register(node, 1).await;
        }
        leader.rest().await;
        let took = clock::now().at_most_since(formed);
        println!("{registering} of 3 registered: all owned {took:?} after the forming");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(leader.changes(), 0, "nothing is moved that was just assigned");
        let even = 1_024 / registering as u32;
        let uneven = leader.shares().into_iter().take(registering).any(|one| one < even);
        assert!(!uneven, "{:?}", leader.shares());
        leader.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_node_takes_its_share_by_the_fewest_moves_and_in_seconds() {
    let leader = Leader::of_three(1_024).await;
    leader.hand_over(HAND_OVER);
    let before = leader.changes();
    let fourth = leader.join("d").await;
    let began = clock::now();
    leader.register(fourth, 1).await;
    leader.until("it has its share", |registry| registry.held(fourth).owned == 256).await;
    let took = clock::now().at_most_since(began);
    leader.rest().await;
    println!("256 of 1024 shards moved in {took:?}");
    assert_eq!(leader.shares(), [256; 4]);
    assert_eq!(leader.changes() - before, 256);
    // Sixteen rounds of a second each are what a cooldown within a round would take.
    assert!(took < Duration::from_secs(8), "{took:?}");
    leader.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaver_is_planned_with_the_deadline_it_renews_with() {
    let leader = Leader::of_three(16).await;
    let leaver = leader.nodes()[2];
    let incarnation = leader.table.registry().node(leaver).unwrap().incarnation;
    let within = Some(Duration::from_secs(20));
    let table = leader.table.applied();
    let drain = Command::DrainRestart { node: leaver, incarnation };
    leader.propose(drain).await;
    let renew = Renew { node: leaver, incarnation, table, leaves_within: within };
    leader.ask(Request::Renew(renew)).await.unwrap();
    let deadline = match leader.standing_of(leaver).await {
        Standing::Leaving { deadline, .. } => deadline.unwrap(),
        other => panic!("{other:?}"),
    };
    assert!(deadline <= Duration::from_secs(20) && deadline > Duration::from_secs(15));
    leader.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_is_a_target_whatever_its_former_one_had_missed() {
    let leader = Leader::start(16).await;
    leader.form().await;
    let [first, second, restarted] = leader.nodes()[..] else { panic!("three") };
    leader.register(first, 1).await;
    leader.register(second, 1).await;
    let incarnation = Incarnation { counter: 1, nonce: restarted.0 };
    let info = leader.table.registry().node(restarted).unwrap().info.clone();
    let register =
        |incarnation| Register { node: restarted, incarnation, info: info.clone(), lock: None };
    leader.ask(Request::Register(register(incarnation))).await.unwrap();

    let table = leader.table.applied();
    let lags = async {
        while leader.standing_of(restarted).await == Standing::Target {
            let renew = Renew { node: restarted, incarnation, table, leaves_within: None };
            leader.ask(Request::Renew(renew)).await.unwrap();
            tokio::time::sleep(RENEW_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, lags).await.expect("it is held back once it lags");
    leader.propose(Command::DrainRestart { node: restarted, incarnation }).await;
    leader.propose(Command::CloseInPlace { node: restarted, incarnation }).await;
    let next = Incarnation { counter: 2, ..incarnation };
    leader.ask(Request::Register(register(next))).await.unwrap();
    assert_eq!(leader.standing_of(restarted).await, Standing::Target);
    leader.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sole_voter_hands_leadership_to_nobody() {
    let leader = Leader::of_three(16).await;
    let denied =
        leader.ask(Request::TransferLeader { to: None, operator_epoch: None }).await.unwrap_err();
    assert!(matches!(denied, Denied::Impossible(_)), "{denied:?}");
    let denied = leader
        .ask(Request::TransferLeader { to: Some(NodeId(7)), operator_epoch: None })
        .await
        .unwrap_err();
    assert_eq!(denied.to_string(), "node n7 is no voter: name one of the voters");
    leader.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_whom_the_log_cannot_spare_is_not_removed() {
    let leader = Leader::of_three(16).await;
    let (only, incarnation) = (leader.raft.id(), Incarnation { counter: 1, nonce: 1 });
    let remove = |node| Command::Remove { node, incarnation };
    for command in
        [remove(only), Command::Guarded { operator_epoch: 0, command: Box::new(remove(only)) }]
    {
        let denied = leader.ask(Request::Propose(command)).await.unwrap_err();
        assert!(matches!(&denied, Denied::Later(why) if why.contains("still votes")), "{denied:?}");
    }
    // Of whom the log does not depend the registry alone judges.
    let other = leader.table.registry().nodes().map(|(id, _)| id).find(|id| *id != only).unwrap();
    let denied = leader.ask(Request::Propose(remove(other))).await.unwrap_err();
    assert!(matches!(denied, Denied::Refused(_)), "{denied:?}");
    leader.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l14_a_lease_shorter_than_three_of_the_elections_that_run_is_refused() {
    let leader = Leader::of_three(16).await;
    let lower = |lease_ms| {
        let configure = Configure { lease_ms: Some(lease_ms), ..Configure::default() };
        Command::Configure(configure)
    };
    for command in
        [lower(2_000), Command::Guarded { operator_epoch: 0, command: Box::new(lower(2_000)) }]
    {
        let denied = leader.ask(Request::Propose(command)).await.unwrap_err().to_string();
        assert!(denied.starts_with("lease_ms 2000 is too short"), "{denied}");
        assert!(denied.contains("set 2808 or more"), "{denied}");
    }
    for allowed in [2_808, 60_000, 3_000] {
        leader.propose(lower(allowed)).await;
        assert_eq!(leader.table.registry().settings().lease_ms, allowed);
    }
    leader.end().await;
}
