//! Commands about nodes: join, register, renew, the ends of a session, drains and removal.

use super::*;
use crate::registry::Register;

impl Step<'_> {
    /// The id is the index of the first Join of a directory, for ever.
    pub(super) fn join(
        &mut self,
        info: &NodeInfo,
        directory: u128,
        replaces: &[(NodeId, LogIndex)],
    ) -> Result<Event, Refused> {
        let same_directory = self.registry.nodes().find(|(_, n)| n.directory == directory);
        if let Some((id, node)) = same_directory {
            return match node.life {
                Life::Left => Err(Refused::NodeLeft(id)),
                Life::Joining | Life::Up | Life::Closed | Life::Fenced => {
                    Ok(Event::Joined { node: id })
                }
            };
        }
        self.admissible(info)?;
        let replaced = self.replaceable(&info.name, replaces)?;
        for id in replaced {
            self.abort_moves_to(id);
            self.change_node(id, |node| {
                node.marked = true;
                node.drain = Drain::Removal;
            });
        }
        let id = NodeId(self.index.0);
        self.admit(id, info, directory);
        Ok(Event::Joined { node: id })
    }

    pub(super) fn admit(&mut self, id: NodeId, info: &NodeInfo, directory: u128) {
        let node = Node::joining(info, directory, self.index);
        self.registry.put_node(id, node);
        self.changes.nodes.push(id);
    }

    /// Every holder of the name that has not left, each of which the proposer must have
    /// judged dead at its present last renewal.
    fn replaceable(
        &self,
        name: &str,
        judged: &[(NodeId, LogIndex)],
    ) -> Result<Vec<NodeId>, Refused> {
        let holders = self.registry.nodes();
        let holders = holders.filter(|(_, n)| n.life != Life::Left && n.info.name == name);
        holders
            .map(|(id, node)| {
                let (_, seen) = judged
                    .iter()
                    .find(|(judged, _)| *judged == id)
                    .ok_or_else(|| name_in_use(id, node))?;
                unrenewed(id, node, *seen)?;
                Ok(id)
            })
            .collect()
    }

    /// A new process of a known directory. It replaces exactly the incarnation named, so a
    /// duplicate finds another one there and is refused.
    pub(super) fn register(&mut self, register: &Register) -> Result<Event, Refused> {
        let id = register.node;
        let node = self.present(id)?;
        if node.marked {
            return Err(Refused::Marked(id));
        }
        self.admissible(&register.info)?;
        if register.replaces != node.incarnation {
            return Err(stale_incarnation(id, node, register.replaces));
        }
        if register.incarnation.counter <= node.incarnation.counter {
            return Err(Refused::RestoredCopy {
                node: id,
                offered: register.incarnation.counter,
                known: node.incarnation.counter,
            });
        }
        if register.info.name != node.info.name {
            self.replaceable(&register.info.name, &[])?;
        }
        let still_up = node.life == Life::Up;
        // The same boot and the same lock file: the former holder of the lock is gone (S1).
        let proven = register.proof && register.lock.is_some() && register.lock == node.lock;
        if still_up && !proven {
            unrenewed(id, node, register.renewed)?;
        }
        let reown = proven && register.reown && node.drain == Drain::None;
        let reowned = match (still_up, reown) {
            (true, true) => self.reown(id, register.incarnation),
            (true, false) => {
                self.vacate(id);
                0
            }
            (false, _) => 0,
        };
        self.open_session(register);
        Ok(Event::Registered { reowned, lease_ms: self.registry.settings.lease_ms })
    }

    fn open_session(&mut self, register: &Register) {
        let index = self.index;
        self.change_node(register.node, |node| {
            node.info = register.info.clone();
            node.incarnation = register.incarnation;
            node.lock = register.lock.clone();
            node.life = Life::Up;
            node.drain = match node.drain {
                Drain::None | Drain::Restart(_) | Drain::Own(_) => Drain::None,
                Drain::Removal => Drain::Removal,
            };
            node.renewed = index;
        });
        self.changes.renewed.push(register.node);
    }

    /// Never counts as a change of the row: an idle cluster's map stands still (P1).
    pub(super) fn renew(&mut self, sessions: &[(NodeId, Incarnation)]) -> Result<Event, Refused> {
        if sessions.len() > MAX_BATCH {
            return Err(Refused::BatchTooLarge(sessions.len()));
        }
        let mut refused = Vec::new();
        for (id, incarnation) in sessions {
            match self.registry.nodes.get_mut(id) {
                Some(entry)
                    if entry.node.life == Life::Up
                        && entry.node.incarnation == *incarnation
                        && !entry.node.marked =>
                {
                    Arc::make_mut(&mut entry.node).renewed = self.index;
                    self.changes.renewed.push(*id);
                }
                Some(_) | None => refused.push(*id),
            }
        }
        Ok(Event::Renewed { refused, lease_ms: self.registry.settings.lease_ms })
    }

    /// A renewal ordered before makes it fail, one ordered after is refused. Without
    /// `renewed` the process is known to be dead.
    pub(super) fn fence(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        renewed: Option<LogIndex>,
    ) -> Result<Event, Refused> {
        let node = self.session(id, incarnation)?;
        renewed.map_or(Ok(()), |seen| unrenewed(id, node, seen))?;
        Ok(self.end_session(id, Life::Fenced))
    }

    pub(super) fn close_in_place(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
    ) -> Result<Event, Refused> {
        self.session(id, incarnation)?;
        Ok(self.end_session(id, Life::Closed))
    }

    /// Leaves `drain` and the mark as they are: the reason to go outlives the session.
    fn end_session(&mut self, id: NodeId, life: Life) -> Event {
        let shards = self.vacate(id);
        self.change_node(id, |node| node.life = life);
        Event::Unassigned { shards }
    }

    /// The count is read here and not by the proposer: a shard may have been committed to
    /// the leaver since (S16).
    pub(super) fn close(&mut self, id: NodeId, incarnation: Incarnation) -> Result<Event, Refused> {
        let node = self.session(id, incarnation)?;
        if node.drain == Drain::None {
            return Err(Refused::NotDraining(id));
        }
        let held = self.registry.held(id);
        if held.owned > 0 || held.receiving > 0 {
            return Err(Refused::StillOwns {
                node: id,
                owned: held.owned,
                receiving: held.receiving,
            });
        }
        self.change_node(id, |node| node.life = Life::Closed);
        Ok(Event::Done)
    }

    /// Whoever else asked for a restart may change his mind; the process that ends does not.
    pub(super) fn drain_restart(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        asked: fn(Incarnation) -> Drain,
    ) -> Result<Event, Refused> {
        let node = self.session(id, incarnation)?;
        match node.drain {
            Drain::Removal => return Err(Refused::DrainingForRemoval(id)),
            // It goes already, and for a reason of its own.
            Drain::Own(_) => {}
            Drain::None | Drain::Restart(_) => self.drain(id, asked(incarnation)),
        }
        Ok(Event::Done)
    }

    pub(super) fn stay(&mut self, id: NodeId, incarnation: Incarnation) -> Result<Event, Refused> {
        let node = self.session(id, incarnation)?;
        if node.drain != Drain::Own(incarnation) {
            return Err(Refused::NotDraining(id));
        }
        self.change_node(id, |node| node.drain = Drain::None);
        Ok(Event::Done)
    }

    pub(super) fn drain_removal(&mut self, id: NodeId) -> Result<Event, Refused> {
        self.present(id)?;
        self.drain(id, Drain::Removal);
        Ok(Event::Done)
    }

    /// Works until Close: what was proved of a closed node must stay true (S16).
    pub(super) fn cancel_drain(&mut self, id: NodeId) -> Result<Event, Refused> {
        let node = self.present(id)?;
        if node.marked {
            return Err(Refused::Marked(id));
        }
        if node.life == Life::Closed {
            return Err(Refused::Closed(id));
        }
        match node.drain {
            Drain::None => return Err(Refused::NotDraining(id)),
            // Of an incarnation that is no more it means nothing.
            Drain::Own(_) if node.life == Life::Up => return Err(Refused::OwnDrain(id)),
            Drain::Own(_) | Drain::Restart(_) | Drain::Removal => {}
        }
        self.change_node(id, |node| node.drain = Drain::None);
        Ok(Event::Done)
    }

    /// One entry for all, so that no shard moves from one leaver to the next (L7).
    pub(super) fn stop_all(&mut self) -> Result<Event, Refused> {
        let nodes = self.registry.nodes();
        let up = nodes.filter(|(_, n)| n.life == Life::Up && n.drain == Drain::None);
        let up: Vec<_> = up.map(|(id, node)| (id, node.incarnation)).collect();
        for (id, incarnation) in up {
            self.drain(id, Drain::Restart(incarnation));
        }
        Ok(Event::Done)
    }

    fn drain(&mut self, id: NodeId, drain: Drain) {
        self.abort_moves_to(id);
        self.change_node(id, |node| node.drain = drain);
    }

    /// Takes no shard: the session it names may still acknowledge (S19).
    pub(super) fn mark(&mut self, id: NodeId) -> Result<Event, Refused> {
        self.present(id)?;
        self.abort_moves_to(id);
        self.change_node(id, |node| node.marked = true);
        Ok(Event::Done)
    }

    pub(super) fn remove(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
    ) -> Result<Event, Refused> {
        let node = self.present(id)?;
        if node.incarnation != incarnation {
            return Err(stale_incarnation(id, node, incarnation));
        }
        let ended = match node.life {
            Life::Joining | Life::Closed | Life::Fenced => true,
            Life::Up | Life::Left => false,
        };
        if !ended || (node.drain != Drain::Removal && !node.marked) {
            return Err(Refused::NotRemovable(id));
        }
        self.change_node(id, |node| node.life = Life::Left);
        let forgotten = self.registry.forget_left();
        self.changes.nodes.extend(forgotten);
        Ok(Event::Done)
    }

    /// Known and not gone for ever.
    fn present(&self, id: NodeId) -> Result<&Node, Refused> {
        let node = self.registry.node(id).ok_or_else(|| self.registry.no_row(id))?;
        match node.life {
            Life::Left => Err(Refused::NodeLeft(id)),
            Life::Joining | Life::Up | Life::Closed | Life::Fenced => Ok(node),
        }
    }

    /// Up with that very incarnation.
    pub(super) fn session(&self, id: NodeId, incarnation: Incarnation) -> Result<&Node, Refused> {
        let node = self.present(id)?;
        if node.incarnation != incarnation {
            return Err(stale_incarnation(id, node, incarnation));
        }
        match node.life {
            Life::Up => Ok(node),
            Life::Joining | Life::Closed | Life::Fenced | Life::Left => Err(Refused::NotUp(id)),
        }
    }
}

fn stale_incarnation(id: NodeId, node: &Node, seen: Incarnation) -> Refused {
    Refused::StaleIncarnation { node: id, seen, current: node.incarnation }
}

fn unrenewed(id: NodeId, node: &Node, seen: LogIndex) -> Result<(), Refused> {
    if node.renewed == seen {
        Ok(())
    } else {
        Err(Refused::Renewed { node: id, seen, current: node.renewed })
    }
}

fn name_in_use(id: NodeId, node: &Node) -> Refused {
    Refused::NameInUse {
        name: node.info.name.clone(),
        node: id,
        address: node.info.addresses.data.clone(),
        renewed: node.renewed,
    }
}
