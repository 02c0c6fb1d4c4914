//! Portcullis inside a program of your own, with a filter of your own.
//!
//! `cargo run -p custom-filter -- edge.yaml` serves until Ctrl-C.

mod tenant;

#[cfg(test)]
mod tests;

use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = std::env::args().nth(1).unwrap_or_else(|| "edge.yaml".to_owned());
    let gateway = portcullis::Gateway::builder().config_file(config).filter::<tenant::Tenant>().start().await?;
    for (listener, address) in gateway.addresses() {
        println!("{listener} listens on {address}");
    }
    tokio::signal::ctrl_c().await?;
    gateway.drain().await;
    Ok(())
}
