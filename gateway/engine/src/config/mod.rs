//! From text to a running configuration: `load` [`parse`]s the files into a [`document`] tree and [`decode`]s that into
//! [`raw`], which is what the files say; `check` judges it; `compile` turns it into the immutable `snapshot` that runs.
//! Every finding on the way becomes a [`diagnostic`] with its place.

pub mod check;
pub mod compile;
pub mod decode;
pub mod diagnostic;
pub mod document;
pub mod environment;
pub mod file;
pub mod filter_entry;
pub mod findings;
pub mod inspect;
pub mod load;
pub mod parse;
pub mod raw;
pub mod reference;
pub mod schema;
pub mod snapshot;
mod within;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use load::{Loaded, Loader, load, load_str};

#[cfg(test)]
mod tests;
