//! How the parts of a leader grow with the cluster, up to 65,536 shards on 1,000 nodes.
//!
//! Every part is taken at three sizes, so that what grows faster than its input shows. The
//! nodes beyond a few processes are stand-ins that speak the session protocol.

pub mod fencing;
pub mod memory;
pub mod planner;
pub mod registry;
pub mod restart;
pub mod sessions;
mod standin;
mod watchers;
mod world;

use std::fmt;

/// What a cluster is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub shards: u32,
    pub nodes: u32,
}

pub const SMALL: Size = Size { shards: 1_024, nodes: 10 };
pub const MIDDLE: Size = Size { shards: 8_192, nodes: 100 };
pub const LARGE: Size = Size { shards: 65_536, nodes: 1_000 };

/// All sizes of the figures, or the one of a test.
pub fn sizes(small: bool) -> &'static [Size] {
    const ALL: [Size; 3] = [SMALL, MIDDLE, LARGE];
    if small { &ALL[..1] } else { &ALL }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |of: u32| crate::figure::number(f64::from(of));
        write!(f, "{} x {}", number(self.shards), number(self.nodes))
    }
}

/// How a value of the first size grew to the last one, beside what it is a matter of.
pub fn growth(values: &[f64], items: &[f64], what: &str) -> String {
    let ratio = |of: &[f64]| match (of.first(), of.last()) {
        (Some(first), Some(last)) if *first > 0.0 => last / first,
        _ => 0.0,
    };
    let number = crate::figure::number;
    format!("grew {}-fold, {what} {}-fold", number(ratio(values)), number(ratio(items)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_beside_its_cause() {
        let told = growth(&[2.0, 5.0, 40.0], &[1.0, 8.0, 10.0], "shards");
        assert_eq!(told, "grew 20-fold, shards 10-fold");
        assert_eq!(growth(&[], &[], "shards"), "grew 0-fold, shards 0-fold");
    }
}
