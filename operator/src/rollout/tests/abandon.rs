//! When a recorded cluster is given up, and when it is kept.

use super::{super::*, world::Chance};

const C: &str = "c";
const T: &str = "2026-01-01T00:00:00Z";

fn desired() -> Desired {
    let mut desired = super::World::new(3, 1).desired;
    desired.refounds = true;
    desired
}

fn mark(age: Option<Duration>) -> Mark {
    Mark { cluster: C.to_owned(), since: T.to_owned(), age }
}

/// All pods answer, and none holds what was recorded and has served.
fn lost() -> Observed {
    let pod = |ordinal: u32| {
        let uid = format!("u{ordinal}");
        Pod {
            name: format!("x-{ordinal}"),
            standing: Some(Standing { uid: uid.clone(), ..Standing::default() }),
            uid,
            revision: "r1".to_owned(),
            ..Pod::default()
        }
    };
    Observed {
        set: Some(Set { replicas: 3, revision: Some("r1".to_owned()), former: None }),
        pods: (0..3).map(|ordinal| (ordinal, pod(ordinal))).collect(),
        identity: Some(Identity {
            founding: (0..3).map(|ordinal| format!("x-{ordinal}")).collect(),
            cluster: Some(C.to_owned()),
            abandoning: None,
        }),
        formed: true,
        registry: Registry::Founding {
            joined: (0..3).map(|ordinal| (format!("x-{ordinal}"), String::new())).collect(),
        },
        ..Observed::default()
    }
}

/// And have read the mark, so long ago.
fn marked(age: Duration) -> Observed {
    let mut seen = lost();
    seen.identity.as_mut().unwrap().abandoning = Some(mark(Some(age)));
    (0..3).for_each(|ordinal| standing(&mut seen, ordinal).mark = read(T));
    seen
}

fn read(since: &str) -> Option<(String, String)> {
    Some((C.to_owned(), since.to_owned()))
}

fn standing(seen: &mut Observed, ordinal: u32) -> &mut Standing {
    seen.pods.get_mut(&ordinal).and_then(|pod| pod.standing.as_mut()).unwrap()
}

fn step(desired: &Desired, seen: &Observed) -> Option<Step> {
    let decision = next(desired, seen);
    assert_eq!(decision, next(desired, seen), "whoever looks next decides the same");
    decision.step
}

fn begins(desired: &Desired, seen: &Observed) -> bool {
    matches!(step(desired, seen), Some(Step::Abandon { cluster, .. }) if cluster == C)
}

fn forgets(desired: &Desired, seen: &Observed) -> bool {
    step(desired, seen) == Some(Step::Forget { cluster: C.to_owned() })
}

/// Why the mark is taken away again.
#[track_caller]
fn kept(desired: &Desired, seen: &Observed) -> String {
    match step(desired, seen) {
        Some(Step::Keep { cluster, because }) if cluster == C => because,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn waits_for(desired: &Desired, seen: &Observed, words: &str) {
    let decision = next(desired, seen);
    assert_eq!((&decision.step, decision.activity), (&None, Activity::Abandoning));
    assert!(decision.waits[0].contains(words), "{:?}", decision.waits);
}

#[test]
fn a_registry_that_nobody_holds_is_given_up_once_all_have_read_the_mark_and_rights_have_ended() {
    let desired = desired();
    assert!(begins(&desired, &lost()));
    let mut seen = lost();
    seen.identity.as_mut().unwrap().abandoning = Some(mark(Some(RIGHTS_END)));
    waits_for(&desired, &seen, "x-0, x-1, x-2 are to read that cluster c is given up");
    for ordinal in 0..3 {
        standing(&mut seen, ordinal).mark = read(T);
        assert_eq!(forgets(&desired, &seen), ordinal == 2, "all of them");
    }
    let early = marked(RIGHTS_END - Duration::from_millis(1));
    waits_for(&desired, &early, "rights that cluster c gave are to end");
    // Then the pods found another, by the usual path.
    seen.identity.as_mut().unwrap().cluster = None;
    seen.identity.as_mut().unwrap().abandoning = None;
    seen.formed = false;
    assert_eq!(step(&desired, &seen), None);
    let joined = (0..3).map(|ordinal| (format!("x-{ordinal}"), "d".to_owned())).collect();
    seen.registry = Registry::Founding { joined };
    assert_eq!(step(&desired, &seen), Some(Step::RecordCluster { cluster: "d".to_owned() }));
}

#[test]
fn whoever_may_hold_it_is_waited_for() {
    type Change = fn(&mut Observed);
    let absent: Change = |seen| drop(seen.pods.remove(&1));
    let silent: Change = |seen| seen.pods.get_mut(&1).unwrap().standing = None;
    let surplus: Change = |seen| {
        let pod = Pod { name: "x-3".to_owned(), ..seen.pods[&2].clone() };
        seen.pods.insert(3, pod);
    };
    let larger: Change = |seen| seen.set.as_mut().unwrap().replicas = 4;
    for change in [absent, silent, surplus, larger] {
        let (mut before, mut under) = (lost(), marked(RIGHTS_END));
        change(&mut before);
        change(&mut under);
        assert!(!begins(&desired(), &before), "{before:?}");
        waits_for(&desired(), &under, "to read that cluster c is given up");
    }
    let mut unread = marked(RIGHTS_END);
    standing(&mut unread, 1).mark = None;
    waits_for(&desired(), &unread, "x-1 are to read");
    // What it read was an earlier mark: it may have read since then that there is none.
    standing(&mut unread, 1).mark = read("2025-01-01T00:00:00Z");
    waits_for(&desired(), &unread, "x-1 are to read");
    let mut leaving = lost();
    leaving.pods.get_mut(&1).unwrap().deleting = true;
    assert!(!begins(&desired(), &leaving), "its successor is asked");
    let mut grows = desired();
    grows.replicas = 4;
    assert!(!begins(&grows, &lost()), "a fourth is to come first");
    let mut none = lost();
    none.pods.clear();
    none.set.as_mut().unwrap().replicas = 0;
    assert!(!begins(&desired(), &none));
}

#[test]
fn s20_a_pod_that_holds_the_cluster_or_is_formed_keeps_it() {
    for formed in [false, true] {
        for cluster in ["c", "d"] {
            let (mut before, mut under) = (lost(), marked(RIGHTS_END));
            for seen in [&mut before, &mut under] {
                let standing = standing(seen, 2);
                (standing.cluster, standing.formed) = (Some(cluster.to_owned()), formed);
            }
            // One that holds another, unformed, is in nobody's way.
            let stands = cluster == C || formed;
            assert_eq!(!begins(&desired(), &before), stands, "{cluster} {formed}");
            if stands {
                assert_eq!(kept(&desired(), &under), format!("x-2 holds cluster {cluster}"));
            } else {
                assert!(forgets(&desired(), &under));
            }
        }
    }
    // One that was never admitted keeps nothing, and is waited for until it has let go.
    let (mut before, mut under) = (lost(), marked(RIGHTS_END));
    for seen in [&mut before, &mut under] {
        let standing = standing(seen, 2);
        (standing.cluster, standing.joining) = (Some(C.to_owned()), true);
    }
    assert!(begins(&desired(), &before));
    waits_for(&desired(), &under, "x-2 are to read that cluster c is given up");
    let quorum = Registry::Known(Members { cluster: C.to_owned(), ..Members::default() });
    let (mut before, mut under) = (lost(), marked(RIGHTS_END));
    (before.registry, under.registry) = (quorum.clone(), quorum);
    assert!(!begins(&desired(), &before));
    assert_eq!(kept(&desired(), &under), "a quorum of cluster c answers");
}

#[test]
fn s20_empty_pods_beside_a_member_that_appears_late_are_not_founded_anew() {
    // All but one answer; then it comes, with a volume that holds the cluster.
    let desired = desired();
    let mut seen = marked(RIGHTS_END);
    let mut late = seen.pods.remove(&0).unwrap();
    waits_for(&desired, &seen, "x-0 are to read");
    let standing = late.standing.as_mut().unwrap();
    (standing.cluster, standing.formed, standing.mark) = (Some(C.to_owned()), true, None);
    seen.pods.insert(0, late);
    assert_eq!(kept(&desired, &seen), "x-0 holds cluster c");
    seen.identity.as_mut().unwrap().abandoning = None;
    assert!(!begins(&desired, &seen), "nor is it tried again");
}

#[test]
fn a_founding_that_died_is_given_up_whatever_the_storage_says() {
    let mut desired = desired();
    desired.refounds = false;
    let mut seen = lost();
    seen.formed = false;
    assert!(begins(&desired, &seen));
    // Not while one of the founders holds what was just recorded.
    standing(&mut seen, 1).cluster = Some(C.to_owned());
    let joined = [("x-1".to_owned(), C.to_owned())].into();
    seen.registry = Registry::Founding { joined };
    assert!(matches!(step(&desired, &seen), Some(Step::ConfirmFounding { .. })));
    let mut under = marked(RIGHTS_END);
    under.formed = false;
    assert!(forgets(&desired, &under));
    // The volume of a pod that is not there may hold what somebody recovered.
    let claim = |ordinal| Claim {
        name: format!("data-x-{ordinal}"),
        uid: "v".to_owned(),
        ordinal,
        ..Claim::default()
    };
    under.claims = (0..3).map(claim).collect();
    assert!(forgets(&desired, &under));
    under.claims.push(claim(3));
    assert_eq!(kept(&desired, &under), "nobody asks for it any more");
    under.claims.pop();
    desired.replicas = 0;
    assert!(!begins(&desired, &seen), "nobody wants another");
    assert_eq!(kept(&desired, &under), "nobody asks for it any more");
}

#[test]
fn what_has_served_is_given_up_only_where_somebody_asked_for_it() {
    let mut desired = desired();
    desired.refounds = false;
    let decision = next(&desired, &lost());
    let blocked = decision.blocked.expect("a human is to decide");
    assert_eq!((decision.step, blocked.halt), (None, Some(Halt::QuorumLost)));
    assert!(blocked.message.contains("shoal.dev/recover=c"), "{}", blocked.message);
    assert_eq!(kept(&desired, &marked(RIGHTS_END)), "nobody asks for it any more");
    desired.recover = Some(C.to_owned());
    assert!(begins(&desired, &lost()) && forgets(&desired, &marked(RIGHTS_END)));
    assert_eq!(refused_recovery(&desired, &lost()), None);
    desired.recover = Some("d".to_owned());
    assert!(!begins(&desired, &lost()));
    let words = refused_recovery(&desired, &lost()).unwrap();
    assert!(words.contains("cluster d, but the one that is lost is c"), "{words}");
}

#[test]
fn an_annotation_that_would_cost_a_living_cluster_is_refused_in_words() {
    let mut desired = desired();
    desired.refounds = false;
    desired.recover = Some(C.to_owned());
    let mut seen = lost();
    standing(&mut seen, 2).cluster = Some(C.to_owned());
    assert!(!begins(&desired, &seen));
    let words = refused_recovery(&desired, &seen).unwrap();
    assert!(words.starts_with("x-2 holds cluster c") && words.contains("shoal recover"), "{words}");
    seen.registry = Registry::Known(Members { cluster: C.to_owned(), ..Members::default() });
    let words = refused_recovery(&desired, &seen).unwrap();
    assert!(words.starts_with("a quorum of cluster c answers"), "{words}");
    // What is left of an earlier one, and does nothing.
    desired.recover = Some("b".to_owned());
    assert_eq!(refused_recovery(&desired, &seen), None);
    desired.recover = None;
    assert_eq!(refused_recovery(&desired, &lost()), None);
}

#[test]
fn a_mark_that_the_operator_did_not_write_is_taken_away() {
    let mut unreadable = marked(RIGHTS_END);
    unreadable.identity.as_mut().unwrap().abandoning = Some(mark(None));
    kept(&desired(), &unreadable);
    for recorded in [None, Some("d".to_owned())] {
        let mut other = marked(RIGHTS_END);
        other.identity.as_mut().unwrap().cluster = recorded;
        kept(&desired(), &other);
    }
    // Nor does a mark hold back what pods need in order to answer.
    let mut without = marked(RIGHTS_END);
    without.set = None;
    let made = step(&desired(), &without);
    assert_eq!(made, Some(Step::Resize { replicas: 3, former: None }));
}

/// One pod with its directory, and the version of the identity that it has read.
#[derive(Clone)]
struct Process {
    uid: u32,
    holds: bool,
    runs: bool,
    read: usize,
}

/// Three pods, and every version of the identity: the record, and whether it is marked.
struct Pods {
    pods: [Process; 3],
    versions: Vec<(bool, Option<String>)>,
    next_uid: u32,
    chance: Chance,
}

impl Pods {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let mut next_uid = 0;
        let pods = [(); 3].map(|()| {
            next_uid += 1;
            Process { uid: next_uid, holds: chance.one_in(3), runs: true, read: 0 }
        });
        Self { pods, versions: vec![(true, None)], next_uid, chance }
    }

    /// Whatever may happen between two looks of an operator.
    fn pass(&mut self) {
        for _ in 0..self.chance.below(4) {
            let last = self.versions.len() - 1;
            let at = self.chance.below(3) as usize;
            let elsewhere = self.pods.iter().any(|pod| pod.holds && pod.runs);
            let pod = &mut self.pods[at];
            match self.chance.below(8) {
                0 => pod.runs = false,
                // The kubelet of a new pod may have the version before at hand.
                1 => {
                    self.next_uid += 1;
                    let holds = pod.holds && self.chance.one_in(2);
                    let read = last.saturating_sub(self.chance.below(2) as usize);
                    *pod = Process { uid: self.next_uid, holds, runs: true, read };
                }
                2..5 => (pod.runs, pod.read) = (true, last),
                _ => {
                    let free = self.versions[pod.read] == (true, None);
                    pod.holds |= pod.runs && elsewhere && free;
                }
            }
        }
    }

    /// As an operator sees it: record and pods first, their answers later.
    fn look(&mut self) -> (usize, Observed) {
        let version = self.versions.len() - 1;
        let (recorded, since) = self.versions[version].clone();
        let mut seen = lost();
        let identity = seen.identity.as_mut().unwrap();
        identity.cluster = recorded.then(|| C.to_owned());
        identity.abandoning =
            since.map(|since| Mark { cluster: C.to_owned(), since, age: Some(RIGHTS_END) });
        for (pod, process) in seen.pods.values_mut().zip(&self.pods) {
            (pod.uid, pod.standing) = (process.uid.to_string(), None);
        }
        for at in 0..3_u32 {
            self.pass();
            let process = &self.pods[at as usize];
            let pod = seen.pods.get_mut(&at).unwrap();
            let mark = self.versions[process.read].1.clone();
            let standing = Standing {
                uid: process.uid.to_string(),
                cluster: process.holds.then(|| C.to_owned()),
                formed: false,
                joining: false,
                mark: mark.and_then(|since| read(&since)),
            };
            pod.standing = Some(standing).filter(|s| process.runs && s.uid == pod.uid);
        }
        (version, seen)
    }

    /// Only over the version that was decided on.
    fn write(&mut self, version: usize, step: &Step) {
        if version + 1 != self.versions.len() {
            return;
        }
        match step {
            Step::Abandon { .. } => self.versions.push((true, Some(version.to_string()))),
            Step::Keep { .. } => self.versions.push((true, None)),
            Step::Forget { .. } => self.versions.push((false, None)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn s20_nobody_holds_what_was_given_up_whatever_pods_and_two_operators_do_meanwhile() {
    let (desired, mut given_up, mut kept) = (desired(), 0, 0);
    for seed in 0..3_000 {
        let mut world = Pods::new(seed);
        let mut held: Option<(usize, Step)> = None;
        for _ in 0..60 {
            let (version, seen) = world.look();
            let step = next(&desired, &seen).step;
            let ours = |step: &Step| {
                matches!(step, Step::Abandon { .. } | Step::Keep { .. } | Step::Forget { .. })
            };
            // A paused operator writes later what it has decided now.
            let now = match step.filter(ours) {
                Some(step) if held.is_none() && world.chance.one_in(4) => {
                    held = Some((version, step));
                    None
                }
                step => step.map(|step| (version, step)),
            };
            let late = if world.chance.one_in(6) { held.take() } else { None };
            for (version, step) in now.into_iter().chain(late) {
                world.pass();
                world.write(version, &step);
            }
            kept += u32::from(world.versions.len() > 2);
            if world.versions.last() == Some(&(false, None)) {
                break;
            }
        }
        if world.versions.last() == Some(&(false, None)) {
            given_up += 1;
            for _ in 0..50 {
                assert!(world.pods.iter().all(|pod| !pod.holds), "seed {seed}");
                world.pass();
            }
        }
    }
    assert!(given_up > 500 && kept > 500, "{given_up} {kept}");
}
