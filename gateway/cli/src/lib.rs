//! Portcullis as a library: an edge load balancer inside your own program, with filters of your own.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let gateway = portcullis::Gateway::builder().config_file("edge.yaml").start().await?;
//! println!("listening on {:?}", gateway.addresses());
//! gateway.drain().await;
//! # Ok(())
//! # }
//! ```
//!
//! A filter of your own implements [`plugin::Filter`] and [`plugin::Build`], and is named in the configuration like any
//! other: see `examples/custom-filter`.

pub use portcullis_engine::config;
pub use portcullis_engine::explain;
pub use portcullis_engine::gateway::{Builder, Handle, StartError};
/// The filter API.
pub use portcullis_plugin as plugin;

/// A gateway with every built-in filter.
pub struct Gateway;

impl Gateway {
    /// Starts with the built-in filters; add your own with [`Builder::filter`].
    pub fn builder() -> Builder {
        Builder::new(filters())
    }
}

/// The built-in filters. With [`config::inspect`] and [`explain`], a program checks and explains its own configurations:
/// add the filters of its own first.
pub fn filters() -> plugin::FilterTable {
    portcullis_plugins::table()
}
