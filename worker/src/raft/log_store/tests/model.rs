//! Random histories against the simplest log there is: a list.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append {
        count: u64,
        size: usize,
    },
    /// Drops as many of the newest entries, and begins a new term.
    Truncate(u64),
    /// Purges as many of the oldest entries.
    Purge(u64),
    /// Purges all entries and some that never came: a snapshot was installed.
    Leap(u64),
    Read {
        from: u64,
        length: u64,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40_u64, 0..3_000_usize).prop_map(|(count, size)| Step::Append { count, size }),
        1 => (1..4_u64).prop_map(|count| Step::Append { count, size: TAIL_BYTES / 3 }),
        2 => (1..30_u64).prop_map(Step::Truncate),
        2 => (1..30_u64).prop_map(Step::Purge),
        1 => (1..9_u64).prop_map(Step::Leap),
        3 => (0..60_u64, 0..60_u64).prop_map(|(from, length)| Step::Read { from, length }),
        1 => Just(Step::Restart),
    ]
}

#[derive(Default)]
struct Model {
    term: u64,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    async fn take(&mut self, step: &Step, store: &mut LogStore) {
        match step {
            Step::Append { count, size } => {
                let new: Vec<_> = (self.next()..self.next() + count)
                    .map(|index| entry(self.term, index, vec![index as u8; *size]))
                    .collect();
                self.entries.extend(new.iter().cloned());
                append(store, new).await.unwrap();
            }
            Step::Truncate(count) => {
                let keep = self.entries.len().saturating_sub(*count as usize);
                self.entries.truncate(keep);
                store.truncate_after(self.last()).await.unwrap();
                self.term += 1;
            }
            Step::Purge(count) => {
                let gone = self.entries.drain(..self.entries.len().min(*count as usize));
                if let Some(last) = gone.last() {
                    self.purged = Some(last.log_id);
                    store.purge(last.log_id).await.unwrap();
                }
            }
            Step::Leap(far) => {
                let upto = id(self.term, self.next() + far);
                self.entries.clear();
                self.purged = Some(upto);
                store.purge(upto).await.unwrap();
            }
            Step::Read { from, length } => self.compare(store, *from, *length).await,
            Step::Restart => {}
        }
    }

    async fn compare(&self, store: &mut LogStore, from: u64, length: u64) {
        let first = self.entries.first().map_or(0, |entry| entry.log_id.index);
        let range = first + from..first + from + length;
        let wanted: Vec<_> =
            self.entries.iter().filter(|e| range.contains(&e.log_id.index)).cloned().collect();
        let read = store.try_get_log_entries(range.clone()).await.unwrap();
        assert_eq!(read, wanted);
        let some = store.limited_get_log_entries(range.start, range.end).await.unwrap();
        assert!(wanted.starts_with(&some) && some.is_empty() == wanted.is_empty());
    }

    async fn compare_all(&self, store: &mut LogStore) {
        let state = store.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (self.purged, self.last()));
        assert_eq!(store.try_get_log_entries(..).await.unwrap(), self.entries);
        let extent = store.extent();
        assert_eq!(extent.entries, self.entries.len() as u64);
        assert_eq!(extent.first, self.next() - extent.entries);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_list(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut store = open(dir.path()).unwrap();
            let mut model = Model::default();
            for step in &steps {
                if let Step::Restart = step {
                    store.close().await;
                    store = open(dir.path()).unwrap();
                }
                model.take(step, &mut store).await;
                model.compare_all(&mut store).await;
            }
        });
    }
}
