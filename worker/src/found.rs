//! Drives the founding machine: carries questions and answers, writes the directory, and
//! tells the rest of the worker when to run as whom.
//!
//! It decides nothing: the machine in `shoal_core::found` does. It does not know Raft:
//! what must happen there goes through [`Effects`].

mod addresses;
mod hands;
mod requests;
mod service;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_core::{
    found::{
        Action, Answer, Config, Directory, Event, Formed, Found as Machine, FoundingSet, Mark,
        Peer, Plan, Question, Reason, Token,
    },
    id::{ClusterId, Epoch, NodeId, Timestamp},
};
use shoal_proto::shoal::peer::v1::founding_client::FoundingClient;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use service::Service;

use crate::{
    config::Start,
    discovery::PeerSet,
    env::{clock, random},
    identity::{self, EXIT_IDENTITY, Identity},
    peer::Channels,
    pod::identity_file::IdentityFile,
    wire,
};
use hands::{Done, Hands};

/// Events and questions that wait for the machine: a few from each of a handful of peers.
const INBOX: usize = 64;
/// As long as the machine waits for an answer before it asks anew.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections kept for asking; the machine has as many addresses at most.
const MAX_CHANNELS: usize = 64;
/// An answer lists the founding set at most twice.
const MAX_ANSWER: usize = 16 << 10;
/// What readiness waits for is logged again so often.
const REMIND_EVERY: Duration = Duration::from_secs(10);
/// Exit code when Raft cannot do what founding asks of it.
const EXIT_RAFT: u8 = 70;

pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why founding ends the process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(Reason),
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error("raft could not {step}")]
    Raft { step: &'static str, source: Cause },
}

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => EXIT_IDENTITY,
            Self::Identity(error) => error.exit_code(),
            Self::Raft { .. } => EXIT_RAFT,
        }
    }
}

/// What founding asks of the rest of the worker. Calls of `initialize`, `start` and `stop`
/// come one at a time, in order; an error of them ends the process.
pub trait Effects: Send + Sync + 'static {
    /// Runs Raft as node 1 of this cluster; a log without entries is initialised with this
    /// node alone. Then `Handle::membership_committed`, `formed_in_log` and
    /// `formed_committed` as they come to be so.
    fn initialize(&self, cluster: ClusterId) -> impl Future<Output = Result<(), Cause>> + Send;

    /// Runs Raft as this node, and reports as above.
    fn start(
        &self,
        cluster: ClusterId,
        node: NodeId,
    ) -> impl Future<Output = Result<(), Cause>> + Send;

    /// Stops Raft, if it runs, and closes its files. Nothing may be appended after it
    /// returns: the machine tells others what it was told.
    fn stop(&self) -> impl Future<Output = Result<Stopped, Cause>> + Send;

    /// Asks the node at this RAFT_ADDRESS to admit this directory; asked again on an error,
    /// which is a [`Refusal`] where the cluster said no.
    fn request_join(
        &self,
        cluster: ClusterId,
        address: &str,
        directory: u128,
    ) -> impl Future<Output = Result<NodeId, Cause>> + Send;

    /// Proposes the entry that the cluster is formed; asked again until it is committed.
    fn propose_formed(
        &self,
        cluster: ClusterId,
        highest_epoch: Epoch,
    ) -> impl Future<Output = Result<(), Cause>> + Send;
}

/// Why a cluster does not admit this node for now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What became of Raft when it was told to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    NeverRan,
    Ran { formed_in_log: bool },
}

/// How founding ends without an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It was told to.
    Told,
    /// Raft was stopped for good: whatever ran beside it belongs to what this node was, and
    /// all begins anew from what is on disk.
    Anew,
}

/// What founding has come to on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub directory: Directory,
    pub formed: Formed,
    /// For readiness: what is missing; none once the cluster is formed.
    pub waiting: Option<String>,
    /// Nothing runs here: the directory belongs to another cluster than the recorded one.
    pub strays: bool,
    /// The operator's mark, as far as this node keeps to it.
    pub refuses: Option<Mark>,
}

enum Input {
    Event(Event),
    Untold(String),
    Question(Question, oneshot::Sender<Answer>),
}

/// Tells the machine what happened. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Input>,
    state: watch::Receiver<State>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Handle {
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The directories that vote in the committed membership.
    pub async fn membership_committed(&self, voters: Vec<u128>) {
        self.tell(Event::MembershipCommitted { voters }).await;
    }

    pub async fn formed_in_log(&self) {
        self.tell(Event::FormedInLog).await;
    }

    pub async fn formed_committed(&self) {
        self.tell(Event::FormedCommitted).await;
    }

    /// The operator has recorded this cluster id; to be repeated until formed.
    pub async fn confirm(&self, cluster: ClusterId) {
        self.tell(Event::Confirmed { cluster }).await;
    }

    /// What the operator's identity file says; told before, only what changed matters.
    pub async fn told(&self, file: &IdentityFile) {
        let IdentityFile { founding, recorded, abandoning, .. } = file.clone();
        self.tell(Event::Told { founding, recorded, abandoning }).await;
    }

    /// Why the identity file says nothing.
    pub async fn untold(&self, why: String) {
        // A closed inbox: the process is about to end.
        let _ = self.inbox.send(Input::Untold(why)).await;
    }

    /// Nodes of this cluster that do not answer and are not Left, by their name in the
    /// founding set (with PEER_ADDRESSES the NODE_ADDRESS) and RAFT_ADDRESS.
    pub async fn silent(&self, nodes: Vec<Peer>) {
        self.tell(Event::Silent { nodes }).await;
    }

    async fn tell(&self, event: Event) {
        // A closed inbox: the process is about to end.
        let _ = self.inbox.send(Input::Event(event)).await;
    }
}

/// How this node founds or joins, as its settings say.
pub fn plan(start: &Start, name: &str) -> Result<Plan, shoal_core::found::Error> {
    match start {
        Start::FoundAlone => FoundingSet::new([name.to_owned()]).map(Plan::Found),
        Start::Join(_) | Start::Found => Ok(Plan::Join),
        Start::Pods(names) => FoundingSet::new(names.iter().cloned()).map(Plan::Found),
        // Until the file is read.
        Start::Identity(_) => Ok(Plan::Wait),
        Start::Peers(peers) => {
            let names: Vec<String> = peers.iter().map(ToString::to_string).collect();
            FoundingSet::of_addresses(&names).map(Plan::Found)
        }
    }
}

/// Founding on this node; runs as long as the process.
pub struct Found<E> {
    machine: Machine,
    effects: Arc<E>,
    hands: Hands<E>,
    inbox: mpsc::Receiver<Input>,
    peers: watch::Receiver<PeerSet>,
    /// Where the machine was told that the founding nodes are.
    told: BTreeMap<String, String>,
    /// Why the operator's file says nothing.
    untold: Option<String>,
    channels: Channels,
    open: BTreeMap<String, Channel>,
    /// Questions under way.
    questions: JoinSet<Option<Event>>,
    /// A request to be admitted or a proposal under way; one at most.
    requests: JoinSet<Option<Event>>,
    /// Why the cluster did not admit this node when it was last asked.
    refusal: Arc<Mutex<Option<Refusal>>>,
    tokens: BTreeMap<Token, oneshot::Sender<Answer>>,
    last_token: u64,
    state: watch::Sender<State>,
    waiting: Option<String>,
    wake_at: Option<Timestamp>,
}

impl<E: Effects> Found<E> {
    /// Needs a running runtime. `peers` are the addresses that discovery finds.
    pub fn new(
        config: Config,
        identity: Arc<Mutex<Identity>>,
        effects: Arc<E>,
        peers: watch::Receiver<PeerSet>,
        channels: Channels,
    ) -> (Self, Handle) {
        let directory = identity.lock().directory().clone();
        let machine = Machine::new(config, directory, random::u64(), clock::now());
        // What the log holds is not known before this runs: nothing is promised until then.
        let state = watch::Sender::new(State { refuses: None, ..shown(&machine, None) });
        let (sender, inbox) = mpsc::channel(INBOX);
        let handle = Handle { inbox: sender, state: state.subscribe() };
        let founding = Self {
            machine,
            hands: Hands::new(identity, Arc::clone(&effects)),
            effects,
            inbox,
            peers,
            told: BTreeMap::new(),
            untold: None,
            channels,
            open: BTreeMap::new(),
            questions: JoinSet::new(),
            requests: JoinSet::new(),
            refusal: Arc::default(),
            tokens: BTreeMap::new(),
            last_token: 0,
            state,
            waiting: None,
            wake_at: None,
        };
        (founding, handle)
    }

    /// Ends with an error when this process must end, else when told to. `formed_in_log`
    /// is what Raft's log holds before anything runs.
    pub async fn run(
        mut self,
        formed_in_log: bool,
        shutdown: CancellationToken,
    ) -> Result<Ended, Error> {
        self.apply(Event::Started { formed_in_log })?;
        self.learn_addresses()?;
        let mut remind = tokio::time::interval(REMIND_EVERY);
        remind.reset();
        let mut others = tokio::time::interval(addresses::OTHERS_EVERY);
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return Ok(Ended::Told),
                Some(input) = self.inbox.recv() => match input {
                    Input::Event(event) => Some(event),
                    Input::Untold(why) => {
                        self.untold = Some(why);
                        self.show();
                        None
                    }
                    Input::Question(question, asker) => Some(self.question(question, asker)),
                },
                done = self.hands.done() => match done? {
                    Done::Persisted => Some(Event::Persisted),
                    Done::Anew => return Ok(Ended::Anew),
                },
                Some(ended) = self.questions.join_next() => ended.ok().flatten(),
                Some(ended) = self.requests.join_next() => {
                    self.show();
                    ended.ok().flatten()
                }
                Ok(()) = self.peers.changed() => {
                    self.learn_addresses()?;
                    None
                }
                () = until(self.wake_at) => Some(Event::Tick { random: random::u128() }),
                _ = others.tick() => {
                    self.learn_others()?;
                    None
                }
                _ = remind.tick() => {
                    self.remind();
                    None
                }
            };
            if let Some(event) = event {
                let told = matches!(event, Event::Told { .. });
                self.apply(event)?;
                if told {
                    self.learn_addresses()?;
                }
            }
        }
    }

    fn question(&mut self, question: Question, asker: oneshot::Sender<Answer>) -> Event {
        self.tokens.retain(|_, asker| !asker.is_closed());
        self.last_token += 1;
        let token = Token(self.last_token);
        self.tokens.insert(token, asker);
        Event::Question { token, question }
    }

    fn apply(&mut self, event: Event) -> Result<(), Error> {
        let output = self.machine.on(event, clock::now());
        self.wake_at = output.wake_at;
        for action in output.actions {
            self.perform(action)?;
        }
        self.show();
        Ok(())
    }

    fn show(&mut self) {
        let state = shown(&self.machine, self.missing());
        let (waits, waited) = (state.waiting.clone(), self.state.borrow().waiting.clone());
        self.state.send_if_modified(|known| {
            let changed = *known != state;
            *known = state;
            changed
        });
        match waits {
            now if now == waited => {}
            Some(_) => self.remind(),
            None => tracing::info!("the cluster is formed"),
        }
    }

    fn perform(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::Ask { address, question } => self.ask(address, &question),
            Action::Reply { token, answer } => {
                if let Some(asker) = self.tokens.remove(&token) {
                    // Gone, it will ask again.
                    let _ = asker.send(answer);
                }
            }
            Action::Drop { token } => drop(self.tokens.remove(&token)),
            Action::Leave(_) => {
                // It would be admitted under the nonce that it gives up.
                self.requests.abort_all();
                // Nor is what that cluster said of it of any use in the next.
                *self.refusal.lock() = None;
                self.hands.take(action);
            }
            Action::Persist(_)
            | Action::Renounce(_)
            | Action::Initialize { .. }
            | Action::Start { .. } => self.hands.take(action),
            Action::RequestJoin { cluster, address } => self.request_join(cluster, address),
            Action::ProposeFormed { cluster, highest_epoch } => {
                self.propose_formed(cluster, highest_epoch);
            }
            Action::Exit(reason) => return Err(Error::Refused(reason)),
            Action::Waiting(waiting) => self.waiting = waiting,
        }
        Ok(())
    }

    fn ask(&mut self, address: String, question: &Question) {
        let Some(channel) = self.channel(&address) else {
            return;
        };
        let question = wire::found::question_out(question);
        self.questions.spawn(async move {
            let mut client = FoundingClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            let asked = tokio::time::timeout(ASK_TIMEOUT, client.ask(question));
            let answer = asked.await.ok()?.ok()?.into_inner();
            match wire::found::answer_in(answer) {
                Ok(answer) => Some(Event::Answer { from: address, answer }),
                Err(error) => {
                    tracing::warn!(address, %error, "an answer of founding is malformed");
                    None
                }
            }
        });
    }

    fn channel(&mut self, address: &str) -> Option<Channel> {
        if let Some(channel) = self.open.get(address) {
            return Some(channel.clone());
        }
        match self.channels.dial(address) {
            Ok(channel) => {
                if self.open.len() >= MAX_CHANNELS {
                    self.open.clear();
                }
                self.open.insert(address.to_owned(), channel.clone());
                Some(channel)
            }
            Err(error) => {
                tracing::warn!(address, %error, "a peer cannot be asked");
                None
            }
        }
    }

    fn remind(&self) {
        if let Some(waiting) = &self.state.borrow().waiting {
            tracing::info!(reason = waiting, "not ready");
        }
    }
}

fn shown(machine: &Machine, waiting: Option<String>) -> State {
    State {
        directory: machine.directory().clone(),
        formed: machine.formed(),
        waiting,
        strays: machine.strays(),
        refuses: machine.refuses().cloned(),
    }
}

async fn until(wake_at: Option<Timestamp>) {
    match wake_at {
        // As the machine judges it: by the slower clock, or this would wake in vain again and again.
        Some(instant) => tokio::time::sleep(clock::now().until_surely_past(instant)).await,
        None => std::future::pending().await,
    }
}
