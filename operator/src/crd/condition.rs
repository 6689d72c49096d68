//! The table of conditions: every condition a `ShardCluster` can show, every reason for it, and
//! which status goes with the reason. A reason under a condition it does not belong to cannot be
//! written down.

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    True,
    False,
}

impl Status {
    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
        }
    }
}

macro_rules! table {
    ($($(#[doc = $about:literal])+ $kind:ident {
        $($(#[doc = $meaning:literal])+ $reason:ident = $status:ident,)+
    })+) => {
        /// A condition with the reason for its status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Condition {
            $($(#[doc = $about])+ $kind($kind),)+
        }

        /// The kinds of conditions, as in `type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ConditionType {
            $($(#[doc = $about])+ $kind,)+
        }

        $(
            #[doc = concat!("Reasons of the condition `", stringify!($kind), "`.")]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum $kind {
                $($(#[doc = $meaning])+ $reason,)+
            }

            impl From<$kind> for Condition {
                fn from(reason: $kind) -> Self {
                    Self::$kind(reason)
                }
            }
        )+

        impl ConditionType {
            /// Every kind, in the order in which people read them.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// As the API spells it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)+
                }
            }

            /// What it means that the condition is true.
            pub const fn about(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!($($about),+).trim_ascii(),)+
                }
            }
        }

        impl Condition {
            /// Every row of the table.
            pub const ALL: &[Self] = &[$($(Self::$kind($kind::$reason),)+)+];

            /// The kind.
            pub const fn kind(self) -> ConditionType {
                match self {
                    $(Self::$kind(_) => ConditionType::$kind,)+
                }
            }

            /// The reason, as the API spells it.
            pub const fn reason(self) -> &'static str {
                match self {
                    $($(Self::$kind($kind::$reason) => stringify!($reason),)+)+
                }
            }

            /// The status that goes with the reason.
            pub const fn status(self) -> Status {
                match self {
                    $($(Self::$kind($kind::$reason) => Status::$status,)+)+
                }
            }

            /// What the reason says.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $($(Self::$kind($kind::$reason) => concat!($($meaning),+).trim_ascii(),)+)+
                }
            }
        }
    };
}

table! {
    /// This generation is observed, every wanted pod is ready at the newest revision, every shard is owned and nothing drains.
    Ready {
        /// Everything is as specified.
        AsSpecified = True,
        /// The cluster has never served yet.
        Creating = False,
        /// Nodes come, leave or drain.
        Scaling = False,
        /// Pods are not all at the newest revision.
        Rolling = False,
        /// A node that should serve does not.
        MemberDown = False,
        /// Shards have no owner.
        ShardsUnowned = False,
        /// No pod is wanted.
        Hibernated = False,
        /// The spec asks for something that is held back by `state: Paused`.
        Paused = False,
        /// No step will happen without a human; the condition Stalled says why.
        Stalled = False,
    }
    /// A quorum is live and every shard has an owner with a valid session.
    Available {
        /// Every key is served.
        Serving = True,
        /// The cluster is not formed yet.
        NotFormed = False,
        /// No leader can be elected.
        QuorumLost = False,
        /// Shards have no owner.
        ShardsUnowned = False,
        /// No pod is wanted.
        Hibernated = False,
    }
    /// The operator has a next step or waits for one.
    Progressing {
        /// The cluster is being founded.
        Creating = True,
        /// A recorded cluster that no pod holds any more is given up, and another is founded.
        Abandoning = True,
        /// Nodes are added.
        ScalingUp = True,
        /// A node hands over its shards in order to leave.
        Draining = True,
        /// A drained node is taken out of the registry.
        Removing = True,
        /// Outdated pods are restarted.
        Rolling = True,
        /// Volumes grow.
        Resizing = True,
        /// A pod or volume that cannot come back is replaced.
        Repairing = True,
        /// Every node closes its shards in place before the pods go.
        Stopping = True,
        /// There is nothing to do.
        Idle = False,
    }
    /// The cluster works with less margin than specified.
    Degraded {
        /// A node that should serve does not.
        MemberDown = True,
        /// A volume can reach no Kubernetes node any more.
        VolumeLost = True,
        /// A certificate is close to its end and was not renewed.
        CertificateExpiring = True,
        /// One zone holds so many voters that its loss costs the quorum.
        VotersShareZone = True,
        /// The margin is as specified.
        None = False,
    }
    /// No step will happen without a human.
    Stalled {
        /// The pod template is refused; the message has the path or the words of the API server.
        InvalidPodTemplate = True,
        /// Another part of the spec is refused; the message has the path.
        InvalidSpec = True,
        /// The spec asks for something that this version does not do yet; the message has the path.
        NotSupported = True,
        /// An object of the wanted name belongs to somebody else.
        ForeignObject = True,
        /// An image cannot be pulled.
        ImagePull = True,
        /// A restarted pod did not serve in time; the roll went no further.
        RollStuck = True,
        /// A leaving node did not hand over its shards in time.
        DrainTimedOut = True,
        /// Volumes of more than one former cluster carry this name.
        ForeignVolume = True,
        /// The storage class does not let volumes grow.
        VolumeExpansionRefused = True,
        /// No leader can be elected and no pod will come back by itself.
        QuorumLost = True,
        /// The annotation `shoal.dev/recover` names another cluster, or one that a pod still holds.
        RecoveryRefused = True,
        /// Nothing is in the way.
        None = False,
    }
    /// The state is Paused or Stopped.
    Paused {
        /// The operator writes only the status and the disruption budget.
        Paused = True,
        /// The cluster is kept at no pods.
        Stopped = True,
        /// The operator acts.
        Running = False,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_unique_and_fit_the_api() {
        let mut seen = BTreeSet::new();
        for row in Condition::ALL {
            let pair = (row.kind().as_str(), row.reason());
            assert!(seen.insert(pair), "{pair:?} twice");
            for word in [pair.0, pair.1] {
                assert!(word.chars().all(|c| c.is_ascii_alphanumeric()), "{word}");
                assert!(word.starts_with(|c: char| c.is_ascii_uppercase()), "{word}");
            }
            assert!(row.meaning().ends_with('.'), "{pair:?} has no sentence");
        }
    }

    #[test]
    fn every_condition_can_flip() {
        for kind in ConditionType::ALL {
            let rows = Condition::ALL.iter().filter(|row| row.kind() == *kind);
            let statuses: BTreeSet<_> = rows.map(|row| row.status().as_str()).collect();
            assert!(statuses.contains("True") && statuses.contains("False"), "{kind:?}");
        }
    }
}
