//! Stub of the module; filled by its own change.
