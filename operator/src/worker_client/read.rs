//! What the workers say, as the rules of a roll read it.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use shoal_proto::shoal::admin::v1 as pb;

use super::{ANSWER, Error, Place, Workers};
use crate::rollout::{Drain, Life, Member, Members, Registry, Settings, Shards, Standing};

/// Workers asked at once for who leads: more would answer the same.
const ASKED: usize = 8;
/// And where all of them must answer, beyond those: 1,000 silent ones are done within half a pass.
const ASKED_AT_ONCE: usize = 128;

/// What was heard, and the version of the oldest worker that answered.
#[derive(Debug, Default)]
pub struct Heard {
    pub registry: Registry,
    pub version: Option<String>,
    /// What processes say of themselves, by pod.
    pub standings: BTreeMap<String, Standing>,
}

type Answers = Vec<(Place, Result<pb::StatusResponse, String>)>;

/// Who is asked where nobody of the first ones is in a formed cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    Some,
    /// All: a cluster id is recorded, and it may be that nobody holds it.
    All,
}

impl Workers {
    /// The registry as a quorum confirms it now. An operator epoch above ours ends the process.
    pub async fn look(&self, scope: Scope) -> Result<Heard, Error> {
        let (first, others) = self.places.split_at(self.places.len().min(ASKED));
        let mut answers = self.ask_all(first).await;
        if scope == Scope::All && told(&answers).values().all(|status| !status.formed) {
            answers.extend(self.ask_all(others).await);
        }
        let told = told(&answers);
        let version = told.values().map(|status| status.version.clone()).min();
        let standings = told.iter().filter_map(standing).collect();
        let Some(formed) = told.values().filter(|s| s.formed).max_by_key(|s| (s.term, s.applied))
        else {
            let registry = unformed(&told, &answers);
            return Ok(Heard { registry, version, standings });
        };
        let leader = formed.nodes.iter().find(|node| node.id == formed.leader_id);
        let mut places: Vec<&Place> = self.places.iter().collect();
        // It answers for a quorum by itself; anybody else would have to ask it.
        places.sort_by_key(|place| leader.is_none_or(|leader| leader.name != place.pod));
        let mut why = "no worker answered".to_owned();
        for place in places.into_iter().take(ASKED) {
            match self.members(place).await {
                Ok((status, nodes)) => {
                    let epoch = status.settings.as_ref().map_or(0, |s| s.operator_epoch);
                    self.check_epoch(&status.cluster_id, epoch)?;
                    let registry = Registry::Known(members(&status, &nodes));
                    return Ok(Heard { registry, version, standings });
                }
                Err(error) => why = format!("{}: {error}", place.pod),
            }
        }
        Ok(Heard { registry: Registry::Unknown { why }, version, standings })
    }

    async fn ask_all(&self, places: &[Place]) -> Answers {
        let mut answers = Vec::new();
        for some in places.chunks(ASKED_AT_ONCE) {
            answers.extend(join_all(some.iter().map(|place| self.told(place.clone()))).await);
        }
        answers
    }

    async fn told(&self, place: Place) -> (Place, Result<pb::StatusResponse, String>) {
        let answer = self.status(&place, false).await;
        (place, answer)
    }

    async fn status(
        &self,
        place: &Place,
        linearizable: bool,
    ) -> Result<pb::StatusResponse, String> {
        let mut client = self.client(place).await?;
        let asked = client.status(pb::StatusRequest { linearizable });
        let answer = tokio::time::timeout(ANSWER, asked).await;
        let answer = answer.map_err(|_| "no answer in time".to_owned())?;
        answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }

    /// All nodes, those that have left as well: a parked pod is known by its uid.
    async fn members(&self, place: &Place) -> Result<(pb::StatusResponse, Vec<pb::Node>), String> {
        let status = self.status(place, true).await?;
        let mut client = self.client(place).await?;
        let asked = client.nodes(pb::NodesRequest { all: true });
        let answer = tokio::time::timeout(ANSWER, asked).await;
        let answer = answer.map_err(|_| "no answer in time".to_owned())?;
        let nodes = answer.map_err(|status| status.message().to_owned())?.into_inner().nodes;
        Ok((status, nodes))
    }
}

fn told(answers: &Answers) -> BTreeMap<String, pb::StatusResponse> {
    let told = |(place, answer): &(Place, Result<pb::StatusResponse, String>)| {
        answer.as_ref().ok().map(|status| (place.pod.clone(), status.clone()))
    };
    answers.iter().filter_map(told).collect()
}

/// None from a worker whose version does not tell.
fn standing((pod, status): (&String, &pb::StatusResponse)) -> Option<(String, Standing)> {
    let standing = status.standing.clone()?;
    let mark = (standing.abandoning, standing.abandoning_since);
    let standing = Standing {
        uid: standing.pod_uid,
        cluster: Some(standing.cluster_id).filter(|id| !id.is_empty()),
        formed: standing.formed,
        joining: standing.joining,
        mark: Some(mark).filter(|(cluster, _)| !cluster.is_empty()),
    };
    Some((pod.clone(), standing))
}

fn unformed(told: &BTreeMap<String, pb::StatusResponse>, answers: &Answers) -> Registry {
    if told.is_empty() {
        let silent = answers
            .iter()
            .find_map(|(place, answer)| Some(format!("{}: {}", place.pod, answer.as_ref().err()?)));
        let why = silent.unwrap_or_else(|| "no worker runs".to_owned());
        return Registry::Unknown { why };
    }
    // Before its first entry a registry has the id of none.
    let joined = told.iter().map(|(pod, status)| {
        let none = status.cluster_id.bytes().all(|digit| digit == b'0');
        (pod.clone(), if none { String::new() } else { status.cluster_id.clone() })
    });
    Registry::Founding { joined: joined.collect() }
}

fn members(status: &pb::StatusResponse, nodes: &[pb::Node]) -> Members {
    let shards = status.shards.unwrap_or_default();
    let gone = nodes.iter().filter(|node| node.life == "left");
    let voters = &status.voters;
    let present = status.nodes.iter().chain(gone).map(|node| Member {
        id: node.id,
        name: node.name.clone(),
        pod_uid: node.pod_uid.clone(),
        zone: node.zone.clone(),
        incarnation: node.incarnation.clone(),
        life: life(&node.life),
        drain: drain(&node.drain),
        marked: node.marked,
        target: node.target,
        voter: voters.contains(&node.id),
        learner: status.learners.contains(&node.id),
        caught_up: status.caught_up.contains(&node.id),
        owned: node.shards_owned,
        receiving: node.shards_receiving,
        draining: Duration::ZERO,
    });
    Members {
        cluster: status.cluster_id.clone(),
        leader: status.leader_id,
        settings: status.settings.as_ref().map(settings).unwrap_or_default(),
        shards: Shards {
            total: shards.total,
            assigned: shards.assigned,
            moving: shards.moving,
            unassigned: shards.unassigned,
        },
        nodes: present.collect(),
    }
}

fn settings(settings: &pb::Settings) -> Settings {
    Settings {
        lease_ms: settings.lease_ms,
        rebalance_paused: settings.rebalance == "paused",
        max_moves: settings.max_moves,
        max_moves_per_node: settings.max_moves_per_node,
        cooldown_ms: settings.cooldown_ms,
        max_voters: settings.max_voters,
    }
}

/// Words of a newer worker count as the most careful of those known.
fn life(word: &str) -> Life {
    match word {
        "joining" => Life::Joining,
        "closed" => Life::Closed,
        "fenced" => Life::Fenced,
        "left" => Life::Left,
        _ => Life::Up,
    }
}

fn drain(word: &str) -> Drain {
    match word {
        "restart" => Drain::Restart,
        "own" => Drain::Own,
        "removal" => Drain::Removal,
        _ => Drain::None,
    }
}
