//! Every refusal with its one line, a crash before each step of the write, and what is read.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use shoal_core::{
    found::{Directory, Joined, Member},
    id::{ClusterId, Epoch, LogIndex, NodeId, ShardId},
    registry::{Addresses, Command, NodeInfo, Registry},
};
use tempfile::TempDir;

use super::*;
use crate::{cli::snapshot, identity::Identity, raft::recover::write_log};

const LOST: ClusterId = ClusterId(7);
const NEXT: ClusterId = ClusterId(8);

fn info(name: &str) -> NodeInfo {
    // Nobody listens there.
    let addresses = Addresses { data: "127.0.0.1:1".to_owned(), ..Addresses::default() };
    NodeInfo { name: name.into(), addresses, weight: 70, feature_level: 1, ..NodeInfo::default() }
}

fn join(name: &str) -> Command {
    let directory = u128::from(name.as_bytes()[0]);
    Command::Join { info: info(name), directory, replaces: Vec::new() }
}

/// a (n1), b (n2) and c (n3), formed by the fourth entry, and blanks up to `entries`.
fn log(entries: usize) -> Vec<Command> {
    let found = Command::Found {
        cluster: LOST,
        founder: info("a"),
        directory: 1,
        shard_count: 16,
        lease_ms: 3_000,
    };
    let form = Command::Form { unix_seconds: 5, highest_epoch_found: Epoch(0) };
    let known = [found, join("b"), join("c"), form];
    known.into_iter().chain(std::iter::repeat(Command::Blank)).take(entries).collect()
}

fn registry(commands: &[Command]) -> Registry {
    let mut registry = Registry::new();
    for (command, index) in commands.iter().zip(1..) {
        registry.apply(LogIndex(index), command).0.unwrap();
    }
    registry
}

/// The directory of a stopped node of the lost cluster.
fn directory(root: &Path, name: &str, node: u64, term: u64, commands: &[Command]) -> PathBuf {
    let path = root.join(name);
    let mut identity = Identity::open(&path, name).unwrap();
    let founder = Member { name: "a".to_owned(), nonce: 3 };
    let joined = Joined { cluster: LOST, founder, on: Vec::new(), node: Some(NodeId(node)) };
    let formed = commands.len() > 3;
    let known = identity.directory().clone();
    identity.save(Directory { joined: Some(joined), formed, ..known }).unwrap();
    identity.next_incarnation().unwrap();
    write_log(&path, term, commands);
    fs::write(path.join("members"), "localhost:1\n").unwrap();
    path
}

fn args(directories: &[&Path]) -> Args {
    Args {
        data_dir: directories.iter().map(|path| path.to_path_buf()).collect(),
        from_snapshot: None,
        raft_id: None,
        yes: true,
        output: Output::Json,
        tls: tls::FileArgs::default(),
    }
}

fn from_snapshot(file: &Path, directory: &Path) -> Args {
    let (from_snapshot, raft_id) = (Some(file.to_owned()), Some("d".to_owned()));
    Args { from_snapshot, raft_id, ..args(&[directory]) }
}

async fn refused(args: &Args) -> String {
    let error = recover(args).await.expect_err("it must be refused");
    let line = format!("{error:#}");
    assert!(!line.contains('\n'), "one line: {line}");
    line
}

/// Length and checksum of every file but locks, below a directory.
fn content(path: &Path) -> BTreeMap<PathBuf, (usize, u32)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(content(&entry));
        } else if !entry.ends_with("lock") {
            let bytes = fs::read(&entry).unwrap();
            found.insert(entry, (bytes.len(), crc32fast::hash(&bytes)));
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            fs::copy(&entry, target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_directory_becomes_a_cluster_of_one_and_keeps_what_it_held() {
    let root = TempDir::new().unwrap();
    let path = directory(root.path(), "b", 2, 4, &log(9));
    fs::create_dir(path.join("retired-1")).unwrap();
    let identity = fs::read(path.join("identity")).unwrap();
    recover(&args(&[&path])).await.unwrap();
    let aside = path.join(format!("recovered-from-{LOST}"));
    assert_eq!(fs::read(aside.join("identity")).unwrap(), identity);
    assert!(aside.join("raft.redb").exists() && aside.join("members").exists());
    assert!(path.join("retired-1").exists() && !path.join("members").exists());
    let recovered = Identity::open(&path, "b").unwrap();
    assert_eq!(recovered.recovered_from(), Some(LOST));
    assert_eq!(recovered.counter(), 1, "its next run is told from its last");
    let now = recovered.directory().clone();
    let joined = now.joined.as_ref().unwrap();
    assert_eq!((joined.node, now.formed, now.founded_alone()), (Some(NodeId(10)), true, false));
    assert!(joined.cluster != LOST && now.founded().is_none());
    drop(recovered);
    let read = raft::recover::read(&path, true).unwrap();
    assert_eq!((read.last.term, read.last.index), (5, 10));
    assert_eq!(read.voters, [NodeId(10)]);
    assert_eq!(read.registry.cluster().recovered_from, Some(LOST));
    let row = read.registry.node(NodeId(10)).unwrap();
    assert_eq!((row.info.name.as_str(), row.info.weight), ("b", 70));
    let epoch = read.registry.shard(ShardId(0)).unwrap().epoch;
    assert_eq!(epoch, now.highest_epoch);
    assert!(epoch.era() > 5);
}

#[tokio::test]
async fn the_newest_log_counts_with_every_entry_it_holds() {
    let root = TempDir::new().unwrap();
    let longer = directory(root.path(), "a", 1, 4, &log(30));
    // A newer leader had only begun: nobody knows whether its last entry was committed.
    let mut commands = log(7);
    commands.push(join("d"));
    let newer = directory(root.path(), "b", 2, 5, &commands);
    let before = content(&longer);
    let left = look(&args(&[&longer, &newer])).unwrap();
    let plan = Plan::new(&left, NEXT).unwrap();
    let text = plan.text(&left);
    let expected = format!(
        "lost      cluster {LOST}\n\
         from      {newer}, up to entry 8 of term 5\n\
         \u{20}         {longer}: term 4, entry 30\n\
         \u{20}         {newer}: term 5, entry 8\n\
         becomes   cluster {NEXT}: b alone, as n9, in {newer}\n\
         shards    16, all without an owner at first, under tokens of a new era\n\
         forgets   a, c, d\n",
        longer = longer.display(),
        newer = newer.display()
    );
    assert!(text.starts_with(&expected), "{text}");
    carry_out(left, &plan, &mut || Ok(())).unwrap();
    assert_eq!(content(&longer), before, "the other directory is left alone");
    let kept = newer.join(format!("recovered-from-{LOST}"));
    let read = raft::recover::read(&kept, true).unwrap();
    assert_eq!(read.registry.node(NodeId(8)).unwrap().info.name, "d");
}

#[tokio::test]
async fn tokens_of_every_directory_count_also_of_one_with_an_older_log() {
    let root = TempDir::new().unwrap();
    let newer = directory(root.path(), "a", 1, 5, &log(6));
    let older = directory(root.path(), "b", 2, 4, &log(9));
    let mut identity = Identity::open(&older, "b").unwrap();
    let high = Epoch::new(u32::MAX - 9, 3);
    let known = identity.directory().clone();
    identity.save(Directory { highest_epoch: high, ..known }).unwrap();
    drop(identity);
    let left = look(&args(&[&newer, &older])).unwrap();
    let plan = Plan::new(&left, NEXT).unwrap();
    assert_eq!(plan.newest, 0);
    assert_eq!(plan.registry.cluster().first_epoch, Epoch::new(u32::MAX - 8, 3));
}

#[tokio::test]
async fn what_a_snapshot_holds_goes_on_in_a_new_directory() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("registry.shoal");
    fs::write(&file, snapshot::seal_registry(&registry(&log(6)))).unwrap();
    let path = root.path().join("new/d");
    recover(&from_snapshot(&file, &path)).await.unwrap();
    let read = raft::recover::read(&path, true).unwrap();
    let row = read.registry.node(NodeId(7)).unwrap();
    assert_eq!((row.info.name.as_str(), row.info.weight), ("d", 100));
    assert_eq!(Identity::open(&path, "d").unwrap().recovered_from(), Some(LOST));
    assert!(!path.join(format!("recovered-from-{LOST}")).exists());
    // It is no new directory any more.
    let line = refused(&from_snapshot(&file, &path)).await;
    let expected = format!(
        "data directory {} is not empty, it holds \"identity\": a snapshot is recovered into a \
         new directory; name another, or leave --from-snapshot out to recover from this one",
        path.display()
    );
    assert_eq!(line, expected);
}

/// Every directory that a crash can leave: old or recovered for whoever opens it, and finished
/// by the same command.
#[tokio::test]
async fn s13_a_crash_before_any_step_leaves_the_old_directory_or_the_recovered_one() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("registry.shoal");
    fs::write(&file, snapshot::seal_registry(&registry(&log(6)))).unwrap();
    let base = directory(root.path(), "b", 2, 4, &log(9));
    let held = content(&base);
    for new in [false, true] {
        let (mut step, mut old, mut recovered) = (0, 0, 0);
        loop {
            let path = root.path().join(format!("crash-{new}-{step}"));
            let given = if new { from_snapshot(&file, &path) } else { args(&[&path]) };
            if !new {
                copy(&base, &path);
            }
            let whole = crash_at(&given, step);
            let reopened = root.path().join(format!("reopened-{new}-{step}"));
            copy(&path, &reopened);
            let identity = Identity::open(&reopened, if new { "d" } else { "b" }).unwrap();
            match identity.directory().cluster() {
                Some(NEXT) => {
                    recovered += 1;
                    let read = raft::recover::read(&reopened, true).unwrap();
                    assert_eq!(read.registry.cluster().id, NEXT, "step {step}");
                }
                Some(LOST) if !new => {
                    old += 1;
                    let read = raft::recover::read(&reopened, true).unwrap();
                    assert_eq!(read.registry.cluster().id, LOST, "step {step}");
                    assert_eq!(read.last.index, 9);
                }
                None if new => old += 1,
                other => panic!("step {step}: {other:?}"),
            }
            // Whoever opened it as an empty directory gave it an identity: only of the copy.
            drop(identity);
            if whole {
                break;
            }
            recover(&given).await.unwrap();
            let read = raft::recover::read(&path, true).unwrap();
            assert_eq!(read.registry.cluster().recovered_from, Some(LOST), "step {step}");
            if !new {
                let aside = path.join(format!("recovered-from-{LOST}"));
                let kept = content(&aside);
                for (file, bytes) in &held {
                    let kept = kept.get(&aside.join(file.file_name().unwrap()));
                    assert_eq!(kept, Some(bytes), "step {step}: {}", file.display());
                }
            }
            let leftovers = ["recovery", "recovery.new"].map(|name| path.join(name).exists());
            assert_eq!(leftovers, [false, false], "step {step}");
            step += 1;
        }
        // Before the rename and after it.
        assert!(old >= 5 && recovered >= if new { 5 } else { 9 }, "{new}: {old}, {recovered}");
    }
}

/// Runs into an error before step `step`; true if there were fewer steps.
fn crash_at(args: &Args, step: usize) -> bool {
    let left = look(args).unwrap();
    let plan = Plan::new(&left, NEXT).unwrap();
    let mut done = 0;
    let ended = carry_out(left, &plan, &mut || {
        done += 1;
        if done > step { Err(io::Error::other("the machine stops")) } else { Ok(()) }
    });
    ended.is_ok()
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_with_one_line() {
    let root = TempDir::new().unwrap();
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for path in [&empty, &root.path().join("absent")] {
        let expected = format!(
            "{} is no data directory of a Shoal node: it holds no identity; name the RAFT_DIR of \
             a member",
            path.display()
        );
        assert_eq!(refused(&args(&[path])).await, expected);
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "nothing was made in it");
    let path = directory(root.path(), "b", 2, 4, &log(9));
    let shown = path.display();
    let expected = format!("data directory {shown} is given twice: name each once");
    assert_eq!(refused(&args(&[&path, &path])).await, expected);
    let never = root.path().join("never");
    drop(Identity::open(&never, "n").unwrap());
    let expected = format!(
        "data directory {} belongs to no cluster yet: nothing was ever served from it; start the \
         node, and it founds or joins one",
        never.display()
    );
    assert_eq!(refused(&args(&[&never])).await, expected);
    let aside = path.join(format!("recovered-from-{LOST}"));
    fs::create_dir(&aside).unwrap();
    let expected = format!(
        "{} exists and would be mixed up with what is to be set aside: move it away",
        aside.display()
    );
    assert_eq!(refused(&args(&[&path])).await, expected);
}

#[tokio::test]
async fn a_damaged_directory_is_refused_with_the_file_and_the_way_out() {
    let root = TempDir::new().unwrap();
    let path = directory(root.path(), "b", 2, 4, &log(9));
    let (log_file, identity) = (path.join("raft.redb"), path.join("identity"));
    let good = fs::read(&log_file).unwrap();
    let way_out = "recover from the directory of another member, or from a file of \
                   `shoal snapshot` by --from-snapshot";
    fs::write(&log_file, b"no log at all").unwrap();
    let line = refused(&args(&[&path])).await;
    let begins = format!("{} is damaged (", log_file.display());
    assert!(line.starts_with(&begins) && line.ends_with(&format!("): {way_out}")), "{line}");
    fs::remove_file(&log_file).unwrap();
    let expected = format!(
        "{} is gone: put it back, or recover from the directory of another member",
        log_file.display()
    );
    assert_eq!(refused(&args(&[&path])).await, expected);
    fs::write(&log_file, good).unwrap();
    let whole = fs::read(&identity).unwrap();
    fs::write(&identity, &whole[..40]).unwrap();
    let line = refused(&args(&[&path])).await;
    let begins = format!("{} is damaged: ", identity.display());
    assert!(line.starts_with(&begins) && line.ends_with(way_out), "{line}");
}

#[tokio::test]
async fn a_cluster_that_never_formed_and_two_clusters_are_refused() {
    let root = TempDir::new().unwrap();
    let path = directory(root.path(), "b", 2, 4, &log(3));
    let expected = format!(
        "cluster {LOST} was never formed and never served: give its nodes empty directories, and \
         they found another"
    );
    assert_eq!(refused(&args(&[&path])).await, expected);
    let ours = directory(root.path(), "a", 1, 4, &log(9));
    let theirs = directory(root.path(), "c", 3, 4, &log(9));
    let mut identity = Identity::open(&theirs, "c").unwrap();
    let mut other = identity.directory().clone();
    other.joined.as_mut().unwrap().cluster = NEXT;
    identity.save(other).unwrap();
    drop(identity);
    let expected = format!(
        "directories 1 and 2 belong to clusters {LOST} and {NEXT}: give those of one cluster"
    );
    assert_eq!(refused(&args(&[&ours, &theirs])).await, expected);
}

#[tokio::test]
async fn a_file_that_is_no_snapshot_for_this_is_refused() {
    let root = TempDir::new().unwrap();
    let (file, path) = (root.path().join("registry.shoal"), root.path().join("d"));
    let given = from_snapshot(&file, &path);
    let shown = file.display();
    assert_eq!(refused(&given).await, format!("there is no file {shown}"));
    fs::write(&file, b"shoal registry, format 9\nwhatever").unwrap();
    let newer = format!("{shown}: it was written in format 9, this build reads up to 1");
    assert_eq!(refused(&given).await, newer);
    fs::write(&file, b"photo").unwrap();
    assert_eq!(refused(&given).await, format!("{shown}: this is no snapshot"));
    fs::write(&file, snapshot::seal_registry(&registry(&log(3)))).unwrap();
    let never = format!(
        "{shown}: cluster {LOST} was never formed and never served: give its nodes empty \
         directories, and they found another"
    );
    assert_eq!(refused(&given).await, never);
    let two = Args { data_dir: vec![path.clone(), root.path().join("e")], ..given };
    let once = "--from-snapshot makes one directory: give --data-dir once";
    assert_eq!(refused(&two).await, once);
    assert!(!path.exists(), "nothing was made");
}

#[tokio::test]
async fn nothing_is_done_without_a_word_of_consent() {
    let root = TempDir::new().unwrap();
    let path = directory(root.path(), "b", 2, 4, &log(9));
    let before = content(&path);
    let unasked = Args { yes: false, ..args(&[&path]) };
    let line = "nobody is at a terminal to confirm this: nothing was changed; give --yes to go on";
    assert_eq!(refused(&unasked).await, line);
    assert_eq!(content(&path), before);
}
