//! `raw` is what the file says; `compile` turns it into the immutable `snapshot` that runs.

pub mod filter_entry;
pub mod raw;
