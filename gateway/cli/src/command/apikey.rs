//! `portcullis apikey`: new API keys, and their lines for the file of the `api_key` filter.

use super::{FINDING, GOOD, USAGE, exit, fail, input, print};
use portcullis_plugin::units::TimeSpan;
use portcullis_plugins::api_key::{Entry, MAX_LENGTH, NewKey, NoLine};
use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::SystemTime;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a key, show it once, and print its line for the file of keys, which has its hash only. Exit code 0: made; 2: wrong
    /// usage.
    New(New),
    /// Print the line of a key that is read from standard input, such as one that was made elsewhere. Exit code 0: printed; 1: the
    /// key is none or could be guessed; 2: wrong usage.
    Hash(Hash),
}

#[derive(clap::Args)]
struct New {
    #[command(flatten)]
    entry: EntryArguments,
}

#[derive(clap::Args)]
struct Hash {
    #[command(flatten)]
    entry: EntryArguments,
    /// Nothing: what stands here is refused, and not repeated as an unknown argument would be.
    #[arg(hide = true)]
    key: Vec<OsString>,
}

#[derive(clap::Args)]
struct EntryArguments {
    /// Who answers for the key. It becomes the principal's client id, and the first part of its subject.
    #[arg(long, value_name = "NAME")]
    owner: String,
    /// What the key is called, in the file and in logs. Default: `key-` and the first digits of its hash.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A scope that the key has. May be given several times.
    #[arg(long = "scope", value_name = "S")]
    scopes: Vec<String>,
    /// A role that the key has. May be given several times.
    #[arg(long = "role", value_name = "R")]
    roles: Vec<String>,
    /// When the key ends: a time from now such as 90d or 12h, or one such as 2027-01-31T00:00:00Z. Default: never.
    #[arg(long, value_name = "WHEN", value_parser = end)]
    expires: Option<SystemTime>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// An end that has passed would make a key that opens nothing.
fn end(text: &str) -> Result<SystemTime, String> {
    let now = SystemTime::now();
    let end = match text.parse::<TimeSpan>() {
        Ok(span) => now.checked_add(span.get()).ok_or_else(|| format!("`{text}` is too long a time"))?,
        Err(_) => input::time(text)
            .map_err(|_| format!("`{text}` is neither a time from now such as 90d, nor one such as 2027-01-31T00:00:00Z"))?,
    };
    if end > now { Ok(end) } else { Err(format!("`{text}` has passed")) }
}

pub fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::New(New { entry }) => new(entry),
        Command::Hash(Hash { key, .. }) if !key.is_empty() => fail(
            USAGE,
            "a key is read from standard input, never from an argument: other users of this machine could see it, and the shell \
             would remember it",
        ),
        Command::Hash(Hash { entry, .. }) => hash(entry),
    }
}

impl EntryArguments {
    fn entry(self) -> Entry {
        let Self { owner, id, scopes, roles, expires, json: _ } = self;
        Entry { id, owner, scopes, roles, expires }
    }
}

fn new(arguments: EntryArguments) -> ExitCode {
    let json = arguments.json;
    let Some(key) = NewKey::random() else { return fail(USAGE, "the system gives no random numbers") };
    let line = match arguments.entry().line(key.expose()) {
        Ok(line) => line,
        Err(error) => return fail(USAGE, error),
    };
    if json {
        let value = serde_json::json!({ "key": key.expose(), "id": line.id, "expires": line.expires, "line": line.text });
        print(&format!("{value:#}\n"));
    } else {
        print(&format!(
            "the key, which is shown this once:\n  {}\nits line for the file of keys, which holds no secret:\n  {}\n",
            key.expose(),
            line.text
        ));
    }
    exit(GOOD)
}

fn hash(arguments: EntryArguments) -> ExitCode {
    let json = arguments.json;
    let key = match read_key() {
        Ok(key) => key,
        Err(message) => return fail(USAGE, message),
    };
    let line = match arguments.entry().line(&key) {
        Ok(line) => line,
        Err(error @ NoLine::Entry(_)) => return fail(USAGE, error),
        Err(error) => return fail(FINDING, error),
    };
    if json {
        let value = serde_json::json!({ "id": line.id, "expires": line.expires, "line": line.text });
        print(&format!("{value:#}\n"));
    } else {
        print(&format!("{}\n", line.text));
    }
    exit(GOOD)
}

/// One key, and a line break after it or not. What is wrong with it is said without showing it.
fn read_key() -> Result<String, String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        // The line alone is the output.
        let _ = writeln!(std::io::stderr(), "the key, and then Enter and Ctrl-D:");
    }
    let mut text = String::new();
    // More than any key has, so that one that is too long is called so.
    let most = MAX_LENGTH as u64 + 16;
    stdin.take(most).read_to_string(&mut text).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => "what came on standard input is not text".to_owned(),
        _ => format!("cannot read the key: {error}"),
    })?;
    let key = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    match key.is_empty() {
        true => Err("no key came on standard input".to_owned()),
        false => Ok(key.to_owned()),
    }
}
