//! Names of what a cluster owns, all derived from its own.

/// The headless Service of the peers.
pub fn peers(cluster: &str) -> String {
    format!("{cluster}-peers")
}

/// ServiceAccount, Role and RoleBinding of the workers.
pub fn worker(cluster: &str) -> String {
    format!("{cluster}-worker")
}

/// The ConfigMap that says who founds.
pub fn identity(cluster: &str) -> String {
    format!("{cluster}-identity")
}

/// The Secret with the key of the cluster's CA; mounted nowhere.
pub fn authority(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// The Secret with the nodes' certificates.
pub fn nodes_tls(cluster: &str) -> String {
    format!("{cluster}-tls")
}

/// The Secret with the operator's own certificate for this cluster.
pub fn operator_tls(cluster: &str) -> String {
    format!("{cluster}-operator-tls")
}

/// The pod of an ordinal.
pub fn pod(cluster: &str, ordinal: u32) -> String {
    format!("{cluster}-{ordinal}")
}

/// The volume claim of an ordinal.
pub fn claim(cluster: &str, ordinal: u32) -> String {
    format!("{}-{cluster}-{ordinal}", super::pod::DATA_VOLUME)
}

/// The ordinal of a pod of this cluster, from its name. Numbers, not texts, are what compares:
/// pod 10 comes after pod 9.
pub fn ordinal(cluster: &str, pod: &str) -> Option<u32> {
    let digits = pod.strip_prefix(cluster)?.strip_prefix('-')?;
    let plain = digits == "0" || !digits.starts_with('0');
    let all = digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain && all { digits.parse().ok() } else { None }
}

/// The ordinal of a volume claim of this cluster, from its name.
pub fn claim_ordinal(cluster: &str, claim: &str) -> Option<u32> {
    ordinal(cluster, claim.strip_prefix(super::pod::DATA_VOLUME)?.strip_prefix('-')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_read_back_and_nothing_else_is() {
        for number in [0, 7, 10, 999] {
            assert_eq!(ordinal("a-1", &pod("a-1", number)), Some(number));
            assert_eq!(claim_ordinal("a-1", &claim("a-1", number)), Some(number));
        }
        for other in ["a-1", "a-1-", "a-1-x", "a-1-01", "a-1-+1", "b-1-0", "a-1-0-0", "a-10"] {
            assert_eq!(ordinal("a-1", other), None, "{other}");
        }
    }
}
