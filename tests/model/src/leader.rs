//! Members of the log: what each remembers, and what one that thinks it leads may decide.
//!
//! Every member may think so at any time, and decides by its own table and clocks. What real
//! leaders do not do out of prudence alone (floors, quotas, budgets, back-offs) they may do
//! here: none of that is needed for safety.

use std::sync::Arc;

use shoal_core::{
    handoff::{
        self, Leader, News, Report,
        leader::{Action, Event},
    },
    registry::{Drain, Holding, Life, ShardRow},
    session::{
        expiry::{self, Expiry},
        lease::Lease,
    },
};

use crate::{
    decision::Decision,
    judge::Seen,
    mutant::Mutant,
    process::Phase,
    protocol::Protocol,
    setup::Asked,
    shard::ALWAYS,
    table::{SHARD, Table},
    world::World,
};

fn lease(millis: u32) -> Lease {
    Lease::from_millis(millis).unwrap_or_default()
}

impl Protocol {
    /// The member applies the next entry of the log.
    pub fn member_applies(&self, world: &mut World, number: usize) {
        let now = self.clocks.member(world.now);
        let member = Arc::make_mut(&mut world.members[number]);
        member.at += 1;
        let table = &world.log[member.at];
        let settings = table.registry.settings();
        let lease_now = lease(settings.lease_ms);
        if self.mutant == Some(Mutant::ExpiryMovedBack) {
            for node in &table.renewed {
                member.expiry.on(expiry::Event::Left { node: *node }, now);
            }
        }
        let event = expiry::Event::Renewed { nodes: &table.renewed, lease: lease_now };
        member.expiry.on(event, now);
        if table.settings_changed {
            let event = match settings.previous_lease {
                Some((millis, since)) => {
                    expiry::Event::LeaseChanged { previous: lease(millis), since }
                }
                None => expiry::Event::LeaseSettled,
            };
            member.expiry.on(event, now);
        }
    }

    /// A start on stored state or an installed snapshot: every renewal is of unknown age.
    pub fn restart_member(&self, world: &mut World, number: usize) {
        world.left.restarts -= 1;
        world.saw(Seen::MemberRestarts);
        let now = self.clocks.member(world.now);
        let member = Arc::make_mut(&mut world.members[number]);
        let table = &world.log[member.at];
        member.expiry = restored(table, now);
    }

    /// Everything that member may decide, as far as `world.left` allows.
    pub fn decisions(&self, world: &World, number: usize, decisions: &mut Vec<Decision>) {
        let member = &world.members[number];
        let table = &world.log[member.at];
        let now = self.clocks.member(world.now);
        for process in world.processes.iter().filter(|process| !process.steady) {
            let node = table.node(process.node);
            if node.life == Life::Up && member.expiry.has_passed(process.node, now) {
                let (incarnation, renewed) = (node.incarnation, node.renewed);
                decisions.push(Decision::Fence { node: process.node, incarnation, renewed });
            }
        }
        self.of_the_shard(world, table, decisions);
        if let Some(since) = member.expiry.settle_due(now) {
            decisions.push(Decision::Settle { since });
        }
        if let Some(lease_ms) = self.setup.other_lease_ms.filter(|_| world.left.configures > 0) {
            decisions.push(Decision::Configure { lease_ms });
        }
        self.of_people(world, table, decisions);
    }

    fn of_the_shard(&self, world: &World, table: &Table, decisions: &mut Vec<Decision>) {
        let row = table.row();
        let epoch = row.epoch;
        let targets = table.registry.nodes().filter(|(_, node)| node.is_target());
        match row.holding {
            Holding::Unassigned => decisions.extend(targets.map(|(target, node)| {
                Decision::Assign { epoch, target, incarnation: node.incarnation }
            })),
            Holding::Owned { node: owner, .. } if world.left.moves > 0 => {
                let others = targets.filter(|(target, _)| *target != owner);
                decisions.extend(others.map(|(target, node)| Decision::BeginMove {
                    epoch,
                    target,
                    incarnation: node.incarnation,
                }));
            }
            Holding::Owned { .. } => {}
            Holding::Moving { target, target_incarnation, .. } => {
                for release in &world.released {
                    let report = Report {
                        key: release.key,
                        source: release.source,
                        target: release.target,
                        news: News::Released,
                    };
                    decisions.extend(of_a_leader(row, Event::Report(report)));
                }
                if world.left.aborts > 0 {
                    let target = handoff::Process::new(target, target_incarnation);
                    decisions.extend(of_a_leader(row, Event::Lost(target)));
                }
            }
        }
    }

    /// What operators and people ask for, and what parents tell of their children.
    fn of_people(&self, world: &World, table: &Table, decisions: &mut Vec<Decision>) {
        let deaths = world.left.deaths > 0;
        let may_ask = |what| world.left.people > 0 && self.setup.asked.contains(&what);
        for process in world.processes.iter().filter(|process| !process.steady) {
            let (node, row) = (process.node, table.node(process.node));
            let incarnation = row.incarnation;
            let ended = matches!(row.life, Life::Closed | Life::Fenced);
            let may = [
                (may_ask(Asked::Restart) && row.life == Life::Up && row.drain == Drain::None, {
                    Decision::DrainRestart { node, incarnation }
                }),
                (
                    may_ask(Asked::Removal)
                        && row.drain != Drain::Removal
                        && row.life != Life::Left,
                    { Decision::DrainRemoval { node } },
                ),
                (
                    may_ask(Asked::Cancel) && row.drain != Drain::None,
                    Decision::CancelDrain { node },
                ),
                (
                    may_ask(Asked::Mark) && !row.marked && row.life != Life::Left,
                    Decision::Mark { node },
                ),
                (row.life == Life::Up && row.drain != Drain::None, {
                    Decision::Close { node, incarnation }
                }),
                (ended && (row.marked || row.drain == Drain::Removal), {
                    Decision::Remove { node, incarnation }
                }),
                (deaths && process.phase == Phase::Down && process.me.counter > 0, {
                    Decision::ReportDeath { node, incarnation: process.me }
                }),
            ];
            decisions.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, decision)| decision));
        }
    }

    /// Takes from what is left what the decision costs, and hands it to the log.
    pub fn decide(&self, world: &mut World, number: usize, decision: Decision) {
        let left = &mut world.left;
        match decision {
            Decision::DrainRestart { .. }
            | Decision::DrainRemoval { .. }
            | Decision::CancelDrain { .. }
            | Decision::Mark { .. } => left.people -= 1,
            Decision::BeginMove { .. } => left.moves -= 1,
            Decision::AbortMove { .. } => left.aborts -= 1,
            Decision::Configure { .. } => left.configures -= 1,
            Decision::ReportDeath { .. } => left.deaths -= 1,
            Decision::Register(_)
            | Decision::Fence { .. }
            | Decision::CloseInPlace { .. }
            | Decision::Close { .. }
            | Decision::Remove { .. }
            | Decision::Assign { .. }
            | Decision::CommitMove { .. }
            | Decision::Settle { .. } => {}
        }
        if world.members[number].at + 1 < world.log.len() {
            world.saw(Seen::StaleLeaderDecides);
        }
        world.decide(decision);
    }
}

pub fn restored(table: &Table, now: shoal_core::id::Timestamp) -> Expiry {
    let mut expiry = Expiry::default();
    let nodes: Vec<_> = table.registry.nodes().map(|(id, _)| id).collect();
    let settings = table.registry.settings();
    let previous = settings.previous_lease.map(|(millis, since)| (lease(millis), since));
    let event =
        expiry::Event::Restored { nodes: &nodes, lease: lease(settings.lease_ms), previous };
    expiry.on(event, now);
    expiry
}

/// A leader's machine, built from the row as every new leader builds it, and shown one event.
fn of_a_leader(row: ShardRow, event: Event) -> Option<Decision> {
    let (node, incarnation) = row.target()?;
    let target = handoff::Process::new(node, incarnation);
    let mut leader = Leader::rebuild([(SHARD, row)], ALWAYS);
    let action = leader.on(event, ALWAYS).actions.into_iter().next()?;
    Some(match action {
        Action::Commit(key) => Decision::CommitMove { epoch: key.epoch, id: key.id, target },
        Action::Abort { key, .. } => Decision::AbortMove { epoch: key.epoch, id: key.id },
    })
}
