//! The fencing machine against scripted clusters: one leader, node facts edited by hand.

use super::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::default().plus(Duration::from_millis(millis))
}

/// A cluster as its leader, n1, sees it; all nodes are voters.
struct Cluster {
    lease: Lease,
    nodes: Vec<NodeFact>,
    expiry: Expiry,
    has_session: bool,
    index: u64,
    fencing: Option<Fencing>,
    now: u64,
    actions: Vec<(u64, Action)>,
}

impl Cluster {
    /// `count` nodes that all renewed at 0.
    fn new(count: u64) -> Self {
        let nodes = (1..=count).map(|id| NodeFact {
            id: NodeId(id),
            incarnation: Incarnation { counter: 1, nonce: id },
            life: Life::Up,
            drain: Drain::None,
            voter: true,
            renewed: LogIndex(0),
        });
        let mut cluster = Self {
            lease: Lease::from_millis(3_000).unwrap(),
            nodes: nodes.collect(),
            expiry: Expiry::default(),
            has_session: true,
            index: 0,
            fencing: None,
            now: 0,
            actions: Vec::new(),
        };
        cluster.renew(1..=count);
        cluster
    }

    fn renew(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.index += 1;
        for id in ids {
            let node = &mut self.nodes[id as usize - 1];
            if node.life == Life::Up {
                node.renewed = LogIndex(self.index);
                let event = super::super::expiry::Event::Renewed {
                    nodes: &[NodeId(id)],
                    lease: self.lease,
                };
                self.expiry.on(event, at(self.now));
            }
        }
    }

    fn elect(&mut self) {
        self.index += 1;
        let (index, now) = (LogIndex(self.index), at(self.now));
        self.fencing = Some(Fencing::new(NodeId(1), index, self.view(), now));
    }

    fn view(&self) -> View<'_> {
        View {
            lease: self.lease,
            nodes: &self.nodes,
            expiry: &self.expiry,
            has_session: self.has_session,
        }
    }

    fn applied(&mut self) {
        let now = at(self.now);
        let _ = self.fencing.as_mut().unwrap().on(Event::Applied, now);
    }

    fn tick(&mut self, inbox_empty: bool) -> Vec<Action> {
        let mut fencing = self.fencing.take().unwrap();
        let view = self.view();
        let output = fencing.on(Event::Tick { inbox_empty, view }, at(self.now));
        self.fencing = Some(fencing);
        assert_eq!(output.wake_at, Some(at(self.now).plus(TICK)));
        self.actions.extend(output.actions.iter().map(|action| (self.now, action.clone())));
        output.actions
    }

    /// Runs until `end` with `alive` renewing each L / 4; fences are applied at once.
    fn run(&mut self, end: u64, alive: &[u64]) {
        let renew = self.lease.renew_every().as_millis() as u64;
        let mut next_renewal = self.now;
        while self.now < end {
            if self.now >= next_renewal {
                self.renew(alive.iter().copied());
                next_renewal += renew;
            }
            self.applied();
            for action in self.tick(true) {
                if let Action::ProposeFence { node, .. } = action {
                    self.nodes[node.0 as usize - 1].life = Life::Fenced;
                }
            }
            self.now += 50;
        }
    }

    fn fenced(&self) -> Vec<u64> {
        let fenced = self.actions.iter().filter_map(|(_, action)| match action {
            Action::ProposeFence { node, .. } => Some(node.0),
            Action::ProposeBlank
            | Action::ProposeSettle { .. }
            | Action::TransferLeadership { .. } => None,
        });
        fenced.collect()
    }

    fn when(&self, wanted: impl Fn(&Action) -> bool) -> Option<u64> {
        self.actions.iter().find(|(_, action)| wanted(action)).map(|(when, _)| *when)
    }
}

fn is_fence(action: &Action) -> bool {
    matches!(action, Action::ProposeFence { .. })
}

fn is_transfer(action: &Action) -> bool {
    matches!(action, Action::TransferLeadership { .. })
}

#[test]
fn l2_two_nodes_one_dies() {
    let mut cluster = Cluster::new(2);
    cluster.elect();
    cluster.run(6_000, &[1]);
    assert_eq!(cluster.fenced(), [2]);
    assert_eq!(cluster.when(is_fence), Some(3_000));
}

#[test]
fn s17_the_only_node_fences_nobody_not_even_itself() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    cluster.run(60_000, &[]);
    assert_eq!(cluster.fenced(), [] as [u64; 0]);
}

#[test]
fn a_fence_names_the_last_renewal_seen_and_waits_for_an_empty_inbox() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.run(3_000, &[1, 2]);
    cluster.applied();
    assert_eq!(cluster.tick(false), []);
    let fence = Action::ProposeFence {
        node: NodeId(3),
        incarnation: cluster.nodes[2].incarnation,
        renewed: LogIndex(1),
    };
    assert_eq!(cluster.tick(true), std::slice::from_ref(&fence));
    assert_eq!(cluster.tick(true), [], "one in flight");
    cluster.now += 750;
    cluster.applied();
    assert_eq!(cluster.tick(true), [fence], "lost, proposed again");
}

#[test]
fn l3_three_second_election_gap_fences_nobody_healthy() {
    let mut cluster = Cluster::new(5);
    cluster.now = 3_300;
    cluster.elect();
    cluster.tick(true);
    cluster.now += 700;
    cluster.applied();
    cluster.run(20_000, &[1, 2, 3, 4, 5]);
    assert_eq!(cluster.fenced(), [] as [u64; 0]);

    let mut cluster = Cluster::new(5);
    cluster.now = 3_300;
    cluster.elect();
    cluster.run(20_000, &[1, 2, 3, 4]);
    assert_eq!(cluster.fenced(), [5]);
    assert_eq!(cluster.when(is_fence), Some(4_800), "L / 2 after the election");
}

#[test]
fn l3_a_gap_in_the_own_loop_raises_the_floor() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.run(2_000, &[1, 2, 3]);
    cluster.now = 7_000; // stopped for five seconds
    cluster.run(8_450, &[1, 2]);
    assert_eq!(cluster.fenced(), [] as [u64; 0]);
    cluster.run(8_600, &[1, 2]);
    assert_eq!(cluster.fenced(), [3]);
}

#[test]
fn a_leader_without_quorum_contact_fences_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.run(2_000, &[1, 2]);
    for _ in 0..100 {
        cluster.tick(true);
        cluster.now += 50;
    }
    assert_eq!(cluster.fenced(), [] as [u64; 0]);
    let blanks = cluster.actions.iter().filter(|(_, action)| *action == Action::ProposeBlank);
    assert_eq!(blanks.count(), 6, "one each L / 4");
}

#[test]
fn l4_deaf_leader_fences_at_most_a_minority_then_transfers() {
    let mut cluster = Cluster::new(5);
    cluster.elect();
    cluster.run(8_900, &[1]);
    assert_eq!(cluster.fenced(), [2, 3], "two of five");
    let transfers = cluster.actions.iter().filter(|(_, a)| is_transfer(a));
    assert_eq!(transfers.count(), 1);
    assert_eq!(cluster.when(is_transfer), Some(6_000), "the next window");
}

#[test]
fn a_second_window_that_does_not_fill_is_no_reason_for_doubt() {
    let mut cluster = Cluster::new(12);
    cluster.elect();
    cluster.run(3_500, &[1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(cluster.fenced(), [8, 9, 10, 11, 12], "five of twelve");
    cluster.run(10_000, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(cluster.fenced(), [8, 9, 10, 11, 12, 7]);
    assert_eq!(cluster.when(is_transfer), None);
}

#[test]
fn l4_sole_voter_waits_two_leases_instead() {
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes[1..] {
        node.voter = false;
    }
    cluster.elect();
    cluster.run(30_000, &[1]);
    assert_eq!(cluster.fenced(), [2, 3]);
    let fences: Vec<u64> = cluster
        .actions
        .iter()
        .filter(|(_, action)| is_fence(action))
        .map(|(when, _)| *when)
        .collect();
    assert_eq!(fences, [3_000, 12_000], "next window at 6 s, then 2 L");
    assert_eq!(cluster.when(is_transfer), None);
}

#[test]
fn l4_a_failed_transfer_does_not_block_for_ever() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.run(30_000, &[1]);
    assert_eq!(cluster.fenced(), [2, 3]);
    assert_eq!(cluster.when(is_transfer), Some(6_000));
}

#[test]
fn l4_doubt_returns_with_the_next_series_of_full_windows() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.run(30_000, &[1]);
    for node in &mut cluster.nodes {
        node.life = Life::Up;
    }
    cluster.run(90_000, &[1, 2, 3]);
    cluster.run(120_000, &[1]);
    assert_eq!(cluster.fenced(), [2, 3, 2, 3]);
    let transfers = cluster.actions.iter().filter(|(_, action)| is_transfer(action));
    assert_eq!(transfers.count(), 2);
}

#[test]
fn s17_leader_without_a_session_hands_over_to_a_live_voter() {
    let mut cluster = Cluster::new(3);
    cluster.has_session = false;
    cluster.elect();
    cluster.now = 2_950;
    cluster.applied();
    cluster.renew([3]);
    assert_eq!(cluster.tick(true), [], "it may still register");
    cluster.now = 3_000;
    let transfer = Action::TransferLeadership { to: NodeId(3) };
    assert_eq!(cluster.tick(true), [transfer]);
    assert_eq!(cluster.tick(true), [], "once per L");

    let mut deaf = Cluster::new(3);
    deaf.has_session = false;
    deaf.elect();
    deaf.now = 3_000;
    deaf.applied();
    assert_eq!(deaf.tick(true), [], "nobody was heard in this term");
}

#[test]
fn l6_disk_stalls_1600_ms() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    cluster.run(6_000, &[1, 2, 3]);
    // nothing is applied for 1.6 s, then everything is heard again
    for _ in 0..32 {
        cluster.tick(true);
        cluster.now += 50;
    }
    cluster.run(20_000, &[1, 2, 3]);
    assert_eq!(cluster.fenced(), [] as [u64; 0]);
}

#[test]
fn l11_power_cycle_with_slow_nodes() {
    let mut cluster = Cluster::new(10);
    cluster.elect();
    let back = |cluster: &mut Cluster, count: u64| {
        cluster.renew(1..=count);
        cluster.applied();
        let _ = cluster.tick(false);
        cluster.fencing.as_ref().unwrap().may_assign_orphans()
    };
    cluster.now = 1_500;
    assert!(!back(&mut cluster, 4));
    cluster.now = 5_000;
    assert!(!back(&mut cluster, 8), "waits until 90 % are back");
    cluster.now = 6_000;
    assert!(back(&mut cluster, 9));

    let mut cluster = Cluster::new(10);
    cluster.elect();
    cluster.now = 1_500;
    assert!(!back(&mut cluster, 4));
    cluster.now = 29_999;
    assert!(!back(&mut cluster, 4));
    cluster.now = 30_000;
    assert!(back(&mut cluster, 4), "no longer than 30 s");

    let mut cluster = Cluster::new(10);
    cluster.elect();
    cluster.now = 700;
    assert!(back(&mut cluster, 5), "a plain election");
}

#[test]
fn l11_a_late_look_at_nodes_that_came_back_does_not_end_the_wait() {
    let over = |restarted: bool| {
        let mut cluster = Cluster::new(10);
        cluster.elect();
        cluster.now = 1_450;
        cluster.applied();
        let _ = cluster.tick(false);
        // From 1.5 s on whoever restarted may register: by the next look six of ten have.
        if restarted {
            cluster.nodes.iter_mut().for_each(|node| node.incarnation.counter += 1);
        }
        cluster.now = 1_700;
        cluster.renew(1..=6);
        cluster.applied();
        let _ = cluster.tick(false);
        cluster.fencing.as_ref().unwrap().may_assign_orphans()
    };
    assert!(!over(true), "they wait for the other four");
    assert!(over(false), "their sessions went on");
}

#[test]
fn l11_a_node_that_left_meanwhile_is_not_waited_for() {
    let mut cluster = Cluster::new(5);
    cluster.elect();
    cluster.now = 1_500;
    let back = |cluster: &mut Cluster, ids: std::ops::RangeInclusive<u64>| {
        cluster.renew(ids);
        cluster.applied();
        let _ = cluster.tick(false);
        cluster.fencing.as_ref().unwrap().may_assign_orphans()
    };
    assert!(!back(&mut cluster, 1..=2));
    cluster.now = 5_000;
    assert!(!back(&mut cluster, 1..=4), "the fifth may still come");
    // Its disk was lost: another id goes by its name now.
    cluster.nodes[4].life = Life::Left;
    assert!(back(&mut cluster, 1..=4));
}

#[test]
fn l11_a_change_of_leaders_does_not_end_the_wait_for_owners() {
    let waits = |elected_at| {
        let mut cluster = Cluster::new(10);
        cluster.now = 3_500;
        cluster.renew(1..=4);
        for node in &mut cluster.nodes[4..] {
            node.life = Life::Fenced;
        }
        cluster.now = elected_at;
        cluster.elect();
        cluster.renew(1..=4);
        cluster.now += 1_500;
        let _ = cluster.tick(false);
        !cluster.fencing.as_ref().unwrap().may_assign_orphans()
    };
    assert!(waits(5_000), "they were fenced a moment ago");
    assert!(!waits(33_000), "half the cluster is gone for good");
}

#[test]
fn a_settled_lease_is_proposed_when_due() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    let event = super::super::expiry::Event::LeaseChanged {
        previous: Lease::from_millis(10_000).unwrap(),
        since: LogIndex(9),
    };
    cluster.expiry.on(event, at(0));
    cluster.run(11_000, &[1]);
    let settles: Vec<_> = cluster
        .actions
        .iter()
        .filter(|(_, action)| *action == Action::ProposeSettle { since: LogIndex(9) })
        .map(|(when, _)| *when)
        .collect();
    assert_eq!(settles, [10_000, 10_750]);
}
