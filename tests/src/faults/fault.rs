//! One fault that happens to one scene: brought about, seen to have met its node, ended.

mod abuse;
mod links;
mod machine;
mod overload;
mod planned;
mod processes;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt as _, rngs::StdRng};

use self::{abuse::Abuse, overload::Overload};
use super::{kind::Kind, scene::Scene};

/// What a fault holds while it lasts.
#[derive(Default)]
pub struct Held {
    abuse: Option<Abuse>,
    overload: Option<Overload>,
    /// What was counted before it began, to tell what is its own.
    before: i64,
    told: String,
}

/// One fault and whom it meets.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: Kind,
    /// The node that it happens to.
    pub node: usize,
    /// The other one where there are two.
    pub other: usize,
    /// Chance of its own, for what it does on the way.
    pub seed: u64,
}

/// What planned changes need beside the scene.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// The program of the next version, if there is one.
    pub next: Option<PathBuf>,
}

impl Fault {
    /// Chooses whom it meets.
    pub fn draw(kind: Kind, scene: &Scene, chance: &mut StdRng) -> anyhow::Result<Self> {
        let leader = scene.leader()?;
        let members = &scene.members;
        let node = match kind {
            Kind::KillLeader | Kind::PauseLeader | Kind::CutLeader => leader,
            Kind::Kill => other_than(members, leader, chance),
            // Of these kinds any node may be the victim, the leader as often as all others.
            _ if chance.random_bool(0.5) => leader,
            _ => other_than(members, leader, chance),
        };
        let other = other_than(members, node, chance);
        Ok(Self { kind, node, other, seed: chance.random() })
    }

    /// Whom it meets, for people.
    pub fn whom(&self, scene: &Scene) -> String {
        let name = |at: usize| scene.nodes[at].name.clone();
        match self.kind {
            Kind::CutPair | Kind::ClockRate => {
                format!("{} and {}", name(self.node), name(self.other))
            }
            _ => name(self.node),
        }
    }

    pub fn inject(self, scene: &mut Scene, means: &Means) -> anyhow::Result<Held> {
        let mut held = Held::default();
        match self.kind {
            Kind::Kill | Kind::KillLeader => processes::kill(scene, self.node, &mut held),
            Kind::PauseShort | Kind::PauseLong | Kind::PauseLeader => {
                processes::pause(scene, self.node)
            }
            Kind::Isolate
            | Kind::CutPeers
            | Kind::CutLeader
            | Kind::CutIn
            | Kind::CutOut
            | Kind::CutPair
            | Kind::CutClients
            | Kind::LossyLink => links::cut(self, scene),
            Kind::SlowLink => links::slow(scene, self.node),
            Kind::SlowDisk
            | Kind::HungSync
            | Kind::FailingSync
            | Kind::FullDisk
            | Kind::ClockJump
            | Kind::ClockRate
            | Kind::WallClock => machine::inject(self, scene, &mut held),
            Kind::Overload | Kind::OverloadLarge | Kind::OverloadAnswers => {
                held.overload = Some(Overload::start(self.kind, scene, self.node)?);
                Ok(())
            }
            Kind::SlowClients
            | Kind::RapidReset
            | Kind::SettingsFlood
            | Kind::PingFlood
            | Kind::HugeHeaders
            | Kind::ZeroWindow => {
                held.abuse = Some(Abuse::start(self.kind, &scene.address(self.node))?);
                Ok(())
            }
            Kind::Restart => planned::restart(scene, self.node, &mut held),
            Kind::Drain => planned::drain(scene, self.node, self.other, &mut held),
            Kind::JoinRemove => planned::join_and_remove(scene, self.other, &mut held),
            Kind::Versions => planned::versions(scene, means, self.seed, &mut held),
        }?;
        Ok(held)
    }

    /// What shows that it met its node; an error where nothing does.
    pub fn fired(self, scene: &mut Scene, held: &mut Held) -> anyhow::Result<String> {
        match self.kind {
            Kind::Kill
            | Kind::KillLeader
            | Kind::Restart
            | Kind::Drain
            | Kind::JoinRemove
            | Kind::Versions => Ok(held.told.clone()),
            Kind::PauseShort | Kind::PauseLong | Kind::PauseLeader => {
                processes::paused(scene, self.node)
            }
            Kind::Isolate
            | Kind::CutPeers
            | Kind::CutLeader
            | Kind::CutIn
            | Kind::CutOut
            | Kind::CutPair
            | Kind::CutClients
            | Kind::LossyLink => links::dropped(scene, self.node),
            Kind::SlowLink => links::slowed(scene, self.node),
            Kind::SlowDisk
            | Kind::HungSync
            | Kind::FailingSync
            | Kind::FullDisk
            | Kind::ClockJump
            | Kind::ClockRate
            | Kind::WallClock => machine::met(self, scene, held),
            Kind::Overload | Kind::OverloadLarge | Kind::OverloadAnswers => {
                held.overload.as_mut().map_or(Ok(String::new()), |overload| overload.met(scene))
            }
            Kind::SlowClients
            | Kind::RapidReset
            | Kind::SettingsFlood
            | Kind::PingFlood
            | Kind::HugeHeaders
            | Kind::ZeroWindow => {
                held.abuse.as_ref().map_or(Ok(String::new()), |abuse| abuse.met())
            }
        }
    }

    /// Undoes what the world does to the nodes; they come right by themselves, save that a
    /// process which has ended is started again.
    pub fn heal(self, scene: &mut Scene, held: Held) -> anyhow::Result<()> {
        match self.kind {
            Kind::Kill | Kind::KillLeader => scene.start(self.node),
            Kind::PauseShort | Kind::PauseLong | Kind::PauseLeader => {
                processes::go_on(scene, self.node)
            }
            Kind::Isolate
            | Kind::CutPeers
            | Kind::CutLeader
            | Kind::CutIn
            | Kind::CutOut
            | Kind::CutPair
            | Kind::CutClients
            | Kind::LossyLink => links::join(scene, self.node),
            Kind::SlowLink => links::fast(scene, self.node),
            Kind::SlowDisk
            | Kind::HungSync
            | Kind::FailingSync
            | Kind::FullDisk
            | Kind::ClockJump
            | Kind::ClockRate
            | Kind::WallClock => machine::heal(self, scene),
            Kind::Overload | Kind::OverloadLarge | Kind::OverloadAnswers => {
                held.overload.map_or(Ok(()), |overload| overload.end(scene))
            }
            Kind::SlowClients
            | Kind::RapidReset
            | Kind::SettingsFlood
            | Kind::PingFlood
            | Kind::HugeHeaders
            | Kind::ZeroWindow => {
                drop(held.abuse);
                Ok(())
            }
            Kind::Restart | Kind::Drain | Kind::JoinRemove | Kind::Versions => Ok(()),
        }
    }

    /// Until it has stayed as long as it is to stay, and what it does has been seen.
    pub fn lasts(self, scene: &mut Scene, held: &mut Held) -> anyhow::Result<String> {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        const PATIENCE: Duration = Duration::from_secs(10);
        let began = Instant::now();
        loop {
            let met = self.fired(scene, held);
            let lasted = began.elapsed() >= self.kind.lasts();
            match met {
                Ok(told) if lasted => return Ok(told),
                Err(error) if began.elapsed() > self.kind.lasts() + PATIENCE => {
                    return Err(error.context(format!("{} did not fire", self.kind)));
                }
                Ok(_) | Err(_) => thread::sleep(LOOK_AGAIN),
            }
        }
    }
}

fn other_than(members: &[usize], node: usize, chance: &mut StdRng) -> usize {
    let others: Vec<_> = members.iter().copied().filter(|at| *at != node).collect();
    others[chance.random_range(0..others.len())]
}
