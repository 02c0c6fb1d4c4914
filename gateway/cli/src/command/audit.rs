//! `portcullis audit verify`: whether an audit log is as the gateway wrote it.

use super::{FINDING, GOOD, USAGE, exit, fail, print, report::printable};
use portcullis_engine::audit::chain::{Hash, Seal};
use portcullis_engine::audit::verify::{Anchors, Report, verify};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Find records that were removed, changed, moved or inserted. Exit code 0: the chain holds; 1: it does not; 2: wrong usage,
    /// or a file that cannot be read.
    Verify(Verify),
}

#[derive(clap::Args)]
struct Verify {
    /// The files of one chain, the oldest first.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The key that the log is sealed with, as in `audit_log.key_file`.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// What the last record's hash must be, such as the admin listener's /audit/head gave it. Without it, an end that was cut
    /// off cannot be seen.
    #[arg(long, value_name = "HASH", value_parser = hash)]
    expect_last: Option<Hash>,
    /// The hash of a record that must be there, such as the admin listener gave it some time ago.
    #[arg(long, value_name = "HASH", value_parser = hash)]
    contains: Option<Hash>,
    /// The hash of the record before the first, where the first files of the chain are not at hand.
    #[arg(long, value_name = "HASH", value_parser = hash)]
    after: Option<Hash>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

fn hash(text: &str) -> Result<Hash, &'static str> {
    Hash::parse(text).ok_or("a hash is 64 digits of 0-9 and a-f")
}

pub fn run(arguments: Arguments) -> ExitCode {
    let Command::Verify(arguments) = arguments.command;
    let seal = match arguments.key_file.as_deref().map(Seal::read_file).transpose() {
        Ok(seal) => seal.unwrap_or_default(),
        Err(error) => return fail(USAGE, error),
    };
    let anchors = Anchors { after: arguments.after, last: arguments.expect_last, contains: arguments.contains };
    let report = match verify(&arguments.files, &seal, anchors) {
        Ok(report) => report,
        Err((path, error)) => return fail(USAGE, format!("cannot read {}: {error}", path.display())),
    };
    if arguments.json {
        let mut value = serde_json::json!(report);
        value["ok"] = report.holds().into();
        print(&format!("{value:#}\n"));
    } else {
        print(&render(&report, &seal, anchors));
    }
    exit(if report.holds() { GOOD } else { FINDING })
}

fn render(report: &Report, seal: &Seal, anchors: Anchors) -> String {
    let mut out = String::new();
    let other_key = report.looks_like_another_key();
    // Writing to memory cannot fail.
    if other_key {
        let hint = match seal.is_keyed() {
            true => "no record at all has the seal it should: is it another key?",
            false => "no record at all has the seal it should: was the log sealed with a key? Give --key-file",
        };
        let _ = writeln!(out, "{hint}");
    }
    // With the wrong key, a line for each record says nothing more.
    for finding in report.findings.iter().filter(|finding| !(other_key && finding.problem.is_change())) {
        let _ = writeln!(out, "{}:{}: {}", printable(&finding.file), finding.line, finding.problem);
    }
    if report.findings_left_out > 0 && !other_key {
        let _ = writeln!(out, "and {} more", report.findings_left_out);
    }
    if let (Some(first), Some(last), Some(hash)) = (report.first, report.last, &report.hash) {
        let _ = writeln!(out, "{} records, {first} to {last}; the last has the hash {hash}", report.records);
    }
    if report.missing > 0 {
        let _ = writeln!(out, "{} more were never written: see the records of kind log.missing", report.missing);
    }
    let verdict = match (report.holds(), anchors.last) {
        (false, _) => "the chain does not hold",
        (true, Some(_)) => "the chain holds, and ends where it should",
        (true, None) if anchors.contains.is_some() => "the chain holds, and goes at least as far as it should",
        (true, None) => "the chain holds; whether its end was cut off is not known without --expect-last or --contains",
    };
    let _ = writeln!(out, "{verdict}");
    out
}
