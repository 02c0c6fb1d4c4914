//! `portcullis version`

use super::{GOOD, exit, print};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    if arguments.json {
        print(&format!("{}\n", serde_json::json!({ "name": "portcullis", "version": version })));
    } else {
        print(&format!("portcullis {version}\n"));
    }
    exit(GOOD)
}
