//! What records say. Each is one JSON object that begins with `time` and `kind`, and one line.

use super::file::Torn;
use super::queue::Missing;
use crate::access_log::json::Object;
use crate::access_log::{Record, Tells};
use crate::decisions::{self, KeptCheck};
use portcullis_plugin::Check;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What happened to the gateway itself.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// It serves.
    Started(Configuration<'a>),
    /// Another configuration took effect.
    Reloaded(Configuration<'a>),
    /// Another configuration was refused, and the one of this generation goes on. `sha256` is missing if it could not
    /// even be read.
    Rejected { generation: u64, sha256: Option<&'a str>, error: &'a str },
    /// The configuration now names another audit log, or none.
    Moved { to: Option<&'a Path> },
    /// Somebody who may says that a token is revoked: the one of this issuer and id, or the one with this digest (of a JWT:
    /// of what is signed). `error`: why it was not taken.
    TokenRevoked { id: Option<(&'a str, &'a str)>, sha256: Option<&'a str>, until: Option<SystemTime>, error: Option<&'a str> },
    /// The admin listener was asked for what it gives only with a secret, with another (`tried`) or none.
    AdminRefused { client: Option<IpAddr>, method: &'a str, path: &'a [u8], tried: bool },
    /// It takes no more connections.
    Stopping,
    /// It has stopped. `drained`: no request was broken off.
    Stopped { drained: bool },
}

/// A configuration that runs.
#[derive(Debug, Clone, Copy)]
pub struct Configuration<'a> {
    pub generation: u64,
    /// Of its YAML files.
    pub sha256: &'a str,
    /// Name and address.
    pub listeners: &'a [(String, std::net::SocketAddr)],
    /// Of the files that the YAML files name, those whose content is another than before. Their hashes are not told: some are
    /// of secrets.
    pub files_changed: &'a [PathBuf],
}

impl Event<'_> {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started(_) => "gateway.started",
            Self::Reloaded(_) => "config.reloaded",
            Self::Rejected { .. } => "config.rejected",
            Self::Moved { .. } => "log.moved",
            Self::TokenRevoked { .. } => "token.revoked",
            Self::AdminRefused { .. } => "admin.refused",
            Self::Stopping => "gateway.stopping",
            Self::Stopped { .. } => "gateway.stopped",
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut record = begin(out, SystemTime::now(), self.kind());
        match *self {
            Self::Started(configuration) => {
                record.text("version", Some(env!("CARGO_PKG_VERSION")));
                configuration.write(&mut record);
            }
            Self::Reloaded(configuration) => {
                configuration.write(&mut record);
                record.objects("files_changed", configuration.files_changed, |path, file| {
                    file.text("path", Some(path.as_os_str().as_encoded_bytes()));
                });
            }
            Self::Rejected { generation, sha256, error } => {
                record.number("generation", Some(generation));
                record.text("config_sha256", sha256);
                record.text("error", Some(error));
            }
            Self::Moved { to } => record.text("to", to.map(|path| path.as_os_str().as_encoded_bytes())),
            Self::TokenRevoked { id, sha256, until, error } => {
                record.text("iss", id.map(|(issuer, _)| issuer));
                record.text("jti", id.map(|(_, jti)| jti));
                record.text("token_sha256", sha256);
                match until {
                    Some(until) => record.time("until", until),
                    None => record.text("until", None::<&str>),
                }
                record.text("error", error);
            }
            Self::AdminRefused { client, method, path, tried } => {
                record.text("client", client.map(|client| client.to_string()));
                record.text("method", Some(method));
                record.text("path", Some(path));
                record.text("secret", Some(if tried { "wrong" } else { "none" }));
            }
            Self::Stopping => {}
            Self::Stopped { drained } => record.flag("drained", drained),
        }
        record.end();
    }
}

impl Configuration<'_> {
    fn write(&self, record: &mut Object<'_>) {
        record.number("generation", Some(self.generation));
        record.text("config_sha256", Some(self.sha256));
        record.objects("listeners", self.listeners, |(name, address), listener| {
            listener.text("name", Some(name));
            listener.plain("address", address);
        });
    }
}

/// One request: the members of its line in the access log, and the checks that failed.
pub(super) fn decision(out: &mut Vec<u8>, record: &Record<'_>, checks: &[Check]) {
    let (checks, left_out) = decisions::keep(checks);
    let mut object = begin(out, record.time, "decision");
    record.members(&mut object, Tells::default());
    object.objects("checks", &checks, |kept: &KeptCheck, check| {
        check.text("filter", Some(kept.filter));
        check.text("check", Some(kept.check));
        check.flag("ok", kept.ok);
        check.text("reason", Some(kept.reason));
        if let Some(group) = kept.group.as_deref() {
            check.text("group", Some(group));
        }
        if kept.shadow {
            check.flag("shadow", true);
        }
        check.text("expected", Some(&kept.expected));
        check.text("observed", Some(&kept.observed));
        check.text("hint", kept.hint.as_ref());
    });
    object.number("checks_left_out", Some(left_out as u64));
    object.end();
}

/// A file was opened by a gateway that starts, or whose configuration names it from now on.
pub(super) fn opened(out: &mut Vec<u8>, keyed: bool, torn: Option<&Torn>) {
    let mut record = begin(out, SystemTime::now(), "log.opened");
    record.flag("keyed", keyed);
    record.object("torn", torn, |torn, object| {
        object.number("bytes", Some(torn.bytes.len() as u64));
        object.plain("sha256", torn.sha256);
        object.text("text", Some(&torn.bytes));
    });
    record.end();
}

/// The first of a file that took another's place while the gateway ran. With its line feed.
pub(super) fn rotated(out: &mut Vec<u8>) {
    begin(out, SystemTime::now(), "log.rotated").end();
    out.push(b'\n');
}

/// With its line feed.
pub(super) fn missing(out: &mut Vec<u8>, missing: &Missing) {
    let mut record = begin(out, SystemTime::now(), "log.missing");
    record.number("lost", Some(missing.lost));
    record.number("refused", Some(missing.refused));
    record.time("since", missing.since.unwrap_or_else(SystemTime::now));
    record.end();
    out.push(b'\n');
}

fn begin<'o>(out: &'o mut Vec<u8>, time: SystemTime, kind: &'static str) -> Object<'o> {
    let mut record = Object::begin(out);
    record.time("time", time);
    record.text("kind", Some(kind));
    record
}
