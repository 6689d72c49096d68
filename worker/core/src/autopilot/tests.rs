//! Scenes of the autopilot: each is run until it wants nothing more, its changes are the result.

use proptest::prelude::*;

use super::*;
use crate::{
    id::Incarnation,
    registry::{NodeInfo, Settings},
};

const LEASE: Duration = Duration::from_secs(3);
const LAST: u64 = 10_000;

/// A cluster in which every member answers at once and every change is carried out at once.
#[derive(Clone, Debug)]
struct Scene {
    me: NodeId,
    founding: Option<usize>,
    settings: Settings,
    nodes: BTreeMap<NodeId, Node>,
    membership: Membership,
    deaf: BTreeSet<NodeId>,
    behind: BTreeSet<NodeId>,
    pilot: Autopilot,
    leader_since: Duration,
    now: Duration,
}

fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

fn at(span: Duration) -> Timestamp {
    Timestamp::default().plus(span)
}

fn node(name: String, zone: &str) -> Node {
    Node {
        info: NodeInfo { name, zone: zone.to_owned(), ..NodeInfo::default() },
        directory: 0,
        incarnation: Incarnation::default(),
        lock: None,
        life: Life::Up,
        drain: Drain::None,
        marked: false,
        renewed: LogIndex(1),
        changed: LogIndex(1),
    }
}

impl Scene {
    /// Nodes 1 to `nodes`, of which the first `voters` vote and all others learn; node 1 leads.
    fn new(nodes: u64, voters: u64) -> Self {
        let membership = Membership {
            voters: ids(1..=voters),
            next_voters: None,
            learners: ids(voters + 1..=nodes),
            committed: true,
        };
        Self {
            me: NodeId(1),
            founding: None,
            settings: Settings { lease_ms: LEASE.as_millis() as u32, ..Settings::default() },
            nodes: (1..=nodes).map(|id| (NodeId(id), node(format!("a{id}"), ""))).collect(),
            membership,
            deaf: BTreeSet::new(),
            behind: BTreeSet::new(),
            pilot: Autopilot::default(),
            leader_since: Duration::from_secs(1),
            now: Duration::from_secs(1),
        }
    }

    fn zones(mut self, zones: &[&str]) -> Self {
        for (node, zone) in self.nodes.values_mut().zip(zones) {
            node.info.zone = (*zone).to_owned();
        }
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn row(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&NodeId(id)).unwrap()
    }

    fn remove(&mut self, id: u64) {
        self.row(id).drain = Drain::Removal;
    }

    /// A process that is gone without a word.
    fn crash(&mut self, id: u64) {
        self.deaf.insert(NodeId(id));
        self.row(id).life = Life::Fenced;
    }

    fn next(&mut self, later: Duration) -> Decision {
        self.now += later;
        let matched = |id: &NodeId| LogIndex(if self.behind.contains(id) { 0 } else { LAST });
        let heard = at(self.now);
        let contact = |id: &NodeId| (*id, Contact { heard, matched: matched(id) });
        let members = self.membership.voters.union(&self.membership.learners);
        let input = Input {
            me: self.me,
            leader_since: at(self.leader_since),
            founding: self.founding,
            settings: &self.settings,
            nodes: self.nodes.iter().map(|(&id, node)| (id, node)).collect(),
            membership: &self.membership,
            last: LogIndex(LAST),
            contacts: members.filter(|id| !self.deaf.contains(id)).map(contact).collect(),
        };
        self.pilot.next(&input, at(self.now))
    }

    fn apply(&mut self, change: Change) {
        let lead = match change {
            Change::TransferLeadership { to } => Some(to),
            Change::Membership { voters, learners, .. } => {
                self.membership =
                    Membership { voters, learners, next_voters: None, committed: true };
                let voters = &self.membership.voters;
                (!voters.contains(&self.me)).then(|| *voters.first().unwrap())
            }
        };
        if let Some(me) = lead {
            (self.me, self.leader_since) = (me, self.now);
        }
    }

    /// What it does within the given span, looked at each second.
    fn run(&mut self, span: u64) -> Vec<String> {
        let mut changes = Vec::new();
        for second in 0..=span {
            let step = Duration::from_secs(u64::from(second > 0));
            if let Some(change) = self.next(step).change {
                changes.push(change.to_string());
                self.apply(change);
            }
        }
        changes
    }

    fn votes(&self) -> Vec<u64> {
        self.membership.voters.iter().map(|id| id.0).collect()
    }
}

/// Runs a scene for five minutes and compares what it did and who votes then.
#[track_caller]
fn check(mut scene: Scene, changes: &[&str], votes: &[u64]) {
    let done = scene.run(300);
    assert_eq!(
        (done.iter().map(String::as_str).collect::<Vec<_>>(), scene.votes()),
        (changes.to_vec(), votes.to_vec())
    );
}

#[test]
fn the_number_of_nodes_says_how_many_vote() {
    check(Scene::new(1, 1), &[], &[1]);
    check(Scene::new(2, 1), &[], &[1]);
    check(Scene::new(3, 1), &["more nodes vote: n2, n3"], &[1, 2, 3]);
    check(Scene::new(4, 3), &[], &[1, 2, 3]);
    check(Scene::new(5, 3), &["more nodes vote: n4, n5"], &[1, 2, 3, 4, 5]);
    check(
        Scene::new(7, 1),
        &["more nodes vote: n2, n3", "more nodes vote: n4, n5"],
        &[1, 2, 3, 4, 5],
    );
    let seven = Scene::new(8, 5).with(|scene| scene.settings.max_voters = 7);
    check(seven, &["more nodes vote: n6, n7"], &[1, 2, 3, 4, 5, 6, 7]);
    let fewer = Scene::new(5, 5).with(|scene| scene.settings.max_voters = 3);
    check(fewer, &["fewer voters are wanted: n4, n5 vote no more"], &[1, 2, 3]);
}

#[test]
fn l8_one_of_three_crashes_still_three_voters() {
    check(Scene::new(3, 3).with(|scene| scene.crash(3)), &[], &[1, 2, 3]);
    check(Scene::new(2, 1).with(|scene| scene.crash(2)), &[], &[1]);
}

#[test]
fn s6_the_founding_set_votes_before_the_cluster_is_formed_and_without_delay() {
    let found = |size: u64| {
        Scene::new(size, 1).with(|scene| {
            scene.founding = Some(size as usize);
            scene.membership.learners.clear();
            scene.nodes.values_mut().for_each(|node| node.life = Life::Joining);
        })
    };
    for (size, votes) in [(1, 1), (2, 1), (3, 3), (5, 5)] {
        let mut scene = found(size);
        while let Some(change) = scene.next(Duration::ZERO).change {
            scene.apply(change);
        }
        assert_eq!(scene.votes(), (1..=votes).collect::<Vec<_>>());
    }
    // One member of the founding set is not there yet: no vote is given to the other alone.
    let mut scene = found(3);
    scene.nodes.remove(&NodeId(3));
    assert_eq!(scene.run(60), ["learners join: n2"]);
    assert_eq!(scene.votes(), [1]);
}

#[test]
fn a_learner_votes_after_ten_healthy_seconds_in_a_row() {
    let mut scene = Scene::new(3, 1);
    assert!(scene.run(9).is_empty());
    scene.behind.insert(NodeId(3));
    let decision = scene.next(Duration::from_secs(1));
    assert_eq!(
        decision.to_string(),
        "1 of 3 voters, 1 of the 2 learners needed are ready\n\
         learner n3 is silent or 10000 entries behind\n"
    );
    scene.behind.clear();
    assert!(scene.run(9).is_empty());
    assert_eq!(scene.run(1), ["more nodes vote: n2, n3"]);
}

#[test]
fn a_silent_voter_is_swapped_after_a_minute_and_a_restart_is_left_alone() {
    let scene = || Scene::new(4, 3).with(|scene| scene.crash(3));
    assert!(scene().run(59).is_empty());
    check(scene(), &["votes pass from n3 to n4"], &[1, 2, 4]);

    let mut restart = scene();
    restart.run(50);
    restart.deaf.clear();
    restart.row(3).life = Life::Up;
    check(restart, &[], &[1, 2, 3]);

    let mut lonely = Scene::new(4, 3).with(|scene| {
        scene.crash(3);
        scene.behind.insert(NodeId(4));
    });
    assert!(lonely.run(60).is_empty());
    assert_eq!(
        lonely.next(Duration::ZERO).report,
        [Finding::Silent { voter: NodeId(3), span: SILENT_AFTER }]
    );
}

#[test]
fn l3_a_new_leader_judges_nobody() {
    let mut scene = Scene::new(4, 3).with(|scene| scene.crash(3));
    scene.run(59);
    (scene.me, scene.leader_since) = (NodeId(2), scene.now);
    let decision = scene.next(Duration::from_secs(2));
    assert_eq!((decision.change, decision.report), (None, vec![Finding::Settling]));
    assert!(scene.run(59).is_empty());
    assert_eq!(scene.run(1), ["votes pass from n3 to n4"]);

    // Too many vote, and nobody but the leader has answered yet.
    let mut shrinks = Scene::new(5, 5).with(|scene| {
        scene.settings.max_voters = 3;
        scene.deaf = ids([2, 3]);
    });
    let decision = shrinks.next(Duration::from_secs(2));
    assert_eq!((decision.change, decision.report), (None, vec![Finding::Settling]));
    shrinks.deaf.clear();
    check(shrinks, &["fewer voters are wanted: n4, n5 vote no more"], &[1, 2, 3]);
}

#[test]
fn a_removal_gives_the_vote_away_before_the_node_goes() {
    let removed = |nodes, id| Scene::new(nodes, 3).with(|scene| scene.remove(id));
    check(removed(4, 3), &["votes pass from n3 to n4"], &[1, 2, 4]);
    check(removed(3, 3), &["fewer voters are wanted: n2, n3 vote no more"], &[1]);
    let mut waits = removed(4, 3).with(|scene| {
        scene.behind.insert(NodeId(4));
    });
    assert_eq!(waits.next(LEASE).to_string(), "n3 keeps its vote until a learner has caught up\n");
}

#[test]
fn a_leader_that_is_removed_lets_another_lead_first() {
    let removed = |nodes, voters| Scene::new(nodes, voters).with(|scene| scene.remove(1));
    check(removed(4, 3), &["leadership passes to n2", "votes pass from n1 to n4"], &[2, 3, 4]);
    check(removed(2, 1), &["votes pass from n1 to n2"], &[2]);
    let all = Scene::new(6, 3).with(|scene| (1..=3).for_each(|id| scene.remove(id)));
    check(
        all,
        &[
            "votes pass from n2, n3 to n4, n5",
            "leadership passes to n4",
            "votes pass from n1 to n6",
        ],
        &[4, 5, 6],
    );
    let mut alone = Scene::new(3, 3).with(|scene| {
        scene.remove(1);
        scene.settings.max_voters = 3;
        scene.deaf = ids([2, 3]);
        (4..=5).for_each(|id| drop(scene.nodes.insert(NodeId(id), node(format!("a{id}"), ""))));
        scene.row(4).life = Life::Closed;
        scene.row(5).life = Life::Closed;
    });
    alone.next(Duration::ZERO);
    let report = alone.next(LEASE).report;
    assert!(report.contains(&Finding::NoHeir { leader: NodeId(1) }), "{report:?}");
}

#[test]
fn a_sole_voter_swaps_its_vote_before_it_restarts() {
    let restart = Drain::Restart(Incarnation::default());
    check(
        Scene::new(2, 1).with(|scene| scene.row(1).drain = restart),
        &["votes pass from n1 to n2"],
        &[2],
    );
}

#[test]
fn a_leader_that_restarts_lets_one_that_stays_lead_and_keeps_its_vote() {
    let restart = Drain::Restart(Incarnation::default());
    let leaders = |restarting: &[u64]| {
        Scene::new(4, 3)
            .with(|scene| restarting.iter().for_each(|&id| scene.row(id).drain = restart))
    };
    check(leaders(&[1]), &["leadership passes to n2"], &[1, 2, 3]);
    check(leaders(&[1, 2]), &["leadership passes to n3"], &[1, 2, 3]);
    let lonely = leaders(&[1, 2]).with(|scene| scene.crash(3));
    check(lonely, &["votes pass from n3 to n4", "leadership passes to n4"], &[1, 2, 4]);
    check(leaders(&[2]), &[], &[1, 2, 3]);
}

#[test]
fn l7_where_all_stop_together_nobody_hands_leadership_on() {
    let mut scene = Scene::new(3, 3);
    (1..=3).for_each(|id| scene.row(id).drain = Drain::Restart(Incarnation::default()));
    check(scene, &[], &[1, 2, 3]);
}

#[test]
fn a_replaced_directory_is_swapped_for_the_new_one_at_once() {
    let mut scene = Scene::new(6, 3).with(|scene| {
        scene.crash(3);
        scene.row(3).marked = true;
        scene.row(6).info.name = "a3".to_owned();
        scene.settings.max_voters = 3;
    });
    assert_eq!(scene.run(0), ["votes pass from n3 to n6"]);
    assert_eq!(scene.votes(), [1, 2, 6]);
}

#[test]
fn who_left_is_no_member() {
    let left = |id| {
        Scene::new(6, 3).with(|scene| {
            scene.row(id).life = Life::Left;
            scene.settings.max_voters = 3;
        })
    };
    check(left(6), &["learners go: n6"], &[1, 2, 3]);
    check(left(3), &["votes pass from n3 to n4"], &[1, 2, 4]);
}

#[test]
fn no_zone_holds_a_majority_where_there_are_three() {
    let lopsided = |nodes, zones: &[&str]| {
        Scene::new(nodes, 3).zones(zones).with(|scene| scene.settings.max_voters = 3)
    };
    check(
        lopsided(4, &["a", "a", "b", "c"]),
        &["no zone should hold a majority: n4 vote instead of n2"],
        &[1, 3, 4],
    );
    check(lopsided(4, &["a", "a", "b", "b"]), &[], &[1, 2, 3]);
    check(
        Scene::new(5, 1)
            .zones(&["a", "a", "b", "b", "c"])
            .with(|scene| scene.settings.max_voters = 3),
        &["more nodes vote: n3, n5"],
        &[1, 3, 5],
    );
    let mut stuck = lopsided(4, &["a", "a", "b", "c"]).with(|scene| scene.crash(4));
    stuck.run(20);
    assert_eq!(
        stuck.next(Duration::ZERO).report,
        [Finding::ZoneHoldsMajority { zone: "a".to_owned() }]
    );
}

#[test]
fn most_nodes_only_watch() {
    let mut crowd = Scene::new(40, 5).with(|scene| scene.membership.learners.clear());
    crowd.run(0);
    assert_eq!(crowd.membership.learners, ids(6..=21));
    crowd.crash(7);
    assert_eq!(crowd.run(61), ["learners change: n22 for n7"]);
    let few = Scene::new(4, 3).with(|scene| scene.crash(4));
    check(few, &[], &[1, 2, 3]);
}

#[test]
fn a_spare_learner_takes_a_lost_vote_and_a_watcher_takes_its_place() {
    let mut scene = Scene::new(8, 3).with(|scene| {
        scene.settings.max_voters = 3;
        scene.settings.max_learners = 2;
    });
    assert_eq!(scene.run(20), ["learners go: n6, n7, n8"]);
    scene.crash(3);
    let done = scene.run(120);
    assert_eq!(done, ["votes pass from n3 to n4", "learners change: n6 for n3"]);
    assert_eq!((scene.votes(), scene.membership.learners), (vec![1, 2, 4], ids([5, 6])));
}

#[test]
fn one_change_at_a_time_and_a_half_done_one_first() {
    let mut scene = Scene::new(3, 1);
    scene.run(9);
    scene.membership.committed = false;
    let decision = scene.next(Duration::from_secs(9));
    assert_eq!((decision.change, decision.report), (None, vec![Finding::ChangeInFlight]));
    scene.membership = Membership {
        voters: ids([1, 2, 3]),
        next_voters: Some(ids([1, 3, 4])),
        learners: ids([4]),
        committed: true,
    };
    let change =
        Change::Membership { voters: ids([1, 3, 4]), learners: ids([2, 4]), why: Why::FinishJoint };
    assert_eq!(scene.next(Duration::ZERO).change, Some(change));
}

fn scene() -> impl Strategy<Value = Scene> {
    let row = (0u32..12, 0u32..8, prop::sample::select(vec!["", "a", "b", "c"]));
    (prop::collection::vec(row, 1..10), 0usize..3, 0u32..8).prop_map(|(rows, pairs, max_voters)| {
        let voters = (pairs * 2 + 1).min((rows.len() - 1) / 2 * 2 + 1);
        let mut scene = Scene::new(rows.len() as u64, voters as u64);
        scene.settings.max_voters = max_voters;
        for (id, (state, contact, zone)) in (1..).zip(rows) {
            let row = scene.row(id);
            row.info.zone = zone.to_owned();
            match state {
                0 => row.drain = Drain::Removal,
                1 => row.drain = Drain::Restart(Incarnation::default()),
                2 if id > 1 => row.life = Life::Left,
                3 => row.marked = true,
                _ => {}
            }
            match contact {
                0 if id > 1 => scene.crash(id),
                1 => drop(scene.behind.insert(NodeId(id))),
                _ => {}
            }
        }
        scene
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_change_keeps_a_live_odd_quorum_and_the_last_one_is_soon_done(scene in scene()) {
        let mut scene = scene;
        let mut changes = 0;
        for _ in 0..400 {
            let decision = scene.next(Duration::from_secs(1));
            let Some(change) = decision.change else { continue };
            changes += 1;
            prop_assert!(changes < 40, "still at it: {change}");
            if let Change::Membership { voters, learners, .. } = &change {
                prop_assert!(!voters.is_empty() && voters.len() % 2 == 1);
                prop_assert!(voters.is_disjoint(learners));
                let old = &scene.membership;
                let kept = alive(voters, &scene.deaf) || !alive(&old.voters, &scene.deaf);
                prop_assert!(kept, "{change} loses the quorum");
                for id in voters.difference(&old.voters) {
                    prop_assert!(old.learners.contains(id));
                    prop_assert!(!scene.deaf.contains(id) && !scene.behind.contains(id));
                    prop_assert_eq!(scene.nodes[id].drain, Drain::None);
                }
            }
            scene.apply(change);
        }
        prop_assert_eq!(scene.next(Duration::from_secs(1)).change, None);
        let Membership { voters, learners, .. } = &scene.membership;
        let gone = |id: &NodeId| {
            let node = &scene.nodes[id];
            node.life == Life::Left || node.drain == Drain::Removal || node.marked
        };
        let hears = |id: &NodeId| !scene.deaf.contains(id) && !scene.behind.contains(id);
        let sound = |id: &&NodeId| hears(id) && scene.nodes[*id].is_target();
        // A leaver that still runs reads in the log what to hand over.
        let forgotten = |id: &NodeId| {
            let node = &scene.nodes[id];
            node.life == Life::Left || node.marked && node.life != Life::Up
        };
        prop_assert!(!learners.iter().any(forgotten));
        if alive(voters, &scene.deaf) && learners.iter().any(|id| sound(&id)) {
            let stuck = voters.iter().any(|id| *id != scene.me && gone(id));
            prop_assert!(!stuck, "{:?} has learners that could vote", scene.membership);
        }
    }
}

fn alive(voters: &BTreeSet<NodeId>, deaf: &BTreeSet<NodeId>) -> bool {
    voters.difference(deaf).count() * 2 > voters.len()
}
