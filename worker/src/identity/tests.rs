//! Each bad directory and its one clear line; what survives a reopening.

use std::fs;

use shoal_core::{
    found::{Joined, Member, Renounced},
    id::ClusterId,
};

use super::*;

fn error(path: &Path, name: &str) -> (u8, String) {
    let error = Identity::open(path, name).expect_err("the directory must be refused");
    (error.exit_code(), error.to_string())
}

fn joined() -> Joined {
    let founder = Member { name: "a".to_owned(), nonce: 7 };
    let on = vec![founder.clone(), Member { name: "b".to_owned(), nonce: u128::MAX }];
    Joined { cluster: ClusterId(99), founder, on, node: Some(NodeId(4)) }
}

#[test]
fn an_identity_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er");
    let mut identity = Identity::open(&path, "a").unwrap();
    let directory = Directory {
        joined: Some(joined()),
        formed: true,
        ever_left: true,
        renounced: Some(Renounced { dead: 1, by: 2 }),
        ..identity.directory().clone()
    };
    identity.save(directory.clone()).unwrap();
    assert_eq!(identity.next_incarnation().unwrap().counter, 1);
    assert_eq!(identity.next_incarnation().unwrap().counter, 2);
    drop(identity);
    let identity = Identity::open(&path, "a").unwrap();
    assert_eq!((identity.directory(), identity.counter()), (&directory, 2));
}

#[test]
fn two_empty_directories_draw_two_nonces() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Identity::open(&dir.path().join(name), name).unwrap());
    assert_ne!(a.directory().nonce, b.directory().nonce);
}

#[test]
fn the_lock_stays_the_same_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let lock_id = || Identity::open(dir.path(), "a").unwrap().lock_id();
    assert_eq!(lock_id(), lock_id());
}

#[test]
fn a_directory_in_use_names_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Identity::open(dir.path(), "a").unwrap();
    let (code, text) = error(dir.path(), "a");
    assert_eq!(code, EXIT_UNREADABLE);
    let expected = format!("is in use by process {}: stop that process", std::process::id());
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn another_name_in_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Identity::open(dir.path(), "node-a").unwrap());
    let (code, text) = error(dir.path(), "node-b");
    assert_eq!(code, EXIT_IDENTITY);
    assert!(text.contains("belongs to node \"node-a\" and RAFT_ID is \"node-b\""), "{text}");
}

#[test]
fn a_newer_format_is_refused_not_misread() {
    let dir = tempfile::tempdir().unwrap();
    let body = "whatever a later version writes";
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&7_u32.to_le_bytes());
    hasher.update(body.as_bytes());
    let header = format!("shoal-identity 7 {} {:08x}", body.len(), hasher.finalize());
    fs::write(dir.path().join("identity"), format!("{header}\n{body}")).unwrap();
    let (code, text) = error(dir.path(), "a");
    assert_eq!(code, EXIT_UNREADABLE);
    assert!(text.contains("newer format (7, this build reads up to 1)"), "{text}");
}

#[test]
fn every_cut_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Identity::open(dir.path(), "a").unwrap());
    let path = dir.path().join("identity");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let (code, text) = error(dir.path(), "a");
        assert_eq!(code, EXIT_UNREADABLE);
        assert!(text.contains("is damaged: "), "{length}: {text}");
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(error(dir.path(), "a").1.contains("it is cut short"));
}

#[test]
fn every_flipped_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Identity::open(dir.path(), "a").unwrap());
    let path = dir.path().join("identity");
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = format::decode(&bytes).expect_err("a flipped bit must be seen");
        assert!(!matches!(error, format::Error::Newer(_)), "bit {bit}: {error}");
    }
    let mut bytes = whole.clone();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(error(dir.path(), "a").1.contains("its checksum does not match"));
}

#[test]
fn a_log_without_its_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    drop(Identity::open(dir.path(), "a").unwrap());
    fs::remove_file(dir.path().join("identity")).unwrap();
    fs::write(dir.path().join("raft.redb"), "entries").unwrap();
    let (code, text) = error(dir.path(), "a");
    assert_eq!(code, EXIT_UNREADABLE);
    assert!(text.contains("holds \"raft.redb\" but no identity"), "{text}");
}

#[test]
fn a_directory_that_cannot_be_made_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, text) = error(&file.join("below"), "a");
    assert_eq!(code, EXIT_UNREADABLE);
    assert!(text.contains("cannot be created or written"), "{text}");
}

#[test]
fn leaving_removes_the_log_and_keeps_what_was_retired() {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = Identity::open(dir.path(), "a").unwrap();
    identity.retire(NodeId(3), Epoch::default()).unwrap();
    fs::write(dir.path().join("raft.redb"), "entries").unwrap();
    fs::create_dir(dir.path().join("snapshots")).unwrap();
    let next = Directory { nonce: 5, ever_left: true, ..identity.directory().clone() };
    identity.leave(next.clone()).unwrap();
    assert_eq!(names(dir.path()), ["identity", "lock", "retired-3"]);
    assert_eq!(identity.directory(), &next);
}

#[test]
fn retiring_sets_everything_aside_and_keeps_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = Identity::open(dir.path(), "a").unwrap();
    for node in [3, 8] {
        let before = identity.directory().nonce;
        let directory = Directory { joined: Some(joined()), ..identity.directory().clone() };
        identity.save(directory).unwrap();
        fs::write(dir.path().join("raft.redb"), "entries").unwrap();
        identity.retire(NodeId(node), Epoch(node)).unwrap();
        assert_eq!(identity.directory().joined, None);
        assert_eq!(identity.directory().highest_epoch, Epoch(node));
        assert_ne!(identity.directory().nonce, before);
    }
    assert_eq!(names(dir.path()), ["identity", "lock", "retired-8"]);
    assert_eq!(names(&dir.path().join("retired-8")), ["identity", "raft.redb"]);
    let lock_id = identity.lock_id();
    drop(identity);
    assert_eq!(Identity::open(dir.path(), "a").unwrap().lock_id(), lock_id);
}

#[test]
fn a_retirement_cut_short_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = Identity::open(dir.path(), "a").unwrap();
    let aside = dir.path().join("retired-4");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("raft.redb"), "moved before the crash").unwrap();
    fs::write(dir.path().join("snapshot"), "not yet moved").unwrap();
    identity.retire(NodeId(4), Epoch::default()).unwrap();
    assert_eq!(names(&aside), ["identity", "raft.redb", "snapshot"]);
}

fn names(path: &Path) -> Vec<String> {
    disk::list(path).unwrap().iter().map(|entry| file_name(entry)).collect()
}
