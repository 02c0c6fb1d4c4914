//! The data plane of Portcullis as a library. It names no concrete filter.

pub mod config;
pub mod http1;
pub mod normalise;
pub mod owned;
pub mod route;
