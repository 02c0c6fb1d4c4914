//! One file a command.

pub mod apikey;
pub mod audit;
pub mod check;
pub mod demo;
pub mod explain;
mod input;
pub mod replay;
mod report;
pub mod run;
pub mod schema;
pub mod test;
pub mod version;
pub mod why;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Nothing was found.
pub const GOOD: u8 = 0;
/// There is a finding: a request that is refused, a configuration that does not hold.
pub const FINDING: u8 = 1;
/// Wrong usage, or something that cannot be read.
pub const USAGE: u8 = 2;

/// Whether output may have colours: a terminal that has not asked for none (<https://no-color.org>).
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints, and does not mind a reader that has left (`| head`).
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub fn exit(code: u8) -> ExitCode {
    ExitCode::from(code)
}

/// Says what went wrong and how it ends.
pub fn fail(code: u8, message: impl std::fmt::Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "portcullis: {message}");
    exit(code)
}

/// A runtime for a command that serves.
pub fn runtime(threads: Option<usize>) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.max(1));
    }
    builder.enable_all().build()
}

/// The gateway's own log: what it does, never what a request carries.
pub fn log_to_stderr(default: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("PORTCULLIS_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours(&std::io::stderr()))
        .with_target(false)
        .try_init();
}
