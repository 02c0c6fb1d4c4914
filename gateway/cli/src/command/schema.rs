//! `portcullis schema`

use super::{GOOD, exit, print};
use portcullis::config::{reference, schema};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// What to print.
    #[arg(value_enum, default_value_t = What::Json)]
    what: What,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The JSON Schema (2020-12) that editors complete and check with.
    Json,
    /// The configuration reference, as Markdown.
    Reference,
    /// The table of reason codes, as Markdown.
    Reasons,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let table = portcullis_plugins::table();
    print(&match arguments.what {
        What::Json => format!("{:#}\n", schema::schema(&table)),
        What::Reference => reference::reference(&table),
        What::Reasons => reference::reasons(),
    });
    exit(GOOD)
}
