//! Every kind of fault, and what is known of it before it happens.

use std::{fmt, time::Duration};

/// What may go wrong, or change as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of a node that does not lead; it starts again.
    Kill,
    KillLeader,
    /// SIGSTOP for less than a lease.
    PauseShort,
    /// SIGSTOP for longer than a lease.
    PauseLong,
    PauseLeader,
    /// Nothing reaches a node and nothing leaves it.
    Isolate,
    /// A node is cut off from its peers; clients still reach it.
    CutPeers,
    CutLeader,
    /// What peers send to a node is lost; what it sends arrives.
    CutIn,
    /// What a node sends to peers is lost; what they send arrives.
    CutOut,
    /// Two nodes do not reach each other; all others reach both.
    CutPair,
    /// Clients do not reach a node; its peers do.
    CutClients,
    SlowLink,
    LossyLink,
    SlowDisk,
    HungSync,
    FailingSync,
    FullDisk,
    /// The clock that counts suspends jumps ahead by half a minute, as after one.
    ClockJump,
    /// The slewed clock of one node runs 8.33 % fast, that of another as much slow, and their
    /// oscillators drift apart.
    ClockRate,
    /// The wall clock is set an hour ahead, then an hour back.
    WallClock,
    /// More is sent to a node than it can answer at once, while its memory is limited.
    Overload,
    /// The same with calls as large as all of its memory.
    OverloadLarge,
    /// The same with small calls whose answers are large.
    OverloadAnswers,
    /// Many connections that send a byte each second.
    SlowClients,
    RapidReset,
    SettingsFlood,
    PingFlood,
    HugeHeaders,
    /// Clients that ask and take no answer.
    ZeroWindow,
    /// SIGTERM, and a start.
    Restart,
    /// `shoal drain`, and `--cancel`.
    Drain,
    /// A node joins, serves, and is removed for good.
    JoinRemove,
    /// All nodes are restarted one by one as the next version, and back.
    Versions,
}

impl Kind {
    pub const ALL: [Self; 34] = [
        Self::Kill,
        Self::KillLeader,
        Self::PauseShort,
        Self::PauseLong,
        Self::PauseLeader,
        Self::Isolate,
        Self::CutPeers,
        Self::CutLeader,
        Self::CutIn,
        Self::CutOut,
        Self::CutPair,
        Self::CutClients,
        Self::SlowLink,
        Self::LossyLink,
        Self::SlowDisk,
        Self::HungSync,
        Self::FailingSync,
        Self::FullDisk,
        Self::ClockJump,
        Self::ClockRate,
        Self::WallClock,
        Self::Overload,
        Self::OverloadLarge,
        Self::OverloadAnswers,
        Self::SlowClients,
        Self::RapidReset,
        Self::SettingsFlood,
        Self::PingFlood,
        Self::HugeHeaders,
        Self::ZeroWindow,
        Self::Restart,
        Self::Drain,
        Self::JoinRemove,
        Self::Versions,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::KillLeader => "kill -9 of the leader",
            Self::PauseShort => "SIGSTOP, shorter than the lease",
            Self::PauseLong => "SIGSTOP, longer than the lease",
            Self::PauseLeader => "SIGSTOP of the leader",
            Self::Isolate => "node cut off from everybody",
            Self::CutPeers => "node cut off from its peers",
            Self::CutLeader => "leader cut off from its peers",
            Self::CutIn => "one way: nothing from peers",
            Self::CutOut => "one way: nothing to peers",
            Self::CutPair => "two nodes cut off from each other",
            Self::CutClients => "clients cut off from a node",
            Self::SlowLink => "slow link, 256 kbit/s",
            Self::LossyLink => "lossy link, 20 %",
            Self::SlowDisk => "slow disk, 300 ms a sync",
            Self::HungSync => "hung fsync",
            Self::FailingSync => "failing fsync",
            Self::FullDisk => "full disk",
            Self::ClockJump => "clock jump of 30 s",
            Self::ClockRate => "clock rates ±8.33 %",
            Self::WallClock => "wall clock ±1 h",
            Self::Overload => "overload at a memory limit",
            Self::OverloadLarge => "overload, calls of 1 MiB",
            Self::OverloadAnswers => "overload, answers of 1 MiB",
            Self::SlowClients => "slow clients",
            Self::RapidReset => "HTTP/2 rapid reset",
            Self::SettingsFlood => "HTTP/2 SETTINGS flood",
            Self::PingFlood => "HTTP/2 PING flood",
            Self::HugeHeaders => "HTTP/2 huge headers",
            Self::ZeroWindow => "HTTP/2 window of 0",
            Self::Restart => "planned: restart",
            Self::Drain => "planned: drain, taken back",
            Self::JoinRemove => "planned: join and removal",
            Self::Versions => "planned: next version and back",
        }
    }

    /// A change in good order, which fails no call.
    pub fn planned(self) -> bool {
        matches!(self, Self::Restart | Self::Drain | Self::JoinRemove | Self::Versions)
    }

    /// How long it stays, at least. Longer than the lease of 3 s where that matters.
    pub fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            // Nobody reports the death: only silence tells.
            Self::Kill | Self::KillLeader => 5_000,
            Self::PauseShort => 1_500,
            Self::PauseLong | Self::PauseLeader => 5_000,
            Self::Isolate | Self::CutPeers | Self::CutLeader | Self::CutIn | Self::CutOut => 5_000,
            Self::CutPair | Self::CutClients => 4_000,
            Self::SlowLink | Self::LossyLink | Self::SlowDisk => 4_000,
            // Past three leases a node no longer renews; a fourth fences it.
            Self::HungSync => 14_000,
            Self::FailingSync | Self::FullDisk => 3_000,
            Self::ClockJump | Self::WallClock => 3_000,
            Self::ClockRate => 6_000,
            Self::Overload | Self::OverloadLarge | Self::OverloadAnswers => 4_000,
            // A connection has 5 s to say that it speaks HTTP/2.
            Self::SlowClients => 7_000,
            Self::RapidReset | Self::SettingsFlood | Self::PingFlood => 2_000,
            Self::HugeHeaders | Self::ZeroWindow => 2_000,
            Self::Restart | Self::Drain | Self::JoinRemove | Self::Versions => 0,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        let kinds: BTreeSet<_> = Kind::ALL.into_iter().collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
    }
}
