//! The line that tells a person what founding waits for.

use super::{Formed, Found, FoundingSet, Joined, Plan, rules::Scene};
use crate::id::{ClusterId, Timestamp};

impl Found {
    /// None once the cluster is formed.
    pub(super) fn waiting_for(&self, now: Timestamp) -> Option<String> {
        if let (true, Some(own), Some(recorded)) =
            (self.strays(), self.directory.cluster(), self.config.recorded)
        {
            return Some(format!(
                "this data directory belongs to cluster {own}, but the operator has recorded \
                 {recorded}: give the node an empty directory, or restore the record"
            ));
        }
        if self.formed() == Formed::Committed {
            return None;
        }
        if let (Some((address, theirs)), Some(ours)) = (self.differing.iter().next(), &self.set) {
            return Some(format!(
                "founding sets differ: this node has {ours}; {address} has {}",
                theirs.join(", ")
            ));
        }
        if let (None, Some(mark)) = (&self.directory.joined, &self.config.abandoning) {
            return Some(format!(
                "waiting for the operator to abandon cluster {} or to keep it: until then nothing \
                 is founded or joined",
                mark.cluster
            ));
        }
        let scene = self.scene(now);
        Some(match (&self.directory.joined, self.config.recorded) {
            (None, Some(recorded)) => self.to_join_recorded(recorded),
            (None, None) => self.to_found_or_join(&scene),
            (Some(joined), _) => self.to_be_formed(joined, &scene),
        })
    }

    fn to_be_formed(&self, joined: &Joined, scene: &Scene<'_>) -> String {
        let cluster = joined.cluster;
        if joined.node.is_none() {
            format!("waiting for cluster {cluster} to admit this node")
        } else if self.directory.founded().is_some() {
            self.to_form(scene)
        } else {
            format!("waiting for {} to form cluster {cluster}", joined.founder.name)
        }
    }

    fn to_join_recorded(&self, recorded: ClusterId) -> String {
        let elsewhere = self.view.iter().find_map(|(name, seen)| {
            let theirs = seen.state.joined.as_ref()?.cluster;
            (theirs != recorded).then_some((name, &seen.address, theirs))
        });
        match elsewhere {
            Some((name, address, theirs)) => format!(
                "waiting for a member of cluster {recorded}, which the operator has recorded: \
                 {name} at {address} is in cluster {theirs}, and this node will not join that"
            ),
            None => format!(
                "waiting for a member of cluster {recorded}, which the operator has recorded"
            ),
        }
    }

    fn to_found_or_join(&self, scene: &Scene<'_>) -> String {
        let Some(set) = &self.set else {
            return match self.config.plan {
                Plan::Wait => "waiting for the operator to name the founding nodes".to_owned(),
                Plan::Found(_) | Plan::Join => self.to_join(),
            };
        };
        let missing = scene.missing();
        if scene.outside() {
            return format!("waiting for {set} to form a cluster");
        }
        if !missing.is_empty() {
            return peers(&missing, set, "");
        }
        if !scene.listened {
            return "listening for another cluster before founding one alone".to_owned();
        }
        let elsewhere = self.view.iter().find(|(_, seen)| seen.state.joined.is_some());
        match (elsewhere, scene.oldest()) {
            (Some((name, seen)), _) => {
                let cluster = seen.state.joined.as_ref().map(|joined| joined.cluster);
                format!(
                    "waiting for cluster {} of {name} to form or to be left",
                    cluster.unwrap_or_default()
                )
            }
            (None, Some(oldest)) if oldest != scene.name => {
                format!("waiting for {oldest}, the oldest founding peer, to found the cluster")
            }
            (None, Some(_) | None) => "waiting to found the cluster".to_owned(),
        }
    }

    fn to_join(&self) -> String {
        let Some((name, seen)) = self.view.iter().next() else {
            let addresses: Vec<&str> = self.contacts.keys().map(String::as_str).collect();
            return match addresses[..] {
                [] => "waiting for a formed cluster".to_owned(),
                _ => format!("waiting for a formed cluster at {}", addresses.join(", ")),
            };
        };
        let address = &seen.address;
        match &seen.state.joined {
            Some(joined) => {
                format!(
                    "waiting for cluster {} of {name} at {address} to be formed",
                    joined.cluster
                )
            }
            None => format!("waiting for {name} at {address} to be in a formed cluster"),
        }
    }

    fn to_form(&self, scene: &Scene<'_>) -> String {
        let Some((joined, set)) = self.directory.joined.as_ref().zip(self.set.as_ref()) else {
            return "waiting to form".to_owned();
        };
        let cluster = joined.cluster;
        let there = |name: &String| {
            *name == self.config.name
                || self.view.get(name).is_some_and(|seen| {
                    let theirs = seen.state.joined.as_ref();
                    theirs.is_some_and(|theirs| theirs.cluster == cluster)
                })
        };
        let names = set.names().iter();
        let missing: Vec<&str> = names.filter(|n| !there(n)).map(String::as_str).collect();
        let votes = (self.voters.len(), set.voter_target());
        if self.directory.formed {
            format!("waiting for cluster {cluster} to commit that it is formed")
        } else if !missing.is_empty() {
            peers(&missing, set, " to join")
        } else if votes.0 < votes.1 {
            format!("waiting for voters: {} of {}", votes.0, votes.1)
        } else if !scene.confirmed {
            format!("waiting for the operator to confirm the founding of cluster {cluster}")
        } else {
            format!("waiting for cluster {cluster} to form")
        }
    }

    /// The settings this machine was given.
    pub fn plan(&self) -> &Plan {
        &self.config.plan
    }
}

fn peers(missing: &[&str], set: &FoundingSet, purpose: &str) -> String {
    format!(
        "waiting for {} of {} founding peers{purpose}: {}",
        missing.len(),
        set.names().len(),
        missing.join(", ")
    )
}
