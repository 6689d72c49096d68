//! The session of one process: drives `holder` as the worker's shell does.

use shoal_core::{
    id::{Incarnation, NodeId, Timestamp},
    registry::Command,
    session::{
        holder::{Action, Answer, Event, Holder, RequestId, Via},
        lease::Lease,
    },
};

use crate::{
    clock::MS,
    mutant::Mutant,
    requests::{Ask, AskBody, For},
    world::{Due, Message, Place, World},
};

impl World {
    /// Asks for admission to the cluster, over and over.
    pub fn join(&mut self, place: Place) {
        if self.live(place).next_join > self.now {
            return;
        }
        let next = self.now + self.random.between(200, 400) * MS;
        self.live_mut(place).next_join = next;
        let info = self.info(place);
        let directory = self.nodes[place].disk.directory;
        let member = self.random.below(self.nodes.len() as u64) as Place;
        self.ask(place, member, For::Join, AskBody::Join { info, directory });
    }

    /// The directory was admitted, which is on disk before anything else happens.
    pub fn joined(&mut self, place: Place, id: NodeId) {
        if self.nodes[place].disk.node.is_none() {
            self.note(format_args!("{place} joined as {id}"));
            self.nodes[place].disk.node = Some(id);
        }
    }

    pub fn poll_session(&mut self, place: Place) {
        let now = self.clock(place);
        if self.live(place).holder.is_none() {
            let lease = self.lease_at_start(place);
            let (holder, output) = Holder::new(lease, now);
            let live = self.live_mut(place);
            live.holder = Some(holder);
            live.holder_wakes = output.wake_at;
            self.perform_session(place, output.actions, now);
        }
        let live = self.live(place);
        let health = Event::Health {
            oldest_tick: live.wedged.unwrap_or(now),
            probe_pending_since: live.probe,
        };
        self.tell_holder(place, health);
        let Some(live) = &self.nodes[place].live else { return };
        if live.holder_wakes.is_some_and(|at| now.maybe_past(at)) {
            let jitter = self.random.fraction();
            self.tell_holder(place, Event::Wake { jitter });
        }
    }

    /// A guess until the first answer: what the node's table or settings say.
    fn lease_at_start(&self, place: Place) -> Lease {
        crate::memory::lease(self.live(place).table.settings().lease_ms)
    }

    pub fn tell_holder(&mut self, place: Place, event: Event) {
        let now = self.clock(place);
        let Some(holder) = self.live_mut(place).holder.as_mut() else { return };
        let output = holder.on(event, now);
        self.live_mut(place).holder_wakes = output.wake_at;
        self.perform_session(place, output.actions, now);
    }

    fn perform_session(&mut self, place: Place, actions: Vec<Action>, now: Timestamp) {
        for action in actions {
            match action {
                Action::NewIncarnation => {
                    let counter = self.nodes[place].disk.counter + 1;
                    let takes = self.random.below(4 * self.network.weather.work);
                    self.own(place, takes, Due::Synced(counter));
                }
                Action::Send { request, call, incarnation, via } => {
                    self.live_mut(place).sent.insert(request.0, now);
                    let member = self.choose(place, via);
                    self.note(format_args!("{place} asks {member}: {call:?}"));
                    let Some(node) = self.nodes[place].disk.node else { continue };
                    let body = AskBody::Session {
                        call,
                        node,
                        incarnation,
                        table: self.applied_index(place),
                        info: self.info(place),
                        lock: self.nodes[place].lock(),
                    };
                    self.ask(place, member, For::Session(request), body);
                }
                Action::ServeUntil { right } => self.live_mut(place).right = Some(right),
                Action::StopServing => self.stop_serving(place),
                Action::CloseAll(incarnation) => {
                    self.live_mut(place).closing = Some(incarnation);
                    self.shut_life(place);
                }
                Action::Leave => {
                    self.saw("slow disk asks for a drain");
                    self.ask_of_drain(place, |node, incarnation| Command::Leave {
                        node,
                        incarnation,
                    });
                }
                Action::Stay => {
                    self.saw("disk is well again");
                    self.ask_of_drain(place, |node, incarnation| Command::Stay {
                        node,
                        incarnation,
                    });
                }
                Action::ChangeSource => self.change_source(place),
                Action::Exit(why) => return self.exit(place, why),
            }
        }
    }

    fn stop_serving(&mut self, place: Place) {
        let miscounts = matches!(
            self.setup.mutant,
            Some(Mutant::LeaseFromReceipt | Mutant::SentOfAnotherRequest)
        );
        let live = self.live_mut(place);
        // Under these mutants the bent right ends by itself; a lost session ends it at once.
        if miscounts && live.holder.as_ref().is_some_and(|holder| holder.right().is_some()) {
            return;
        }
        live.right = None;
        self.saw("right ended");
        self.cancel_all(place);
    }

    /// The counter is on disk: a new incarnation begins once the former is closed.
    pub fn synced(&mut self, place: Place, counter: u64) {
        self.nodes[place].disk.counter = counter;
        let nonce = self.random.next();
        self.live_mut(place).beginning = Some(Incarnation { counter, nonce });
        self.shut_life(place);
        self.poll_shards(place);
    }

    pub fn begin(&mut self, place: Place, incarnation: Incarnation) {
        self.note(format_args!("{place} begins {incarnation}"));
        self.live_mut(place).right = None;
        self.live_mut(place).registered = false;
        self.new_life(place, incarnation);
        self.tell_holder(place, Event::Incarnation(incarnation));
    }

    pub fn session_answer(&mut self, place: Place, request: RequestId, mut answer: Answer) {
        let now = self.clock(place);
        if let Answer::Granted { index, .. } = answer
            && self.setup.mutant == Some(Mutant::LeaseOfTheAnswerIgnored)
        {
            let lease = crate::memory::lease(self.setup.lease_ms);
            answer = Answer::Granted { index, lease };
        }
        let before = self.holder_right(place);
        self.tell_holder(place, Event::Answered { request, answer });
        if self.nodes[place].live.is_none() {
            return;
        }
        if let Answer::Granted { lease, index } = answer {
            self.live_mut(place).registered = true;
            if self.holder_right(place) != before {
                self.live_mut(place).granted_at = index;
                self.bend_right(place, lease, now);
            }
        }
    }

    fn holder_right(&self, place: Place) -> Option<Timestamp> {
        self.live(place).holder.as_ref().and_then(Holder::right)
    }

    fn bend_right(&mut self, place: Place, lease: Lease, now: Timestamp) {
        let live = self.live_mut(place);
        let last_sent = live.sent.values().next_back().copied().unwrap_or(now);
        match self.setup.mutant {
            Some(Mutant::LeaseFromReceipt) => self.live_mut(place).right = Some(lease.right(now)),
            Some(Mutant::SentOfAnotherRequest) => {
                self.live_mut(place).right = Some(lease.right(last_sent));
            }
            Some(_) | None => {}
        }
    }

    /// Whom to ask; remembers it as the usual one.
    pub fn choose(&mut self, place: Place, via: Via) -> Place {
        let usual = self.live(place).usual;
        let member = match via {
            Via::Usual => usual,
            Via::Member(id) => self.place_of(id).unwrap_or(usual),
            Via::Another => {
                let live = self.live(place);
                let up = live.table.nodes().filter(|(_, node)| node.life.is_up());
                let ids: Vec<_> = up.map(|(id, _)| id).collect();
                let places: Vec<_> = ids.into_iter().filter_map(|id| self.place_of(id)).collect();
                let next = places.iter().find(|place| **place > usual).or(places.first());
                next.copied().unwrap_or(place)
            }
        };
        self.live_mut(place).usual = member;
        member
    }

    pub fn ask(&mut self, origin: Place, member: Place, what: For, body: AskBody) {
        let run = self.live(origin).run;
        let ask = Box::new(Ask { origin, run, via: None, what, body });
        self.send(origin, member, Message::Ask(ask));
    }
}
