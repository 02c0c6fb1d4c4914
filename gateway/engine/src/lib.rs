//! The data plane of Portcullis as a library. It names no concrete filter.

pub mod access_log;
pub mod admin;
pub mod config;
pub mod metrics;
pub mod rescue;
