//! When a leader lets go that should lead no more: at a quiet moment, and soon.
//!
//! Between two leaders no move is committed, and calls to a shard that is just being handed
//! over wait for it. So no move begins once a transfer is wanted, those under way may end, and
//! only then leadership passes. Whom to, and whether it may take over at once, others judge.

use std::time::Duration;

use crate::id::{NodeId, Timestamp};

/// How long a transfer waits for moves under way. One without much state takes a tenth of it.
const QUIET_WITHIN: Duration = Duration::from_millis(500);
/// How long no move begins: where nobody can take over, drains must go on.
const STILL_WITHIN: Duration = Duration::from_secs(1);

/// The wish of one leadership to end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transfer {
    wish: Option<Wish>,
}

#[derive(Clone, Copy, Debug)]
struct Wish {
    to: NodeId,
    since: Timestamp,
    until: Timestamp,
}

impl Transfer {
    /// Leadership should pass to `to`; forgotten unless said again within `span`.
    pub fn want(&mut self, to: NodeId, span: Duration, now: Timestamp) {
        let standing = self.standing(now);
        let since = standing.map_or(now, |wish| wish.since);
        let until = standing.map_or(now, |wish| wish.until).max_each(now.plus(span));
        self.wish = Some(Wish { to, since, until });
    }

    /// No planned move should begin now.
    pub fn holds_moves(&self, now: Timestamp) -> bool {
        self.standing(now).is_some_and(|wish| !now.maybe_past(wish.since.plus(STILL_WITHIN)))
    }

    /// To whom leadership should pass now; asked again until it has.
    pub fn due(&self, moves_in_flight: usize, now: Timestamp) -> Option<NodeId> {
        let wish = self.standing(now)?;
        let quiet = moves_in_flight == 0 || now.maybe_past(wish.since.plus(QUIET_WITHIN));
        quiet.then_some(wish.to)
    }

    fn standing(&self, now: Timestamp) -> Option<Wish> {
        self.wish.filter(|wish| !now.maybe_past(wish.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: NodeId = NodeId(2);
    const SPAN: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_millis(millis))
    }

    #[test]
    fn it_waits_for_moves_under_way_but_not_for_long() {
        let mut transfer = Transfer::default();
        assert!(!transfer.holds_moves(at(0)));
        assert_eq!(transfer.due(0, at(0)), None);
        transfer.want(N, SPAN, at(0));
        assert!(transfer.holds_moves(at(0)));
        assert_eq!(transfer.due(1, at(499)), None);
        assert_eq!(transfer.due(0, at(499)), Some(N));
        assert_eq!(transfer.due(1, at(500)), Some(N));
    }

    #[test]
    fn a_wish_said_again_waits_no_longer_and_names_the_latest_heir() {
        let mut transfer = Transfer::default();
        transfer.want(N, SPAN, at(0));
        transfer.want(NodeId(3), SPAN, at(400));
        assert_eq!(transfer.due(1, at(500)), Some(NodeId(3)));
        assert_eq!(transfer.due(1, at(1_399)), Some(NodeId(3)));
    }

    #[test]
    fn moves_go_on_where_nobody_can_take_over() {
        let mut transfer = Transfer::default();
        for now in (0..=1_000).step_by(200) {
            transfer.want(N, SPAN, at(now));
        }
        assert!(transfer.holds_moves(at(999)));
        assert!(!transfer.holds_moves(at(1_000)));
        assert_eq!(transfer.due(5, at(1_000)), Some(N), "it is tried all the same");
    }

    #[test]
    fn a_wish_that_nobody_repeats_is_forgotten_and_a_new_one_waits_anew() {
        let mut transfer = Transfer::default();
        transfer.want(N, SPAN, at(0));
        assert_eq!(transfer.due(0, at(1_000)), None);
        transfer.want(N, SPAN, at(2_000));
        assert!(transfer.holds_moves(at(2_100)));
        assert_eq!(transfer.due(1, at(2_100)), None);
    }
}
