//! Reads a chain again, and says what was done to it.

use super::chain::{Hash, Head, Link, Seal};
use super::file::MAX_LINE;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Findings that are told; more are counted.
const TOLD: usize = 1000;

/// What is known of a chain from elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anchors {
    /// The hash of the record before the first.
    pub after: Option<Hash>,
    /// The hash of the last record.
    pub last: Option<Hash>,
    /// The hash of a record that was the last at some time, and must still be there.
    pub contains: Option<Hash>,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub records: u64,
    /// Number of the first record.
    pub first: Option<u64>,
    /// Number and hash of the last record.
    pub last: Option<u64>,
    pub hash: Option<String>,
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
    /// Records that the gateway itself says it could not write: an outage of the disk, not a finding.
    pub missing: u64,
}

/// One place where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: String,
    pub line: u64,
    #[serde(flatten)]
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    #[error("this is no record of an audit log")]
    NoRecord,
    #[error("there is no record at all: the file was emptied, or is another one")]
    Empty,
    #[error("record {seq} was changed: its hash is not that of its content")]
    Changed { seq: u64 },
    #[error("{} before record {seq}", missing(*from, *seq))]
    Removed { from: u64, seq: u64 },
    #[error("record {seq} stands where {due} is due: it was moved, repeated or inserted")]
    Misplaced { seq: u64, due: u64 },
    #[error("record {seq} does not follow the one before it: that one was replaced, or this one inserted")]
    Unlinked { seq: u64 },
    #[error("the last line is cut off: by a crash, or by hand")]
    CutOff,
    #[error("the chain begins at record {seq}: give the files before it too, or the hash of the record before with --after")]
    NoBeginning { seq: u64 },
    #[error("no record has the hash given with --contains: the end was cut off or written anew before it")]
    NotContained,
    #[error("the first record does not follow the hash given with --after")]
    OtherBeginning,
    #[error(
        "the last record is {seq}, and not the one given with --expect-last: the end was cut off or written anew, or it has gone on since"
    )]
    OtherEnd { seq: u64 },
}

impl Problem {
    /// The record is not what was sealed, or the seal is that of another key.
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Changed { .. })
    }
}

fn missing(from: u64, seq: u64) -> String {
    if from + 1 == seq { format!("record {from} is missing") } else { format!("records {from} to {} are missing", seq - 1) }
}

impl Report {
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether no record at all has the seal it should: the key is another one, rather than every record changed.
    pub fn looks_like_another_key(&self) -> bool {
        let changed = self.findings.iter().filter(|finding| finding.problem.is_change()).count() as u64;
        self.records > 0 && changed >= self.records.min(TOLD as u64)
    }
}

/// Reads the files of one chain, the oldest first.
///
/// # Errors
/// If a file cannot be read.
pub fn verify(files: &[PathBuf], seal: &Seal, anchors: Anchors) -> Result<Report, (PathBuf, io::Error)> {
    let mut reading = Reading { report: Report::default(), head: None, place: (String::new(), 0), anchors, contained: false };
    for path in files {
        reading.file(path, seal).map_err(|error| (path.clone(), error))?;
    }
    let Reading { mut report, head, place, contained, .. } = reading;
    let last = head.unwrap_or(Head { seq: 0, hash: anchors.after.unwrap_or_default() });
    if head.is_some() {
        (report.last, report.hash) = (Some(last.seq), Some(last.hash.to_string()));
    }
    if report.records == 0 && report.holds() {
        report.find(place.clone(), Problem::Empty);
    }
    if anchors.contains.is_some() && !contained {
        report.find(place.clone(), Problem::NotContained);
    }
    if anchors.last.is_some_and(|expected| expected != last.hash) {
        report.find(place, Problem::OtherEnd { seq: last.seq });
    }
    Ok(report)
}

impl Report {
    fn find(&mut self, (file, line): (String, u64), problem: Problem) {
        if self.findings.len() < TOLD {
            self.findings.push(Finding { file, line, problem });
        } else {
            self.findings_left_out += 1;
        }
    }
}

struct Reading {
    report: Report,
    /// The last record in order.
    head: Option<Head>,
    place: (String, u64),
    anchors: Anchors,
    contained: bool,
}

impl Reading {
    fn file(&mut self, path: &Path, seal: &Seal) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
        self.place = (path.display().to_string(), 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            self.place.1 += 1;
            match line.strip_suffix(b"\n") {
                Some(line) => self.line(line, seal),
                // Not a long one: the reader has no more.
                None if reader.fill_buf()?.is_empty() => self.find(Problem::CutOff),
                None => {
                    self.find(Problem::NoRecord);
                    skip_line(&mut reader)?;
                }
            }
        }
    }

    fn find(&mut self, problem: Problem) {
        self.report.find(self.place.clone(), problem);
    }

    fn line(&mut self, line: &[u8], seal: &Seal) {
        // As JSON too: what other tools cannot read is no record, whatever its hash.
        let record = serde_json::from_slice::<serde_json::Value>(line).ok();
        let (Some(link), Some(record)) = (seal.read_line(line), record) else { return self.find(Problem::NoRecord) };
        self.report.records += 1;
        self.report.first.get_or_insert(link.seq);
        self.contained |= link.holds && self.anchors.contains == Some(link.hash);
        if !link.holds {
            self.find(Problem::Changed { seq: link.seq });
        } else if record["kind"] == "log.missing" {
            self.report.missing += record["lost"].as_u64().unwrap_or(0) + record["refused"].as_u64().unwrap_or(0);
        }
        match self.head {
            None => self.begins(link),
            Some(head) if link.seq > head.seq + 1 => self.find(Problem::Removed { from: head.seq + 1, seq: link.seq }),
            // What stands here twice does not move the place where the chain is.
            Some(head) if link.seq <= head.seq => return self.find(Problem::Misplaced { seq: link.seq, due: head.seq + 1 }),
            Some(head) if link.prev != head.hash => self.find(Problem::Unlinked { seq: link.seq }),
            Some(_) => {}
        }
        self.head = Some(link.head());
    }

    fn begins(&mut self, link: Link) {
        match self.anchors.after {
            Some(after) if after != link.prev => self.find(Problem::OtherBeginning),
            None if link.seq != 1 => self.find(Problem::NoBeginning { seq: link.seq }),
            None if link.prev != Hash::default() => self.find(Problem::Unlinked { seq: link.seq }),
            _ => {}
        }
    }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    let mut rest = Vec::new();
    loop {
        rest.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut rest)?;
        if read == 0 || rest.ends_with(b"\n") {
            return Ok(());
        }
    }
}
