//! Random histories: whatever is proposed, nothing that must hold is ever broken.

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::*;
use crate::route::RouteTable;

/// Raw chance for one command; `command` makes sense of it against the present state, so
/// that most commands are accepted and the rest are stale in one field.
pub(super) type Chance = (u8, u16, u16, u16, u8);

pub(super) fn history() -> impl Strategy<Value = Vec<Chance>> {
    prop::collection::vec(any::<Chance>(), 0..120)
}

fn pick<T: Copy>(from: &[T], chance: u16) -> Option<T> {
    from.get(usize::from(chance) % from.len().max(1)).copied()
}

struct Author<'a> {
    registry: &'a Registry,
    chance: Chance,
}

impl Author<'_> {
    fn command(&self) -> Command {
        let (kind, a, b, ..) = self.chance;
        let node = self.a_node(a);
        let incarnation = self.seen_incarnation(node);
        match kind % 26 {
            0 | 1 => self.join(),
            2..=5 => Command::Register(self.register(node)),
            6 => Command::Renew {
                sessions: self.registry.nodes().map(|(id, n)| (id, n.incarnation)).collect(),
            },
            7 => Command::Renew { sessions: vec![(node, incarnation)] },
            8 => Command::Fence { node, incarnation, renewed: self.seen_renewal(node) },
            9 => Command::ReportDeath { node, incarnation },
            10 => Command::CloseInPlace { node, incarnation },
            11 => Command::Close { node, incarnation },
            12 => Command::DrainRestart { node, incarnation },
            13 => Command::DrainRemoval { node },
            14 => Command::CancelDrain { node },
            15 => self.rare(),
            16 => Command::Remove { node, incarnation },
            17 | 18 => Command::Assign {
                items: self.shards(b).map(|(shard, epoch)| self.assign(shard, epoch)).collect(),
            },
            19 | 20 => Command::BeginMove {
                items: self.shards(b).map(|(shard, epoch)| self.begin(shard, epoch)).collect(),
            },
            21 | 22 => Command::CommitMove { items: self.moves() },
            23 => Command::Leave { node, incarnation },
            24 => Command::Stay { node, incarnation },
            _ => Command::AbortMove { items: self.moves() },
        }
    }

    /// One in eight commands is stale in the field this is asked for.
    fn stale(&self, field: u8) -> bool {
        self.chance.4 % 64 == field
    }

    fn a_node(&self, chance: u16) -> NodeId {
        let ids: Vec<_> = self.registry.nodes().map(|(id, _)| id).collect();
        pick(&ids, chance).unwrap_or(NodeId(chance.into()))
    }

    fn seen_incarnation(&self, node: NodeId) -> Incarnation {
        let mut seen =
            self.registry.node(node).map_or_else(Incarnation::default, |n| n.incarnation);
        if self.stale(0) {
            seen.counter = seen.counter.saturating_sub(1);
        }
        seen
    }

    fn seen_renewal(&self, node: NodeId) -> LogIndex {
        let seen = self.registry.node(node).map_or_else(LogIndex::default, |n| n.renewed);
        LogIndex(seen.0.saturating_sub(u64::from(self.stale(1))))
    }

    fn join(&self) -> Command {
        let (_, a, b, c, _) = self.chance;
        let name = ["a", "b", "c", "d", "e", "f"][usize::from(a) % 6];
        let holders = self.registry.nodes().filter(|(_, n)| n.info.name == name);
        let replaces: Vec<_> = holders.map(|(id, n)| (id, n.renewed)).collect();
        join(name, u128::from(b % 16), if c % 4 == 0 { &replaces } else { &[] })
    }

    fn register(&self, id: NodeId) -> Register {
        let (_, _, b, c, _) = self.chance;
        let node = self.registry.node(id);
        let replaces = self.seen_incarnation(id);
        let incarnation =
            Incarnation { counter: replaces.counter + u64::from(!self.stale(2)), nonce: c.into() };
        let name = node.map_or("z", |n| &n.info.name);
        Register {
            node: id,
            replaces,
            incarnation,
            info: info(if self.stale(3) { "b" } else { name }),
            lock: (!self.stale(4)).then(|| lock(id)),
            renewed: self.seen_renewal(id),
            proof: b % 2 == 0,
            reown: b % 4 < 3,
        }
    }

    /// A handful of shards with the epoch their author saw.
    fn shards(&self, from: u16) -> impl Iterator<Item = (ShardId, Epoch)> {
        let from = u32::from(from) % SHARDS;
        let count = u32::from(self.chance.3 % 8);
        (from..from + count).map(move |shard| {
            let id = ShardId(shard);
            let epoch = self.registry.shard(id).map_or(Epoch(0), |row| row.epoch);
            let stale = self.stale(5);
            (id, if stale { Epoch(epoch.0.saturating_sub(1)) } else { epoch })
        })
    }

    fn assign(&self, shard: ShardId, epoch: Epoch) -> Assign {
        let target = self.a_node(self.chance.1);
        Assign { shard, epoch, target, incarnation: self.seen_incarnation(target) }
    }

    fn begin(&self, shard: ShardId, epoch: Epoch) -> BeginMove {
        let target = self.a_node(self.chance.1);
        BeginMove { shard, epoch, target, incarnation: self.seen_incarnation(target) }
    }

    fn moves(&self) -> Vec<MoveRef> {
        let moving = self.registry.shards().filter_map(|(shard, row)| match row.holding {
            Holding::Moving { id, .. } => Some(MoveRef {
                shard,
                epoch: row.epoch,
                id: MoveId(id.0 - u64::from(self.stale(6))),
            }),
            Holding::Owned { .. } | Holding::Unassigned => None,
        });
        moving.take(1 + usize::from(self.chance.2 % 4)).collect()
    }

    fn rare(&self) -> Command {
        let (_, a, b, c, _) = self.chance;
        let settings = self.registry.settings();
        match c % 8 {
            0 => Command::StopAll,
            1 => Command::Mark { node: self.a_node(a) },
            2 | 3 => Command::Configure(Configure {
                lease_ms: Some(2_000 + u32::from(b)),
                ..Configure::default()
            }),
            4 => Command::SettleLease {
                previous_since: settings.previous_lease.map_or(LogIndex(0), |(_, since)| since),
            },
            5 => Command::AcquireOperatorEpoch,
            6 => Command::Guarded {
                operator_epoch: settings.operator_epoch,
                command: Box::new(Command::DrainRemoval { node: self.a_node(a) }),
            },
            _ => Command::RaiseLevel { level: 2 },
        }
    }
}

/// Applies a history to a formed cluster of three, telling of every step.
pub(super) fn run(history: &[Chance], mut each: impl FnMut(&Registry, &Bed)) -> Bed {
    let (mut bed, _) = Bed::serving(3);
    for chance in history {
        let before = bed.registry.clone();
        let author = Author { registry: &before, chance: *chance };
        // `Bed::apply` runs `check` and `check_step`; a refusal is as good as an event here.
        let _outcome = bed.apply(author.command());
        each(&before, &bed);
    }
    bed
}

/// Guards the tests below against histories in which nothing happens.
#[test]
fn histories_reach_every_state_of_a_node_and_a_shard() {
    let mut runner = TestRunner::deterministic();
    let mut seen = [false; 11];
    for _ in 0..64 {
        let history = history().new_tree(&mut runner).expect("a history").current();
        run(&history, |_, bed| {
            let nodes: Vec<_> = bed.registry.nodes().map(|(_, node)| node).collect();
            let rows: Vec<_> = bed.registry.shards().map(|(_, row)| row.holding).collect();
            let life = |life| nodes.iter().any(|node| node.life == life);
            let now = [
                life(Life::Joining),
                life(Life::Closed),
                life(Life::Fenced),
                life(Life::Left),
                nodes.iter().any(|node| node.marked && node.life == Life::Up),
                nodes.iter().any(|node| matches!(node.drain, Drain::Restart(_))),
                nodes.iter().any(|node| matches!(node.drain, Drain::Own(_))),
                rows.iter().any(|row| matches!(row, Holding::Moving { via: Some(_), .. })),
                rows.iter().any(|row| matches!(row, Holding::Owned { via: Some(_), .. })),
                rows.contains(&Holding::Unassigned),
                bed.registry.settings().previous_lease.is_some(),
            ];
            seen.iter_mut().zip(now).for_each(|(seen, now)| *seen |= now);
        });
    }
    assert_eq!(seen, [true; 11]);
}

proptest! {
    #[test]
    fn no_history_breaks_the_registry(history in history()) {
        run(&history, |before, bed| {
            for (shard, row) in before.shards() {
                let now = bed.row(shard);
                assert!(now.epoch >= row.epoch);
            }
            let mut shards = bed.changes.shards.clone();
            shards.sort();
            shards.dedup();
            assert_eq!(shards.len(), bed.changes.shards.len(), "a shard named twice");
            let changed = before.shards().filter(|(id, row)| bed.row(*id) != **row);
            assert!(changed.map(|(id, _)| id).eq(shards));
        });
    }

    #[test]
    fn apply_is_deterministic_and_a_snapshot_is_the_registry(history in history()) {
        let first = run(&history, |_, _| {});
        let second = run(&history, |_, _| {});
        prop_assert_eq!(&first.registry, &second.registry);
        let restored = Registry::from_parts(first.registry.parts());
        prop_assert_eq!(restored, Ok(first.registry));
    }

    #[test]
    fn a_watcher_that_skips_entries_ends_where_the_log_does(
        history in history(),
        every in 1_usize..12,
    ) {
        let mut watcher = Registry::default();
        let mut table = RouteTable::default();
        let mut step = 0;
        let bed = run(&history, |_, bed| {
            step += 1;
            if step % every == 0 {
                let delta = bed.registry.rows_since(watcher.applied());
                let changes = watcher.install_delta(delta).expect("a delta that fits");
                table.update(&watcher, &changes);
                assert_eq!(table, RouteTable::from_registry(&bed.registry));
            }
        });
        let delta = bed.registry.rows_since(watcher.applied());
        watcher.install_delta(delta).expect("the last delta");
        let without_renewals = |registry: &Registry| {
            let mut parts = registry.parts();
            parts.nodes.iter_mut().for_each(|(_, node)| node.renewed = LogIndex(0));
            parts
        };
        prop_assert_eq!(without_renewals(&watcher), without_renewals(&bed.registry));
    }

    #[test]
    fn a_route_table_kept_up_to_date_is_the_one_built_anew(history in history()) {
        let (start, _) = Bed::serving(3);
        let mut table = RouteTable::from_registry(&start.registry);
        run(&history, |_, bed| {
            table.update(&bed.registry, &bed.changes);
            assert_eq!(table, RouteTable::from_registry(&bed.registry));
        });
    }
}
