//! The rules of a roll, one by one and together.
