//! Moves of one shard: named executions, random walks, and faults that the walks must find.

mod machines;
mod walks;
mod world;
