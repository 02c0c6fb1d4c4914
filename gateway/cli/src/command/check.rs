//! `portcullis check`

use super::{FINDING, GOOD, colours, exit, print};
use comfy_table::{ContentArrangement, Table, presets};
use portcullis::config::inspect::{self, Inspection};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// A YAML file, or a directory whose `*.yaml` files are merged in name order.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let colour = colours(&std::io::stdout());
    match inspect::inspect(&arguments.config, &portcullis_plugins::table(), None) {
        Err(diagnostics) => {
            if arguments.json {
                print(&format!("{:#}\n", serde_json::json!({ "ok": false, "findings": diagnostics.to_json() })));
            } else {
                print(&diagnostics.render(colour));
            }
            exit(FINDING)
        }
        Ok(inspection) => {
            if arguments.json {
                print(&format!("{:#}\n", inspection.to_json()));
            } else {
                print(&table(&inspection, colour));
            }
            exit(GOOD)
        }
    }
}

fn table(inspection: &Inspection, colour: bool) -> String {
    let mut out = String::new();
    for warning in inspection.warnings() {
        out.push_str(&warning.render(colour));
        out.push('\n');
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["route", "listeners", "matches", "asks for", "then"]);
    for route in inspection.routes() {
        let asks = if route.security.is_empty() { "nothing: open to anyone".to_owned() } else { route.security.join("\n") };
        table.add_row([&route.name, &route.listeners.join(", "), &route.matches, &asks, &route.action]);
    }
    out.push_str(&table.to_string());
    out.push_str(&format!("\n{}: the configuration holds\n", inspection.name()));
    out
}
