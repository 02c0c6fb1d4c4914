//! The tree as typed configuration, through serde, with the place of every finding and as many findings as there are.
//!
//! serde stops at the first error. So the part of the tree that is to blame is left out and the whole read again, until
//! nothing more is found; findings that only come from leaving something out are dropped. Filters are read behind a
//! trait object, which turns errors into strings; what was found first within one reading is therefore also kept beside.

mod decoder;
mod literal;
mod problem;

use super::document::{Entry, Fault, Node, NodeId, SourceId};
use super::filter_entry::FilterEntry;
use super::parse::parse;
use crate::group::Combination;
use decoder::Decoder;
use portcullis_plugin::error::{Segment, unknown_name};
use portcullis_plugin::filter::Pending;
use portcullis_plugin::{FilterFactory, FilterTable};
use problem::Problem;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

/// Nobody mends more at once, and each costs a reading.
const MAX_FAULTS: usize = 50;

/// Reads the tree as a `T`, or says everything that is wrong with it.
///
/// # Errors
/// If the tree is not a `T`.
pub fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<Fault>> {
    collect(node, None, |decoder| T::deserialize(decoder))
}

/// Reads the configuration of one filter, which `path` leads to, with the type that the table has for its name.
///
/// # Errors
/// If the table has no such filter, or its configuration is not of the filter's type.
pub fn decode_filter(tree: &Node, path: &[Segment], entry: &FilterEntry, table: &FilterTable) -> Result<Pending, Vec<Fault>> {
    let place = tree.nearest(path);
    let written = place.entry(&entry.name);
    let key_span = written.map_or(place.mark(), |entry| entry.key.span);
    let Some(factory) = table.get(&entry.name) else {
        let names = table.names().chain(Combination::ALL.map(Combination::name));
        let error = unknown_name("filter", &entry.name, names);
        let mut fault = Fault::new(error.message(), key_span);
        fault.help = error.help_text().map(str::to_owned);
        return Err(vec![fault]);
    };
    let Some(written) = written else {
        return Err(vec![Fault::new(format!("the configuration of `{}` is missing", entry.name), key_span)]);
    };
    let pending = collect(&written.value, Some(&written.key), |decoder| {
        factory.decode(&mut <dyn erased_serde::Deserializer<'_>>::erase(decoder))
    });
    pending.map_err(|faults| faults.into_iter().map(|fault| beside(fault, written)).collect())
}

/// `mode` belongs to every filter, and so stands beside its name. Within it, few filters know one of their own.
fn beside(fault: Fault, filter: &Entry) -> Fault {
    let is_mode = |entry: &Entry| entry.name() == "mode" && Some(entry.key.span) == fault.span;
    if fault.message == "unknown key `mode`" && filter.value.entries().iter().any(is_mode) {
        let name = filter.name();
        return fault.help(format!("write it beside `{name}`, not within: `- {name}: {{ … }}`, and `mode: …` in a line below"));
    }
    fault
}

/// Reads the members of a group, which `path` leads to, as entries: their own configurations are read one by one.
///
/// # Errors
/// If it is not a list of entries.
pub fn decode_members(tree: &Node, path: &[Segment], group: &str) -> Result<Vec<FilterEntry>, Vec<Fault>> {
    let place = tree.nearest(path);
    match place.entry(group) {
        Some(written) => collect(&written.value, Some(&written.key), |decoder| Vec::<FilterEntry>::deserialize(decoder)),
        None => Err(vec![Fault::new(format!("the members of `{group}` are missing"), place.mark())]),
    }
}

/// Reads the example that a filter gives of itself, as a configuration would be read.
///
/// # Errors
/// If the example is not one.
pub fn decode_example(factory: &FilterFactory) -> Result<Pending, Vec<Fault>> {
    let mut faults = Vec::new();
    match parse(factory.example, SourceId::default(), &mut faults) {
        Some(node) if faults.is_empty() => {
            collect(&node, None, |decoder| factory.decode(&mut <dyn erased_serde::Deserializer<'_>>::erase(decoder)))
        }
        _ => Err(faults),
    }
}

/// What is wrong with the filters of a tree whose other parts may be wrong too.
pub fn filter_faults(tree: &Node, table: &FilterTable) -> Vec<Fault> {
    let mut faults = Vec::new();
    for section in ["listeners", "routes"] {
        let holders = tree.get(section).map(Node::items).unwrap_or_default();
        for list in holders.iter().filter_map(|holder| holder.get("filters")) {
            list.items().iter().for_each(|item| entry_faults(item, table, &mut faults));
        }
    }
    faults
}

/// The depth is that of the document, which is bounded.
fn entry_faults(item: &Node, table: &FilterTable, faults: &mut Vec<Fault>) {
    let Ok(entry) = decode::<FilterEntry>(item) else { return };
    if Combination::named(&entry.name).is_some() {
        match decode_members(item, &[], &entry.name) {
            Ok(_) => item.get(&entry.name).into_iter().flat_map(Node::items).for_each(|item| entry_faults(item, table, faults)),
            Err(found) => faults.extend(found),
        }
    } else if let Err(found) = decode_filter(item, &[], &entry, table) {
        faults.extend(found);
    }
}

fn collect<'de, T, E: fmt::Display>(
    node: &'de Node,
    key: Option<&'de Node>,
    mut read: impl FnMut(Decoder<'de, '_>) -> Result<T, E>,
) -> Result<T, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut reading = Reading::default();
    loop {
        let error = match read(Decoder { node, key, slot: None, reading: &reading }) {
            Ok(value) if faults.is_empty() => return Ok(value),
            Ok(_) => return Err(faults),
            Err(error) => error,
        };
        // Every error passes a decoder, which notes it; the string is for an error that a filter made of nothing.
        let problem = reading.first.take().unwrap_or_else(|| {
            let mut problem = Problem::new(error.to_string());
            problem.span = Some(node.mark());
            problem
        });
        let slot = problem.slot;
        if !problem.secondary {
            faults.push(problem.into_fault());
        }
        match slot {
            Some(slot) if faults.len() < MAX_FAULTS && reading.ignored.insert(slot) => {}
            // All were secondary: they then have a cause which was not, so this is never empty in practice. A finding
            // must not turn into success.
            _ if faults.is_empty() => return Err(vec![Fault::new("cannot be read", node.mark())]),
            _ => return Err(faults),
        }
    }
}

/// One pass over a tree.
#[derive(Default)]
struct Reading {
    /// Entries (by key) and list items that were found wrong before.
    ignored: HashSet<NodeId>,
    first: RefCell<Option<Problem>>,
}
