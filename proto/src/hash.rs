//! Key to shard: XXH64 with seed 0 over the raw bytes of the key, then its top k bits.
//!
//! Any client in any language can compute it; `proto/vectors/hash.csv` holds the vectors.

use twox_hash::XxHash64;

/// XXH64 of the raw key bytes, seed 0.
pub fn key_hash(key: &[u8]) -> u64 {
    XxHash64::oneshot(0, key)
}

/// The shard of a key among `shard_count` shards, a power of two.
pub fn key_shard(key: &[u8], shard_count: u32) -> u32 {
    debug_assert!(shard_count.is_power_of_two() && shard_count >= 2);
    (key_hash(key) >> (64 - shard_count.trailing_zeros())) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors_hold() {
        for line in include_str!("../vectors/hash.csv").lines().skip(1) {
            let mut fields = line.split(',');
            let mut next = || fields.next().expect("four fields");
            let (key, hash) = (next(), next());
            let (count, shard) = (next().parse().unwrap(), next().parse().unwrap());
            assert_eq!(format!("{:016x}", key_hash(key.as_bytes())), hash, "{key}");
            assert_eq!(key_shard(key.as_bytes(), count), shard, "{key} of {count}");
        }
    }
}
