//! What to do next: one step at a time, from what is observed alone.
//!
//! Pure: the same observation gives the same step, so that a process which dies between two
//! steps loses nothing. Nothing here reads a clock; ages are part of what is observed. The
//! order of the rules is the order of the calls in `next`.

mod abandon;
mod found;
mod hibernate;
mod removal;
mod repair;
mod roll;
mod step;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, time::Duration};

pub use abandon::{Mark, RIGHTS_END, Standing, refused as refused_recovery};
pub use step::{Deletion, Step};

/// A worker that has not run for so long is not a member to protect.
pub const NOT_RUNNING: Duration = Duration::from_secs(10);

/// A worker that runs and finds its peers has joined by then.
const JOINS_WITHIN: Duration = Duration::from_secs(20);

/// What the ShardCluster asks for, as far as steps depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Name of the cluster; its pods are `<name>-<ordinal>`.
    pub name: String,
    /// 0 = hibernated, also where the state is Stopped.
    pub replicas: u32,
    pub settings: Settings,
    pub drain_timeout: Duration,
    pub on_drain_timeout: OnTimeout,
    pub parallel_removals: u32,
    pub rolls: bool,
    pub max_unavailable: u32,
    pub progress_deadline: Duration,
    /// Volumes of removed members go too.
    pub deletes_claims: bool,
    /// A member whose volume is gone is replaced without a human.
    pub replaces_lost: bool,
    /// The pod whose member a human has replaced, where its volume is lost.
    pub replace: Option<String>,
    /// What a pod holds ends with it.
    pub ephemeral: bool,
    /// A lost registry is founded anew without a human.
    pub refounds: bool,
    /// The cluster that a human gives up, where its registry is lost.
    pub recover: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeout {
    Wait,
    Remove,
}

/// What reaches the registry without a roll.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    pub lease_ms: u32,
    pub rebalance_paused: bool,
    pub max_moves: u32,
    pub max_moves_per_node: u32,
    pub cooldown_ms: u32,
    pub max_voters: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Observed {
    /// The StatefulSet, once it is there.
    pub set: Option<Set>,
    pub pods: BTreeMap<u32, Pod>,
    pub claims: Vec<Claim>,
    pub identity: Option<Identity>,
    /// The recorded cluster was seen to be formed, now or before.
    pub formed: bool,
    pub registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Set {
    pub replicas: u32,
    /// Revision that pods created now have; absent until the controller has seen the template.
    pub revision: Option<String>,
    /// How many members there were when the cluster was hibernated.
    pub former: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub revision: String,
    pub age: Duration,
    pub ready: bool,
    pub deleting: bool,
    /// How long its worker has not run; zero while it does.
    pub down: Duration,
    /// Its Node object is gone, or is out of service.
    pub node_lost: bool,
    /// Incarnation of the latest process that is known to have ended.
    pub ended: Option<String>,
    /// What Kubernetes says against it.
    pub trouble: Option<Trouble>,
    /// What its process answered; none where it did not.
    pub standing: Option<Standing>,
}

/// Why a pod does not run, in the words of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its image cannot be had.
    Image(String),
    /// Anything else: no place for it, no volume, a crash.
    Other(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(words) | Self::Other(words) => f.write_str(words),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Claim {
    pub name: String,
    pub uid: String,
    pub ordinal: u32,
    pub deleting: bool,
    /// It was made for another ShardCluster, one of the same name.
    pub foreign: bool,
    /// Its pod finds no place, since no Kubernetes node can mount its volume.
    pub lost: Option<Lost>,
}

/// How a volume is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// With the machine that it was on, or deleted.
    Gone,
    /// It is in a zone without Kubernetes nodes, where some may come again.
    Unreachable,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    pub founding: Vec<String>,
    pub cluster: Option<String>,
    pub abandoning: Option<Mark>,
}

/// What the workers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registry {
    /// Nobody answered for a quorum: no evidence of anything.
    Unknown { why: String },
    /// Not formed yet: the cluster that each pod has joined, empty where none.
    Founding { joined: BTreeMap<String, String> },
    /// As a quorum has just confirmed it.
    Known(Members),
}

impl Default for Registry {
    fn default() -> Self {
        Self::Unknown { why: "no worker runs".to_owned() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Members {
    pub cluster: String,
    pub leader: u64,
    pub settings: Settings,
    pub shards: Shards,
    pub nodes: Vec<Member>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Shards {
    pub total: u32,
    pub assigned: u32,
    pub moving: u32,
    pub unassigned: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Life {
    Joining,
    #[default]
    Up,
    Closed,
    Fenced,
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Drain {
    #[default]
    None,
    Restart,
    /// A restart that the node asks for itself: nobody else takes it back.
    Own,
    Removal,
}

impl Drain {
    /// It goes and comes back, whoever asked.
    pub fn is_restart(self) -> bool {
        matches!(self, Self::Restart | Self::Own)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Member {
    pub id: u64,
    pub name: String,
    pub pod_uid: String,
    pub zone: String,
    pub incarnation: String,
    pub life: Life,
    pub drain: Drain,
    pub marked: bool,
    pub target: bool,
    pub voter: bool,
    pub learner: bool,
    /// As the leader hears: its table is current, and so is its log where it follows it.
    pub caught_up: bool,
    pub owned: u32,
    pub receiving: u32,
    /// How long it has been draining, as far as the status tells.
    pub draining: Duration,
}

impl Member {
    /// Whoever asked for its drain, and not the node itself, may still take it back.
    pub fn is_revocable(&self) -> bool {
        let lives = matches!(self.life, Life::Up | Life::Fenced | Life::Joining);
        lives && !self.marked && matches!(self.drain, Drain::Restart | Drain::Removal)
    }

    fn is_empty(&self) -> bool {
        self.owned == 0 && self.receiving == 0
    }

    /// Serves, and could lose a neighbour.
    fn is_well(&self) -> bool {
        self.life == Life::Up && self.target && self.caught_up
    }
}

/// What is going on, as the condition Progressing names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activity {
    #[default]
    Idle,
    Creating,
    Abandoning,
    ScalingUp,
    Draining,
    Removing,
    Rolling,
}

/// Why nothing more happens without a human.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    RollStuck,
    DrainTimedOut,
    QuorumLost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub halt: Option<Halt>,
    pub member: String,
    pub message: String,
}

/// The next step, and what else a reader of the status should know.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Decision {
    pub step: Option<Step>,
    pub activity: Activity,
    /// What is waited for, most urgent first.
    pub waits: Vec<String>,
    pub blocked: Option<Blocked>,
}

impl Decision {
    fn step(activity: Activity, step: Step) -> Self {
        Self { step: Some(step), activity, ..Self::default() }
    }

    fn wait(activity: Activity, text: impl Into<String>) -> Self {
        Self { activity, waits: vec![text.into()], ..Self::default() }
    }

    fn blocked(activity: Activity, halt: Option<Halt>, member: &str, message: String) -> Self {
        let blocked = Blocked { halt, member: member.to_owned(), message: message.clone() };
        Self { activity, waits: vec![message], blocked: Some(blocked), step: None }
    }
}

/// One observation with what follows from it.
struct Scene<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
}

/// The first rule that has something to do or to wait for, decides.
pub fn next(desired: &Desired, observed: &Observed) -> Decision {
    let scene = Scene { desired, observed };
    let rules: [fn(&Scene<'_>) -> Option<Decision>; 14] = [
        repair::lost_nodes,
        repair::deaths,
        repair::outdated_and_down,
        abandon::abandon,
        hibernate::stop,
        found::begin,
        hibernate::resume,
        found::form,
        found::adopt,
        configure,
        repair::lost_volumes,
        removal::cancel,
        removal::remove,
        roll::roll,
    ];
    // What is blocked must not keep another from being mended.
    let mut blocked = None;
    for rule in rules {
        match rule(&scene) {
            Some(decision) if decision.blocked.is_some() => blocked = blocked.or(Some(decision)),
            Some(decision) => return decision,
            None => {}
        }
    }
    blocked.unwrap_or_else(|| scene.settled())
}

/// Reaches the registry without a roll.
fn configure(scene: &Scene<'_>) -> Option<Decision> {
    let members = scene.members()?;
    let wanted = &scene.desired.settings;
    let step = || Step::Configure(wanted.clone());
    (members.settings != *wanted).then(|| Decision::step(Activity::Idle, step()))
}

impl Scene<'_> {
    fn members(&self) -> Option<&Members> {
        match &self.observed.registry {
            Registry::Known(members) => Some(members),
            Registry::Unknown { .. } | Registry::Founding { .. } => None,
        }
    }

    fn set(&self) -> Set {
        self.observed.set.clone().unwrap_or_default()
    }

    fn pod_name(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.desired.name)
    }

    /// Ordinals as numbers: `x-10` comes after `x-2`.
    fn ordinal(&self, name: &str) -> Option<u32> {
        name.strip_prefix(&self.desired.name)?.strip_prefix('-')?.parse().ok()
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.ordinal(name).is_some_and(|ordinal| ordinal < self.desired.replicas)
    }

    fn pod(&self, name: &str) -> Option<&Pod> {
        self.observed.pods.get(&self.ordinal(name)?)
    }

    /// The node that runs in this very pod.
    fn node_of(&self, pod: &Pod) -> Option<&Member> {
        let members = self.members()?;
        members.nodes.iter().filter(|n| n.pod_uid == pod.uid).max_by_key(|node| node.id)
    }

    /// The newest node of that name which has not left.
    fn member(&self, name: &str) -> Option<&Member> {
        let nodes = self.members()?.nodes.iter();
        nodes.filter(|n| n.name == name && n.life != Life::Left).max_by_key(|node| node.id)
    }

    /// Its worker runs, is new, and never had a session.
    fn is_about_to_join(&self, ordinal: u32) -> bool {
        let known = |pod: &Pod| {
            let of = |node: &Member| node.pod_uid == pod.uid && node.life != Life::Joining;
            self.members().is_some_and(|members| members.nodes.iter().any(of))
        };
        self.observed.pods.get(&ordinal).is_some_and(|pod| {
            pod.down.is_zero() && !pod.deleting && pod.age < JOINS_WITHIN && !known(pod)
        })
    }

    fn is_outdated(&self, pod: &Pod) -> bool {
        self.set().revision.is_some_and(|revision| revision != pod.revision)
    }

    /// The other voters are a live and current majority, or so few that none ever is.
    fn spares_or_must(&self, going: u64) -> bool {
        let Some(members) = self.members() else { return false };
        let voters: Vec<&Member> = members.nodes.iter().filter(|node| node.voter).collect();
        let well = |node: &&&Member| node.id != going && node.life == Life::Up && node.caught_up;
        voters.len() <= 2 || voters.iter().filter(well).count() * 2 > voters.len()
    }

    /// Nobody else runs who could take its shards.
    fn is_alone(&self, id: u64) -> bool {
        self.members().is_some_and(|members| {
            members.nodes.iter().all(|node| node.id == id || node.life != Life::Up)
        })
    }

    /// Others run, and none of them could take the shards that it owns.
    fn lacks_takers(&self, node: &Member) -> bool {
        let takes = |other: &Member| other.id != node.id && other.life == Life::Up && other.target;
        let nobody = self.members().is_some_and(|members| !members.nodes.iter().any(takes));
        nobody && !node.is_empty() && !self.is_alone(node.id)
    }

    /// Nothing to do: is everything as it should be, or is something waited for?
    fn settled(&self) -> Decision {
        match &self.observed.registry {
            Registry::Unknown { why } if self.observed.pods.is_empty() => {
                Decision::wait(Activity::Creating, why.clone())
            }
            Registry::Unknown { why } if self.observed.formed => {
                let text = format!("no quorum answers: {why}");
                let blocked = Decision::blocked(Activity::Idle, None, "", text);
                Decision { waits: [blocked.waits, self.troubles()].concat(), ..blocked }
            }
            Registry::Unknown { why } => self.founding(why.clone()),
            Registry::Founding { .. } => self.founding("founding goes on".to_owned()),
            Registry::Known(members) => self.settled_members(members),
        }
    }

    /// Not formed yet: whoever reads it wants to know first what is wrong with a pod.
    fn founding(&self, waits_for: String) -> Decision {
        let waits = [self.troubles(), vec![waits_for]].concat();
        Decision { activity: Activity::Creating, waits, ..Decision::default() }
    }

    /// What Kubernetes says against pods that are not ready.
    fn troubles(&self) -> Vec<String> {
        let unready = self.observed.pods.values().filter(|pod| !pod.ready);
        unready
            .filter_map(|pod| Some(format!("pod {}: {}", pod.name, pod.trouble.as_ref()?)))
            .collect()
    }

    fn settled_members(&self, members: &Members) -> Decision {
        let names = (0..self.desired.replicas).map(|ordinal| self.pod_name(ordinal));
        let activity = match names.clone().all(|name| self.member(&name).is_some()) {
            true => Activity::Idle,
            false => Activity::ScalingUp,
        };
        let pods = names.filter_map(|name| match self.pod(&name) {
            None => Some(format!("pod {name} is to be created")),
            Some(pod) if !pod.ready => Some(match &pod.trouble {
                Some(trouble) => format!("pod {name}: {trouble}"),
                None => format!("pod {name} is to become ready"),
            }),
            Some(_) => None,
        });
        let mut waits: Vec<String> = self.volumes_to_give_up().into_iter().chain(pods).collect();
        if members.shards.unassigned > 0 {
            waits.push(format!("{} shards wait for an owner", members.shards.unassigned));
        }
        Decision { activity, waits, ..Decision::default() }
    }
}
