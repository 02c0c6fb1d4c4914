//! `portcullis run`

use super::{FINDING, GOOD, USAGE, colours, exit, fail, log_to_stderr, runtime};
use portcullis::{Gateway, Handle, StartError};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args)]
pub struct Arguments {
    /// A YAML file, or a directory whose `*.yaml` files are merged in name order.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Threads that serve. Default: one for each processor.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Reload only on SIGHUP, not when a file changes.
    #[arg(long)]
    no_watch: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    log_to_stderr("info,pingora=warn,pingora_core=warn,pingora_proxy=warn");
    let runtime = match runtime(arguments.threads) {
        Ok(runtime) => runtime,
        Err(error) => return fail(FINDING, format!("no threads to serve with: {error}")),
    };
    let code = runtime.block_on(serve(arguments));
    // What has not ended by now is not waited for.
    runtime.shutdown_background();
    code
}

async fn serve(arguments: Arguments) -> ExitCode {
    let builder = Gateway::builder().config_file(arguments.config).watch_files(!arguments.no_watch);
    let gateway = match builder.start().await {
        Ok(gateway) => gateway,
        Err(StartError::Configuration(diagnostics)) => {
            eprint!("{}", diagnostics.render(colours(&std::io::stderr())));
            return exit(USAGE);
        }
        Err(error) => return fail(FINDING, error),
    };
    match signals(&gateway).await {
        Ok(()) => {}
        Err(error) => return fail(FINDING, format!("no signals: {error}")),
    }
    let within = gateway.drain_time();
    tracing::info!(within = ?within, "draining");
    if gateway.drain().await {
        tracing::info!("every request has ended");
        exit(GOOD)
    } else {
        tracing::warn!("requests were broken off: they took longer than `shutdown.drain`");
        exit(GOOD)
    }
}

/// Until it is time to go.
async fn signals(gateway: &Handle) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reload = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = reload.recv() => {
                gateway.reopen_logs();
                // Logged and counted where it happens; what runs goes on either way.
                let _ = gateway.reload().await;
            }
        }
    }
}
