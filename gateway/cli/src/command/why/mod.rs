//! `portcullis why`: asks a running gateway about one decision, or which there are.

mod ask;
mod list;

use super::report::{Report, printable};
use super::{FINDING, GOOD, USAGE, colours, exit, fail, input, print};
use ask::{Answer, DEFAULT_ADMIN};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// For the whole question.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Arguments {
    /// The decision id, as in the response's `x-decision-id` and in the access log.
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    id: Option<String>,
    /// List the latest decisions instead, the newest first: those that the options below select.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    selection: list::Selection,
    /// The gateway's admin listener. Default: http://127.0.0.1:9090
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<String>,
    /// The gateway's configuration, to find its admin listener and token in.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the admin listener's bearer token; `-` for standard input. Default: what the configuration names.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let asked = prepare(&arguments).and_then(|question| {
        let Question { place, path, token } = &question;
        let runtime = super::runtime(Some(1)).map_err(|error| error.to_string())?;
        let answer = runtime.block_on(async {
            let answer = ask::ask(place, path, token.as_deref());
            tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err("it did not answer in time".into()))
        });
        runtime.shutdown_background();
        let guessed = arguments.admin.is_none() && arguments.config.is_none();
        answer.map_err(|error| unanswered(place, &error.to_string(), guessed))
    });
    match asked {
        Err(message) => fail(USAGE, message),
        Ok(Answer::Unreadable(message)) => fail(USAGE, printable(&message)),
        Ok(Answer::Unknown(message)) => {
            if arguments.json {
                print(&format!("{:#}\n", json!({ "error": message })));
            }
            fail(FINDING, printable(&message))
        }
        Ok(Answer::Known(value)) if arguments.json => {
            print(&format!("{value:#}\n"));
            exit(GOOD)
        }
        Ok(Answer::Known(value)) => match text(value, arguments.list) {
            Ok(text) => {
                print(&text);
                exit(GOOD)
            }
            Err(error) => fail(USAGE, format!("the gateway's answer is not one of this version: {error}")),
        },
    }
}

/// `guessed`: nobody has named the place, and so it may be another.
fn unanswered(place: &str, error: &str, guessed: bool) -> String {
    let hint = if guessed { "; if its admin listener is elsewhere, say so with --admin URL or -c FILE" } else { "" };
    format!("cannot ask the gateway at http://{place}: {error}{hint}")
}

fn text(value: Value, list: bool) -> serde_json::Result<String> {
    let colour = colours(&std::io::stdout());
    if list {
        serde_json::from_value::<list::Listing>(value).map(|listing| listing.render())
    } else {
        serde_json::from_value::<Report>(value).map(|report| report.render(colour))
    }
}

struct Question {
    /// `host:port` of the admin listener.
    place: String,
    path: String,
    /// What the listener asks for.
    token: Option<String>,
}

fn prepare(arguments: &Arguments) -> Result<Question, String> {
    let path = match &arguments.id {
        None => format!("/decisions{}", arguments.selection.query()),
        Some(id) if id.len() == 24 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) => {
            format!("/decisions/{id}")
        }
        Some(_) => return Err("a decision id is 24 digits of 0-9 and a-f, as in the response's `x-decision-id`".into()),
    };
    let (place, configured) = match &arguments.config {
        Some(path) => ask::configured(path)?,
        None => (ask::place(arguments.admin.as_deref().unwrap_or(DEFAULT_ADMIN))?, None),
    };
    let file = arguments.token_file.as_ref().or(configured.as_ref());
    // The first line, as the gateway reads it.
    let first = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    Ok(Question { place, path, token: file.map(|file| input::token(file).map(first)).transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_named_no_gateway_is_told_how_to() {
        let told = unanswered("127.0.0.1:9090", "Connection refused", true);
        assert!(told.contains("127.0.0.1:9090: Connection refused; ") && told.contains("--admin URL or -c FILE"), "{told}");
        assert!(unanswered("edge:9090", "Connection refused", false).ends_with("Connection refused"));
    }
}
