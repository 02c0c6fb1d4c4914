//! `portcullis demo`: an issuer, two upstreams, certificates and a gateway in one process. It sends itself requests that
//! are allowed and refused, shows each with its explanation, and stays up to be tried.

mod cases;
mod stage;

use super::{FINDING, GOOD, colours, exit, fail, log_to_stderr, print, runtime};
use owo_colors::OwoColorize;
use stage::Stage;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// The port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// The folder for certificates, tokens and the configuration. Default: a new one, removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End after the tour instead of staying up.
    #[arg(long)]
    once: bool,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

pub fn run(arguments: Arguments) -> ExitCode {
    log_to_stderr("error");
    let runtime = match runtime(None) {
        Ok(runtime) => runtime,
        Err(error) => return fail(FINDING, error),
    };
    let code = runtime.block_on(async {
        match show(&arguments).await {
            Ok(true) => exit(GOOD),
            Ok(false) => fail(FINDING, "the demo did not go as it should: see the lines marked `unexpected`"),
            Err(error) => fail(FINDING, error),
        }
    });
    runtime.shutdown_background();
    code
}

async fn show(arguments: &Arguments) -> Result<bool, Failure> {
    let kept = arguments.dir.is_some();
    // Removed when it goes out of scope.
    let temporary = if kept { None } else { Some(tempfile::tempdir()?) };
    let folder = match (&arguments.dir, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => return Err("no folder".into()),
    };
    let stage = Stage::set(&folder, arguments.port).await?;
    let colour = colours(&std::io::stdout());
    print(&format!(
        "Portcullis demo\n\n  gateway     https://{}\n  metrics     http://{}/metrics\n  issuer      {}\n  upstreams   {} (weight 3), {} (weight 1)\n  files       {}\n\n",
        stage.address(),
        stage.admin(),
        stage.issuer(),
        stage.blue(),
        stage.green(),
        folder.display()
    ));
    let mut good = true;
    for case in cases::all(&stage)? {
        let shown = case.play(&stage).await?;
        let title = if colour { shown.title.bold().to_string() } else { shown.title.clone() };
        print(&format!("{title}\n{}\n", indent(&shown.text)));
        good &= shown.as_expected;
    }
    let (blue, green) = cases::share(&stage, 40).await?;
    print(&format!(
        "Of 40 more requests, {blue} went to the first upstream and {green} to the second: their weights are 3 and 1.\n\n"
    ));
    good &= (blue, green) == (30, 10);
    if arguments.once {
        stage.close().await;
        return Ok(good);
    }
    print(&stage.invitation());
    tokio::signal::ctrl_c().await?;
    print("\n");
    stage.close().await;
    Ok(good)
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
