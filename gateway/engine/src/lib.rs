//! The data plane of Portcullis as a library. It names no concrete filter.

pub mod config;
pub mod listen;
