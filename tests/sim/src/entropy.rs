//! The kernel's random numbers, replaced: hash maps and the runtime's own choices ask for them
//! too, and a seed must decide those as well.
#![allow(unsafe_code)] // a symbol of the C library is replaced

use shoal_worker::env::random;

/// Stands before the C library's for this whole program.
///
/// # Safety
/// `buffer` is valid for `length` bytes, as for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller says so.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random::u64().to_le_bytes()[..chunk.len()]);
    }
    length as isize
}
