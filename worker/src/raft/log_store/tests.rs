//! The log on a real disk: restarts, damage, failing syncs, and kill -9.

mod model;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use openraft::{
    StorageError,
    impls::leader_id_adv::LeaderId,
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt as _,
};
use redb::{ReadableDatabase as _, ReadableTable as _, TableHandle as _};
use tempfile::TempDir;

use super::*;
use crate::{
    raft::{state_machine::StateMachine, types::Payload},
    table::Table,
};

/// A generous bound on any one wait of these tests.
const PATIENCE: Duration = Duration::from_secs(30);
/// Set for the process that is killed: where its log is.
const VICTIM: &str = "SHOAL_TEST_LOG_VICTIM";

fn open(dir: &Path) -> Result<LogStore, Error> {
    LogStore::open(&dir.join("raft.redb"), |bytes| bytes == b"form")
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn entry(term: u64, index: u64, bytes: impl Into<bytes::Bytes>) -> Entry {
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(Payload(bytes.into())) }
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) -> Result<(), io::Error> {
    let (done, flushed) = Types::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    tokio::time::timeout(PATIENCE, flushed).await.unwrap().unwrap()
}

async fn indexes(store: &mut LogStore) -> Vec<u64> {
    let entries = store.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

struct Builder;

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let (failing, _) = watch::channel(None);
        let machine = StateMachine::open(dir.path().to_owned(), Table::default(), failing).unwrap();
        Ok((dir, store, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_behaves_as_openraft_expects() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    let vote = Vote { leader_id: LeaderId { term: 4, node_id: 7 }, committed: true };
    append(&mut store, (0..10).map(|i| entry(1, i, vec![i as u8; 9])).collect()).await.unwrap();
    store.truncate_after(Some(id(1, 6))).await.unwrap();
    append(&mut store, vec![entry(4, 7, "seven")]).await.unwrap();
    store.purge(id(1, 2)).await.unwrap();
    store.save_committed(Some(id(1, 5))).await.unwrap();
    store.save_vote(&vote).await.unwrap();
    let before = store.extent();
    store.close().await;
    assert!(store.save_vote(&vote).await.is_err());

    let mut store = open(dir.path()).unwrap();
    assert_eq!(indexes(&mut store).await, [3, 4, 5, 6, 7]);
    assert_eq!(store.extent(), before);
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    assert_eq!(store.read_committed().await.unwrap(), Some(id(1, 5)));
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(id(1, 2)));
    assert_eq!(state.last_log_id, Some(id(4, 7)));
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()).err(), Some(Error::Locked { .. })));
}

#[tokio::test]
async fn old_entries_come_from_disk_and_reads_are_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    let size = 256 << 10;
    for index in 0..60 {
        append(&mut store, vec![entry(1, index, vec![index as u8; size])]).await.unwrap();
    }
    let cached = store.shared.state.lock().tail_first();
    assert!((20..60).contains(&cached), "{cached}");
    assert_eq!(indexes(&mut store).await, (0..60).collect::<Vec<_>>());
    for start in [0, cached - 1, cached, 57] {
        let read = store.limited_get_log_entries(start, 60).await.unwrap();
        let expected: Vec<_> =
            (start..60).take(4).map(|i| entry(1, i, vec![i as u8; size])).collect();
        assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn a_late_report_about_a_truncated_entry_frees_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    let size = TAIL_BYTES / 4;
    for index in 0..3 {
        append(&mut store, vec![entry(1, index, vec![1; size])]).await.unwrap();
    }
    let mut state = store.shared.state.lock();
    let old = state.generation;
    state.truncate_after(Some(id(1, 0)));
    for index in 1..9 {
        state.push(entry(2, index, vec![2; size]), size as u32);
    }
    state.flushed(old, 3);
    assert_eq!(state.tail_first(), 0, "entry 1 of term 2 is not on disk");
    let new = state.generation;
    state.flushed(new, 9);
    assert!(state.tail_first() > 1);
}

#[tokio::test]
async fn a_purge_goes_slice_by_slice_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    let count = 2 * disk::PURGE_SLICE + 100;
    append(&mut store, (0..count).map(|i| entry(1, i, "x")).collect()).await.unwrap();
    store.purge(id(1, count - 11)).await.unwrap();
    assert_eq!(store.extent().entries, 10);
    store.close().await;
    // Closing came right behind: at most one slice is gone from the file.
    let mut store = open(dir.path()).unwrap();
    assert_eq!(indexes(&mut store).await.len(), 10);
    tokio::time::timeout(PATIENCE, async {
        loop {
            let disk = store.shared.disk.read().clone().unwrap();
            if disk.lowest().unwrap() == Some(count - 10) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn forming_is_seen_while_it_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    let formed = store.formed();
    append(&mut store, vec![entry(1, 0, "a"), entry(1, 1, "form")]).await.unwrap();
    assert!(*formed.borrow());
    store.truncate_after(Some(id(1, 0))).await.unwrap();
    assert!(!*formed.borrow());
    append(&mut store, vec![entry(2, 1, "form")]).await.unwrap();
    store.close().await;
    assert!(*open(dir.path()).unwrap().formed().borrow());
}

async fn written(entries: u64) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    append(&mut store, (0..entries).map(|i| entry(1, i, vec![i as u8; 200])).collect())
        .await
        .unwrap();
    store.close().await;
    let path = dir.path().join("raft.redb");
    (dir, path)
}

fn one_line(error: &Error) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let (dir, path) = written(3).await;
    let database = redb::Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<&str, u64>::new("format"))
        .unwrap()
        .insert("log", 2)
        .unwrap();
    txn.commit().unwrap();
    drop(database);
    let entries = || {
        let database = redb::Database::open(&path).unwrap();
        let txn = database.begin_read().unwrap();
        let tables: std::collections::BTreeSet<_> =
            txn.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
        let entries: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("entries");
        let entries = txn.open_table(entries).unwrap();
        let rows = entries.iter().unwrap().map(|row| row.unwrap());
        let rows: Vec<_> = rows.map(|(at, bytes)| (at.value(), bytes.value().to_vec())).collect();
        (tables, rows)
    };
    let before = entries();
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(error, Error::Newer { found: 2, .. }));
    assert_eq!(entries(), before, "a newer file is left as it is");
    assert!(one_line(&error).contains("format 2 is newer"));
}

#[tokio::test]
async fn a_file_cut_short_is_refused() {
    for (numerator, denominator) in [(1, 2), (9, 10), (1, 1_000)] {
        let (dir, path) = written(2_000).await;
        let file = env::disk::open_or_create(&path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length * numerator / denominator).unwrap();
        drop(file);
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, Error::Damaged { .. } | Error::Io { .. }), "{error:?}");
        one_line(&error);
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_or_harmless() {
    let (dir, path) = written(2_000).await;
    let whole = env::disk::read(&path).unwrap().unwrap();
    let mut refused = 0;
    for place in (0..whole.len()).step_by(whole.len() / 60) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x10;
        env::disk::write_atomic(&path, &damaged).unwrap();
        match open(dir.path()) {
            Ok(mut store) => {
                let entries = store.try_get_log_entries(..).await.unwrap();
                let right = (0..2_000).map(|i| entry(1, i, vec![i as u8; 200]));
                assert!(entries.into_iter().eq(right), "byte {place}");
                store.close().await;
            }
            Err(error) => {
                one_line(&error);
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

#[tokio::test]
async fn a_damaged_record_is_refused_though_its_page_is_sound() {
    let (dir, path) = written(9).await;
    let database = redb::Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut entries =
            txn.open_table(redb::TableDefinition::<u64, &[u8]>::new("entries")).unwrap();
        let mut bytes = entries.get(4).unwrap().unwrap().value().to_vec();
        bytes[20] ^= 1;
        entries.insert(4, bytes.as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(database);
    let error = open(dir.path()).err().unwrap();
    assert!(one_line(&error).contains("entry 4: its checksum does not match"), "{error}");
}

/// Memory that fails to sync once told to.
#[derive(Debug)]
struct Failing {
    memory: redb::backends::InMemoryBackend,
    broken: Arc<AtomicBool>,
}

impl redb::StorageBackend for Failing {
    fn len(&self) -> Result<u64, io::Error> {
        self.memory.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.memory.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.memory.set_len(len)
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.memory.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.memory.write(offset, data)
    }
}

#[tokio::test]
async fn the_first_failed_sync_is_the_last_write() {
    let broken = Arc::new(AtomicBool::new(false));
    let backend =
        Failing { memory: redb::backends::InMemoryBackend::new(), broken: broken.clone() };
    let path = Path::new("memory");
    let opened = Disk::open_on(path, backend).unwrap();
    let mut store = LogStore::run(path, opened, |_| false).unwrap();
    append(&mut store, vec![entry(1, 0, "a")]).await.unwrap();
    broken.store(true, Ordering::SeqCst);
    assert!(append(&mut store, vec![entry(1, 1, "b")]).await.is_err());
    broken.store(false, Ordering::SeqCst);
    let vote = Vote { leader_id: LeaderId { term: 2, node_id: 1 }, committed: false };
    assert!(store.save_vote(&vote).await.is_err());
    let mut failure = store.failure();
    let failed = tokio::time::timeout(PATIENCE, failure.wait_for(Option::is_some)).await;
    assert!(failed.unwrap().unwrap().as_ref().is_some_and(|reason| reason.contains("memory")));
}

/// What the victim said it has on disk.
#[derive(Default)]
struct Acknowledged {
    /// Term of each entry.
    entries: BTreeMap<u64, u64>,
    vote: u64,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (word, a, b) = (words.next(), words.next(), words.next());
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
        match (word, number(a), number(b)) {
            (Some("appended"), Some(index), Some(term)) => drop(self.entries.insert(index, term)),
            (Some("truncating"), Some(end), None) => drop(self.entries.split_off(&end)),
            (Some("purging"), Some(end), None) => self.entries = self.entries.split_off(&end),
            (Some("voted"), Some(term), None) => self.vote = term,
            // The test runner's own lines, and one cut off by the kill.
            _ => {}
        }
    }
}

fn content(term: u64, index: u64) -> Vec<u8> {
    format!("{term}/{index};").into_bytes().repeat((index % 90 + 1) as usize)
}

/// The process that is killed: writes for ever and says what is durable.
async fn victim(dir: &Path) {
    let mut store = open(dir).unwrap();
    let state = store.get_log_state().await.unwrap();
    let mut next = state.last_log_id.map_or(0, |id| id.index + 1);
    let mut term = store.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
    for round in 0_u64.. {
        if round % 7 == 0 {
            term += 1;
            let vote = Vote { leader_id: LeaderId { term, node_id: 1 }, committed: false };
            store.save_vote(&vote).await.unwrap();
            println!("voted {term}");
        }
        if round % 11 == 10 && next > 5 {
            next -= 3;
            println!("truncating {next}");
            let last = store.try_get_log_entries(next - 1..next).await.unwrap();
            store.truncate_after(Some(last[0].log_id)).await.unwrap();
        }
        if round % 40 == 39 && next > 120 {
            println!("purging {}", next - 99);
            let upto = store.try_get_log_entries(next - 100..next - 99).await.unwrap();
            store.purge(upto[0].log_id).await.unwrap();
        }
        let count = round % 5 + 1;
        let entries = (next..next + count).map(|i| entry(term, i, content(term, i))).collect();
        append(&mut store, entries).await.unwrap();
        for index in next..next + count {
            println!("appended {index} {term}");
        }
        next += count;
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_kill_9() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        return victim(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["raft::log_store::tests::nothing_acknowledged_is_lost_to_kill_9", "--exact"])
            .arg("--nocapture")
            .env(VICTIM, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let before_kill = env::random::u64() % 400 + 20;
        for _ in 0..before_kill {
            acknowledged.note(&lines.next().unwrap().unwrap());
        }
        child.kill().unwrap();
        lines.map_while(Result::ok).for_each(|line| acknowledged.note(&line));
        child.wait().unwrap();

        let mut store = open(dir.path()).unwrap();
        let vote = store.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
        assert!(vote >= acknowledged.vote, "round {round}");
        let found = store.try_get_log_entries(..).await.unwrap();
        let found: BTreeMap<_, _> = found.into_iter().map(|e| (e.log_id.index, e)).collect();
        for (index, term) in &acknowledged.entries {
            let expected = entry(*term, *index, content(*term, *index));
            assert_eq!(found.get(index), Some(&expected), "round {round}");
        }
        store.close().await;
    }
    assert!(acknowledged.vote > 10);
}
