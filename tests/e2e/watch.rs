//! Pods looked at again and again while something happens to them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use shoal_tests::deploy::{Site, is_ready};

const EVERY: Duration = Duration::from_millis(100);

/// Tells the watcher that the story is over, also where it panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What `story` returns, and most of `replicas` pods that were missing or not ready at once
/// meanwhile.
pub fn most_down<T>(site: &Site<'_>, replicas: usize, story: impl FnOnce() -> T) -> (T, usize) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                if let Ok(pods) = site.pods() {
                    most = most.max(down(&pods, replicas));
                }
                thread::sleep(EVERY);
            }
            most
        });
        let told = {
            let _over = Over(&over);
            story()
        };
        (told, watcher.join().unwrap())
    })
}

fn down(pods: &[Pod], replicas: usize) -> usize {
    replicas.saturating_sub(pods.iter().filter(|pod| is_ready(pod)).count())
}
