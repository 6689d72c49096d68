//! x
include!(concat!(env!("OUT_DIR"), "/shoal.rs"));
