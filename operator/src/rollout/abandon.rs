//! A recorded cluster that nobody holds any more is given up, so that its pods found another.
//!
//! The mark is in the identity before any answer counts. Every pod answers after it has read that
//! very mark, and joins nothing while it stands: none comes to hold the cluster after its answer.
//! One that holds it after all ends the attempt [S20].

use std::{fmt, time::Duration};

use super::{Activity, Claim, Decision, Desired, Halt, Observed, Pod, Registry, Scene, Step};

/// A paused owner may hold a right for the longest lease that a spec may ask for, and a second:
/// which lease was in force last, nobody is left to say.
pub const RIGHTS_END: Duration = Duration::from_secs(60 + 1);

/// In the identity while the recorded cluster is about to be given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub cluster: String,
    /// As it is written: it tells this mark from the next.
    pub since: String,
    /// Since then; none where the time cannot be read.
    pub age: Option<Duration>,
}

/// What the process of a pod says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Standing {
    pub uid: String,
    /// The cluster that its directory has joined.
    pub cluster: Option<String>,
    /// Its directory is that of a formed cluster, and stays so.
    pub formed: bool,
    /// That cluster is a formed one which never admitted it; it leaves it under the mark.
    pub joining: bool,
    /// Cluster and time of the mark that it keeps to.
    pub mark: Option<(String, String)>,
}

/// Why the recorded cluster may be given up once nobody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Hibernated,
    NeverFormed,
    Refound,
    Asked,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hibernated => "it was hibernated without volumes",
            Self::NeverFormed => "it was never seen to be formed",
            Self::Refound => "onRegistryLoss is Refound",
            Self::Asked => "the annotation shoal.dev/recover names it",
        })
    }
}

pub(super) fn abandon(scene: &Scene<'_>) -> Option<Decision> {
    let identity = scene.observed.identity.as_ref()?;
    match (&identity.abandoning, &identity.cluster) {
        (Some(mark), recorded) => go_on(scene, mark, recorded.as_deref()),
        (None, Some(cluster)) => begin(scene, cluster),
        (None, None) => None,
    }
}

fn begin(scene: &Scene<'_>, cluster: &str) -> Option<Decision> {
    let awake = scene.desired.replicas > 0 && is_held_by_nobody(scene, cluster);
    if !awake && !ended_with_its_pods(scene) {
        return None;
    }
    match cause(scene, cluster) {
        Some(cause) => {
            let because = cause.to_string();
            let step = Step::Abandon { cluster: cluster.to_owned(), because };
            Some(Decision::step(Activity::Abandoning, step))
        }
        None => {
            let text = format!(
                "the registry is lost: no pod holds cluster {cluster}; bring a volume of it back, \
                 or annotate the ShardCluster with shoal.dev/recover={cluster} to begin anew"
            );
            Some(Decision::blocked(Activity::Idle, Some(Halt::QuorumLost), "", text))
        }
    }
}

/// Under a mark: to the end, or back.
fn go_on(scene: &Scene<'_>, mark: &Mark, recorded: Option<&str>) -> Option<Decision> {
    let cluster = &mark.cluster;
    let keep = |because: String| {
        let step = Step::Keep { cluster: cluster.clone(), because };
        Some(Decision::step(Activity::Abandoning, step))
    };
    let Some(age) = mark.age.filter(|_| recorded == Some(cluster)) else {
        return keep("the mark is not one of this operator's".to_owned());
    };
    if let Some(holder) = holder(scene, cluster) {
        return keep(holder);
    }
    let asked = cause(scene, cluster);
    let sleeps = scene.desired.replicas == 0 && asked != Some(Cause::Hibernated);
    if sleeps || asked.is_none() {
        return keep("nobody asks for it any more".to_owned());
    }
    // Whoever took the StatefulSet away took pods that were to answer: it is made again first.
    let size = scene.observed.set.as_ref()?.replicas;
    let unread = (0..size).map(|ordinal| scene.pod_name(ordinal)).filter(|name| {
        let standing = scene.pod(name).and_then(|pod| pod.standing.as_ref());
        standing.is_none_or(|standing| !has_let_go(standing, mark))
    });
    let unread: Vec<String> = unread.chain(surplus(scene, size)).collect();
    if !unread.is_empty() {
        let text = format!(
            "{} are to read that cluster {cluster} is given up, and to say that they do not hold it",
            unread.join(", ")
        );
        let waits = [vec![text], scene.troubles()].concat();
        return Some(Decision { activity: Activity::Abandoning, waits, ..Decision::default() });
    }
    if age < RIGHTS_END {
        let text = format!("rights that cluster {cluster} gave are to end");
        return Some(Decision::wait(Activity::Abandoning, text));
    }
    let step = Step::Forget { cluster: cluster.clone() };
    Some(Decision::step(Activity::Abandoning, step))
}

/// It keeps to this very mark, and does not hold the cluster.
fn has_let_go(standing: &Standing, mark: &Mark) -> bool {
    let kept = standing.mark.as_ref();
    let kept =
        kept.is_some_and(|(cluster, since)| *cluster == mark.cluster && *since == mark.since);
    kept && standing.cluster.as_ref() != Some(&mark.cluster)
}

/// Pods beyond the StatefulSet's size are on their way out, and run until they are gone.
fn surplus<'a>(scene: &'a Scene<'_>, size: u32) -> impl Iterator<Item = String> + 'a {
    scene.observed.pods.range(size..).map(|(_, pod)| pod.name.clone())
}

/// Who speaks against giving the cluster up, in words.
fn holder(scene: &Scene<'_>, cluster: &str) -> Option<String> {
    if let Registry::Known(members) = &scene.observed.registry {
        return Some(format!("a quorum of cluster {} answers", members.cluster));
    }
    let says = |pod: &Pod| {
        let standing = pod.standing.as_ref()?;
        let holds = standing.cluster.as_deref() == Some(cluster) && !standing.joining;
        (holds || standing.formed).then(|| {
            let own = standing.cluster.as_deref().unwrap_or(cluster);
            format!("{} holds cluster {own}", pod.name)
        })
    };
    scene.observed.pods.values().find_map(says)
}

/// All pods of the StatefulSet, and no others, have answered that they hold neither this cluster
/// nor a formed one.
pub(super) fn is_held_by_nobody(scene: &Scene<'_>, cluster: &str) -> bool {
    let size = scene.set().replicas;
    let answered = |ordinal| {
        let pod = scene.observed.pods.get(&ordinal);
        pod.is_some_and(|pod| pod.standing.is_some() && !pod.deleting)
    };
    size > 0
        && size >= scene.desired.replicas
        && (0..size).all(answered)
        && surplus(scene, size).next().is_none()
        && holder(scene, cluster).is_none()
}

/// Hibernated, and without volumes its last pod took the registry along.
fn ended_with_its_pods(scene: &Scene<'_>) -> bool {
    let set = scene.set();
    is_hibernated(scene) && set.replicas == 0 && scene.observed.pods.is_empty()
}

fn is_hibernated(scene: &Scene<'_>) -> bool {
    scene.desired.ephemeral && scene.set().former.is_some()
}

/// Nobody holds the recorded cluster, and only a human may give it up.
pub(super) fn is_lost(scene: &Scene<'_>, cluster: &str) -> bool {
    is_held_by_nobody(scene, cluster) && cause(scene, cluster).is_none()
}

fn cause(scene: &Scene<'_>, cluster: &str) -> Option<Cause> {
    // A volume that no pod mounts may be that of somebody who was recovered by hand.
    let mounted = |claim: &Claim| scene.observed.pods.contains_key(&claim.ordinal);
    if is_hibernated(scene) {
        Some(Cause::Hibernated)
    } else if !scene.observed.formed && scene.observed.claims.iter().all(mounted) {
        Some(Cause::NeverFormed)
    } else if scene.desired.refounds {
        Some(Cause::Refound)
    } else if scene.desired.recover.as_deref() == Some(cluster) {
        Some(Cause::Asked)
    } else {
        None
    }
}

/// Why the annotation that asks to give the cluster up is not followed, if it is not.
pub fn refused(desired: &Desired, observed: &Observed) -> Option<String> {
    let scene = Scene { desired, observed };
    let asked = desired.recover.as_deref()?;
    let cluster = observed.identity.as_ref()?.cluster.as_deref()?;
    if asked == cluster {
        let holder = holder(&scene, cluster)?;
        return Some(format!(
            "{holder}: it is not given up; take the annotation away, and where its quorum is lost \
             for good, go on from a member's directory with shoal recover"
        ));
    }
    is_lost(&scene, cluster).then(|| {
        format!("it names cluster {asked}, but the one that is lost is {cluster}: name that one")
    })
}
