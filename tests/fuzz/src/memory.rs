//! What a decoder takes of the heap while it runs, by an allocator that counts.
//!
//! It counts for each thread apart. A binary that does not install it measures nothing; the
//! tests do, and check that they did.

#![allow(unsafe_code)] // an allocator cannot be written without

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, with a count of what this thread holds and held at most.
pub struct Counting;

fn add(bytes: usize) {
    // A thread that ends has no counters any more, and nobody who would read them.
    let _ = HELD.try_with(|held| {
        let now = held.get().wrapping_add(bytes as isize);
        held.set(now);
        PEAK.try_with(|peak| peak.set(peak.get().max(now)))
    });
}

fn take(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().wrapping_sub(bytes as isize)));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promises are those that the system asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        // Old and new stand side by side while one is copied to the other.
        add(new);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(at, layout, new) };
        take(layout.size());
        moved
    }
}

/// The most that `work` held at once beyond what this thread held before it.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before).max(0) as usize)
}
