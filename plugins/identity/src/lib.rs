pub mod config;
pub use config::IssuerConfig;
