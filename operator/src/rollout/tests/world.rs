//! Kubernetes, the workers and their registry, as coarse as the rules can tell: each tick brings
//! everything one small thing further. Every step is judged before it is carried out.

use std::collections::BTreeSet;

use super::super::*;

const SHARDS: u32 = 64;

/// A small generator: the same seed, the same world.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

pub struct World {
    pub desired: Desired,
    pub seen: Observed,
    members: Members,
    /// Cluster id that the founding pods have joined.
    joined: bool,
    confirmed: bool,
    /// Revision of the template, and those whose pods never run.
    pub revision: u32,
    pub broken: BTreeSet<String>,
    /// Revisions whose workers run and reach nobody.
    pub mute: BTreeSet<String>,
    next_uid: u64,
    next_node: u64,
    /// Member id kept on the volume of each ordinal.
    volumes: BTreeMap<u32, u64>,
    pub moves: u32,
    pub chance: Chance,
}

impl World {
    pub fn new(replicas: u32, seed: u64) -> Self {
        let desired = Desired {
            name: "x".to_owned(),
            replicas,
            settings: Settings::default(),
            drain_timeout: Duration::from_secs(600),
            on_drain_timeout: OnTimeout::Wait,
            parallel_removals: 1,
            rolls: true,
            max_unavailable: 1,
            progress_deadline: Duration::from_secs(600),
            deletes_claims: true,
            replaces_lost: false,
            replace: None,
            ephemeral: false,
            refounds: false,
            recover: None,
        };
        Self {
            desired,
            seen: Observed::default(),
            members: Members { cluster: "c".to_owned(), ..Members::default() },
            joined: false,
            confirmed: false,
            revision: 1,
            broken: BTreeSet::new(),
            mute: BTreeSet::new(),
            next_uid: 0,
            next_node: 0,
            volumes: BTreeMap::new(),
            moves: 0,
            chance: Chance::new(seed),
        }
    }

    fn name(ordinal: u32) -> String {
        format!("x-{ordinal}")
    }

    fn formed(&self) -> bool {
        self.confirmed
    }

    /// One decision, carried out after it was judged.
    pub fn step(&mut self) -> Decision {
        self.look();
        let decision = next(&self.desired, &self.seen);
        if let Some(step) = &decision.step {
            self.judge(step);
            self.carry_out(step.clone());
        }
        decision
    }

    /// The observation as the operator would make it now.
    fn look(&mut self) {
        let quorum = self.has_quorum();
        self.seen.formed |= self.formed();
        self.seen.registry = if self.formed() {
            if quorum && self.runs() {
                self.count();
                Registry::Known(self.members.clone())
            } else {
                Registry::Unknown { why: "no quorum".to_owned() }
            }
        } else if self.runs() {
            let cluster = if self.joined { "c".to_owned() } else { String::new() };
            let running = self.seen.pods.values().filter(|pod| pod.down.is_zero());
            let joined = running.map(|pod| (pod.name.clone(), cluster.clone())).collect();
            Registry::Founding { joined }
        } else {
            Registry::default()
        };
    }

    /// A process votes whatever became of its session.
    fn has_quorum(&self) -> bool {
        let runs = |node: &&&Member| {
            let mut pods = self.seen.pods.values();
            pods.any(|pod| pod.uid == node.pod_uid && pod.down.is_zero())
        };
        let voters: Vec<_> = self.members.nodes.iter().filter(|n| n.voter).collect();
        voters.iter().filter(runs).count() * 2 > voters.len()
    }

    fn runs(&self) -> bool {
        self.seen.pods.values().any(|pod| pod.down.is_zero())
    }

    fn count(&mut self) {
        let owned: u32 = self.members.nodes.iter().map(|node| node.owned).sum();
        self.members.shards =
            Shards { total: SHARDS, assigned: owned, moving: 0, unassigned: SHARDS - owned };
    }

    pub fn node(&mut self, id: u64) -> &mut Member {
        self.members.nodes.iter_mut().find(|node| node.id == id).expect("a known node")
    }

    /// Other voters that are up and current are a majority.
    fn spares(&self, id: u64) -> bool {
        let voters: Vec<_> = self.members.nodes.iter().filter(|n| n.voter).collect();
        let well = |n: &&&Member| n.id != id && n.life == Life::Up && n.caught_up;
        voters.iter().filter(well).count() * 2 > voters.len()
    }

    /// What no step may do.
    fn judge(&self, step: &Step) {
        match step {
            Step::DeletePod { name, uid, why } => self.judge_deletion(name, uid, *why),
            Step::Resize { replicas, former: None } if self.formed() => {
                for (ordinal, pod) in self.seen.pods.range(replicas..) {
                    let name = Self::name(*ordinal);
                    let members = self.members.nodes.iter();
                    let live: Vec<_> =
                        members.filter(|n| n.name == name && n.life != Life::Left).collect();
                    assert!(live.is_empty(), "{} has not left: {live:?}", pod.name);
                }
            }
            Step::Resize { replicas, .. } if !self.formed() => {
                let founding = self.seen.identity.as_ref().map_or(0, |i| i.founding.len());
                let hibernates = self.desired.replicas == 0;
                assert!(hibernates || *replicas >= founding as u32, "a founding pod is taken");
            }
            Step::DeleteClaim { name, .. } => {
                let claim = self.seen.claims.iter().find(|c| c.name == *name).expect("is there");
                if claim.lost.is_some() {
                    let pod = &self.seen.pods[&claim.ordinal];
                    assert!(!pod.ready && !pod.down.is_zero(), "{name} is in use");
                    let mut nodes = self.members.nodes.iter().filter(|n| n.name == pod.name);
                    assert!(nodes.all(|node| node.life == Life::Left), "{name} is of a member");
                    assert!(self.has_quorum(), "nobody knows whether {name} is of a member");
                } else {
                    assert!(!self.seen.pods.contains_key(&claim.ordinal), "{name} is in use");
                    assert!(claim.ordinal >= self.desired.replicas);
                }
            }
            Step::Remove { node, force, .. } => {
                let node = self.members.nodes.iter().find(|n| n.id == *node).expect("known");
                assert!(*force || (!node.voter && node.owned == 0), "{} still matters", node.name);
            }
            // Nobody here answers that he holds nothing.
            Step::Abandon { .. } | Step::Forget { .. } => {
                assert!(self.desired.ephemeral, "{step}: volumes hold it");
                assert!(self.seen.pods.is_empty(), "{step}: pods hold it");
            }
            Step::CreateIdentity { .. }
            | Step::Resize { .. }
            | Step::RecordCluster { .. }
            | Step::ConfirmFounding { .. }
            | Step::Keep { .. }
            | Step::Configure(_)
            | Step::ReportDeath { .. }
            | Step::CancelDrain { .. }
            | Step::StopAll
            | Step::DrainForRemoval { .. }
            | Step::DrainForRestart { .. }
            | Step::Close { .. }
            | Step::AdoptClaim { .. } => {}
        }
    }

    fn judge_deletion(&self, name: &str, uid: &str, why: Deletion) {
        let pod = self.seen.pods.values().find(|pod| pod.uid == uid).expect("is there");
        let node = self.members.nodes.iter().find(|node| node.pod_uid == uid);
        match why {
            Deletion::NotRunning => {
                let unknown = node.is_none() && !pod.ready;
                assert!(!pod.down.is_zero() || unknown, "{name} runs");
            }
            Deletion::Rolled => {
                let node = node.expect("a member");
                assert_eq!((node.owned, node.receiving), (0, 0), "{name} owns shards");
                assert!(!node.voter || self.spares(node.id) || self.voters() <= 2);
            }
            Deletion::Alone => {
                let up = self.members.nodes.iter().filter(|n| n.life == Life::Up);
                assert!(up.count() <= 1, "{name} is not alone");
            }
            Deletion::Parked => assert_eq!(node.expect("a member").life, Life::Left),
            Deletion::NodeLost => assert!(pod.node_lost),
        }
    }

    fn voters(&self) -> usize {
        self.members.nodes.iter().filter(|node| node.voter).count()
    }

    /// As Kubernetes and the registry would, refusals included.
    fn carry_out(&mut self, step: Step) {
        match step {
            Step::CreateIdentity { founding } => {
                self.seen.identity = Some(Identity { founding, ..Identity::default() });
            }
            Step::RecordCluster { cluster } => {
                let identity = self.seen.identity.as_mut().expect("an identity");
                assert_eq!(identity.cluster, None, "recorded twice");
                identity.cluster = Some(cluster);
            }
            Step::ConfirmFounding { .. } => self.form(),
            Step::Abandon { cluster, .. } => {
                let mark = Mark { cluster, since: "now".to_owned(), age: Some(Duration::ZERO) };
                self.seen.identity.as_mut().expect("an identity").abandoning = Some(mark);
            }
            Step::Keep { .. } => panic!("{step}: nobody here comes to hold what is given up"),
            Step::Forget { .. } => self.forget(),
            Step::Resize { replicas, former } => {
                let revision = Some(format!("r{}", self.revision));
                self.seen.set = Some(Set { replicas, revision, former });
            }
            Step::Configure(settings) => self.members.settings = settings,
            Step::ReportDeath { node, .. } => self.end_session(node, Life::Fenced),
            Step::CancelDrain { node, .. } => {
                let node = self.node(node);
                if node.life != Life::Closed {
                    node.drain = Drain::None;
                }
            }
            Step::StopAll => {
                for node in self.members.nodes.iter_mut().filter(|n| n.life == Life::Up) {
                    node.drain = Drain::Restart;
                    node.target = false;
                }
            }
            Step::DrainForRemoval { node, .. } => {
                self.node(node).drain = Drain::Removal;
                self.node(node).target = false;
            }
            Step::DrainForRestart { node, .. } => {
                self.node(node).drain = Drain::Restart;
                self.node(node).target = false;
            }
            Step::Close { node, .. } => {
                let node = self.node(node);
                assert!(node.owned == 0 && node.drain != Drain::None);
                node.life = Life::Closed;
            }
            Step::Remove { node, force, .. } => {
                if force {
                    self.end_session(node, Life::Fenced);
                }
                self.node(node).life = Life::Left;
            }
            Step::DeletePod { uid, .. } => {
                let pod = self.seen.pods.values_mut().find(|pod| pod.uid == uid);
                pod.expect("is there").deleting = true;
            }
            Step::DeleteClaim { uid, .. } => {
                let claim = self.seen.claims.iter().find(|claim| claim.uid == uid);
                self.volumes.remove(&claim.expect("is there").ordinal);
                self.seen.claims.retain(|claim| claim.uid != uid);
            }
            Step::AdoptClaim { name } => {
                let claim = self.seen.claims.iter_mut().find(|claim| claim.name == name);
                claim.expect("is there").foreign = false;
            }
        }
    }

    fn forget(&mut self) {
        let identity = self.seen.identity.as_mut().expect("an identity");
        (identity.cluster, identity.abandoning) = (None, None);
        (self.joined, self.confirmed, self.seen.formed) = (false, false, false);
        self.members.nodes.clear();
    }

    fn form(&mut self) {
        let identity = self.seen.identity.clone().expect("an identity");
        assert_eq!(identity.cluster.as_deref(), Some("c"), "formed before it was recorded");
        let all = identity
            .founding
            .iter()
            .all(|name| self.seen.pods.values().any(|pod| pod.name == *name && pod.down.is_zero()));
        if all && !self.confirmed {
            self.confirmed = true;
            self.members.settings = self.desired.settings.clone();
        }
    }

    fn end_session(&mut self, id: u64, life: Life) {
        let node = self.node(id);
        if node.life == Life::Up {
            node.life = life;
            node.owned = 0;
            node.target = false;
        }
    }

    /// The world moves on by one second.
    pub fn tick(&mut self) {
        let mark = self.seen.identity.as_mut().and_then(|identity| identity.abandoning.as_mut());
        if let Some(age) = mark.and_then(|mark| mark.age.as_mut()) {
            *age += Duration::from_secs(1);
        }
        self.pods_end();
        self.pods_begin();
        self.workers_run();
        self.shards_move();
        self.votes_pass();
    }

    fn pods_end(&mut self) {
        let size = self.seen.set.as_ref().map_or(0, |set| set.replicas);
        for pod in self.seen.pods.range_mut(size..) {
            pod.1.deleting = true;
        }
        let ended: Vec<u32> =
            self.seen.pods.iter().filter(|(_, p)| p.deleting).map(|(n, _)| *n).collect();
        for ordinal in ended {
            let pod = self.seen.pods.remove(&ordinal).expect("is there");
            if self.desired.ephemeral {
                self.volumes.remove(&ordinal);
            }
            let ids: Vec<u64> = self
                .members
                .nodes
                .iter()
                .filter(|node| node.pod_uid == pod.uid)
                .map(|n| n.id)
                .collect();
            for id in ids {
                self.end_session(id, Life::Closed);
            }
        }
    }

    fn pods_begin(&mut self) {
        let size = self.seen.set.as_ref().map_or(0, |set| set.replicas);
        let revision = format!("r{}", self.revision);
        if let Some(set) = &mut self.seen.set {
            set.revision = Some(revision.clone());
        }
        for ordinal in 0..size {
            if self.chance.one_in(3) {
                continue;
            }
            if let Some(pod) = self.seen.pods.get(&ordinal) {
                let uid = pod.uid.clone();
                self.claim(ordinal, uid);
                continue;
            }
            self.next_uid += 1;
            let uid = format!("u{}", self.next_uid);
            let pod = Pod {
                name: Self::name(ordinal),
                uid: uid.clone(),
                revision: revision.clone(),
                down: Duration::from_millis(1),
                ..Pod::default()
            };
            self.seen.pods.insert(ordinal, pod);
            self.claim(ordinal, uid);
        }
    }

    /// As the StatefulSet's controller does for pods that do not run yet, too.
    fn claim(&mut self, ordinal: u32, uid: String) {
        if !self.desired.ephemeral && !self.seen.claims.iter().any(|claim| claim.ordinal == ordinal)
        {
            let name = format!("data-x-{ordinal}");
            let claim = Claim { name, uid, ordinal, ..Claim::default() };
            self.seen.claims.push(claim);
        }
    }

    fn workers_run(&mut self) {
        let founding = self.seen.identity.clone().unwrap_or_default().founding;
        let ordinals: Vec<u32> = self.seen.pods.keys().copied().collect();
        for ordinal in ordinals {
            let starts = !self.chance.one_in(3);
            let pod = self.seen.pods.get_mut(&ordinal).expect("is there");
            pod.age += Duration::from_secs(1);
            let lost = |claim: &Claim| claim.ordinal == ordinal && claim.lost.is_some();
            if self.broken.contains(&pod.revision) || self.seen.claims.iter().any(lost) {
                pod.down += Duration::from_secs(1);
                pod.ready = false;
                continue;
            }
            if !pod.down.is_zero() && starts {
                pod.down = Duration::ZERO;
            }
            if pod.down.is_zero() && self.confirmed && starts {
                self.register(ordinal);
            }
        }
        let up = |name: &String| {
            self.seen.pods.values().any(|pod| {
                pod.name == *name && pod.down.is_zero() && !self.mute.contains(&pod.revision)
            })
        };
        self.joined |= !founding.is_empty() && founding.iter().all(up);
    }

    /// A process whose directory is known comes back; any other joins anew.
    fn register(&mut self, ordinal: u32) {
        let pod = self.seen.pods[&ordinal].clone();
        let kept = self.volumes.get(&ordinal).copied();
        let kept = kept.filter(|id| self.members.nodes.iter().any(|node| node.id == *id));
        let left = kept.is_some_and(|id| self.node(id).life == Life::Left);
        if let Some(id) = kept
            && left
            && self.node(id).pod_uid == pod.uid
        {
            self.seen.pods.get_mut(&ordinal).expect("is there").ready = false;
            return;
        }
        let id = match kept {
            Some(id) if !left => id,
            Some(_) | None => {
                self.next_node += 1;
                let id = self.next_node;
                self.members.nodes.push(Member {
                    id,
                    name: pod.name.clone(),
                    life: Life::Joining,
                    ..Member::default()
                });
                self.volumes.insert(ordinal, id);
                id
            }
        };
        let uid = pod.uid.clone();
        let node = self.node(id);
        if node.life == Life::Closed && node.drain == Drain::Removal {
            // It waits for its removal, in whatever pod.
            self.seen.pods.get_mut(&ordinal).expect("is there").ready = false;
            return;
        }
        if node.life == Life::Up && node.pod_uid == uid {
            node.target = node.drain == Drain::None;
            node.caught_up = true;
        } else {
            node.pod_uid.clone_from(&uid);
            node.incarnation = uid;
            node.life = Life::Up;
            node.caught_up = false;
            if node.drain == Drain::Restart {
                node.drain = Drain::None;
            }
        }
        self.seen.pods.get_mut(&ordinal).expect("is there").ready = true;
    }

    fn shards_move(&mut self) {
        self.count();
        let targets: Vec<u64> = self
            .members
            .nodes
            .iter()
            .filter(|n| n.target && n.life == Life::Up)
            .map(|n| n.id)
            .collect();
        let Some(first) = targets.first().copied() else { return };
        let unassigned = self.members.shards.unassigned;
        if self.formed() && unassigned > 0 {
            self.node(first).owned += unassigned;
        }
        let leavers: Vec<u64> = self
            .members
            .nodes
            .iter()
            .filter(|node| node.drain != Drain::None && node.owned > 0)
            .map(|node| node.id)
            .collect();
        for id in leavers {
            let take = self.node(id).owned.min(16);
            self.node(id).owned -= take;
            let to = targets[self.chance.below(targets.len() as u64) as usize];
            self.node(to).owned += take;
            self.moves += take;
        }
    }

    fn votes_pass(&mut self) {
        if !self.formed() {
            return;
        }
        // Without a majority nothing changes.
        if self.voters() > 0 && !self.has_quorum() {
            return;
        }
        let stays = |n: &&mut Member| n.life != Life::Left && n.drain != Drain::Removal;
        let count = self.members.nodes.iter_mut().filter(stays).count();
        let target = match count {
            0..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        let mut order: Vec<usize> = (0..self.members.nodes.len()).collect();
        order.sort_by_key(|i| {
            let node = &self.members.nodes[*i];
            (node.life != Life::Up, !node.voter, node.id)
        });
        let mut left = target;
        for index in order {
            let node = &mut self.members.nodes[index];
            let votes = left > 0 && node.life != Life::Left && node.drain != Drain::Removal;
            node.voter = votes;
            left -= usize::from(votes);
        }
        let leads = self.members.nodes.iter().find(|n| n.voter && n.life == Life::Up);
        self.members.leader = leads.map_or(0, |node| node.id);
    }

    /// A worker dies; the kubelet starts it again.
    pub fn crash(&mut self) {
        let count = self.seen.pods.len() as u64;
        if count == 0 {
            return;
        }
        let nth = self.chance.below(count) as usize;
        let pod = self.seen.pods.values_mut().nth(nth).expect("is there");
        pod.down = Duration::from_millis(1);
        pod.ready = false;
        let uid = pod.uid.clone();
        let ids: Vec<u64> =
            self.members.nodes.iter().filter(|n| n.pod_uid == uid).map(|n| n.id).collect();
        for id in ids {
            self.end_session(id, Life::Fenced);
        }
    }

    /// A machine goes with a pod and its volume; the pod that follows finds no place.
    pub fn lose_volume(&mut self, ordinal: u32, how: Lost) {
        let claim = self.seen.claims.iter_mut().find(|claim| claim.ordinal == ordinal);
        claim.expect("is there").lost = Some(how);
        self.next_uid += 1;
        let pod = self.seen.pods.get_mut(&ordinal).expect("is there");
        let former = std::mem::replace(&mut pod.uid, format!("u{}", self.next_uid));
        (pod.ready, pod.down, pod.age) = (false, Duration::from_millis(1), Duration::ZERO);
        let nodes = self.members.nodes.iter().filter(|node| node.pod_uid == former);
        let ids: Vec<u64> = nodes.map(|node| node.id).collect();
        for id in ids {
            self.end_session(id, Life::Fenced);
        }
    }

    /// Its machine is back.
    pub fn find_volume(&mut self, ordinal: u32) {
        let claim = self.seen.claims.iter_mut().find(|claim| claim.ordinal == ordinal);
        claim.expect("is there").lost = None;
    }

    /// Node ids that have not left, by the name of their pod.
    pub fn live(&self) -> BTreeMap<String, u64> {
        let live = self.members.nodes.iter().filter(|node| node.life != Life::Left);
        live.map(|node| (node.name.clone(), node.id)).collect()
    }

    /// Everything is as specified.
    pub fn is_settled(&self) -> bool {
        let wanted = self.desired.replicas as usize;
        let revision = format!("r{}", self.revision);
        let pods = self.seen.pods.values();
        let up = self.members.nodes.iter().filter(|n| n.life == Life::Up && n.drain == Drain::None);
        self.seen.pods.len() == wanted
            && pods.clone().all(|pod| pod.ready && !pod.deleting && pod.revision == revision)
            && up.count() == wanted
            && self.members.nodes.iter().filter(|n| n.life != Life::Left).count() == wanted
            && (self.desired.ephemeral || self.seen.claims.len() == wanted)
    }

    pub fn picture(&self) -> String {
        format!(
            "{:?}\n{:#?}\n{:?}\nbroken {:?}",
            self.desired, self.seen, self.members, self.broken
        )
    }
}
