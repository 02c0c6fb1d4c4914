//! What no request could ever satisfy, or would silently not do: judged by what the filters of a chain say that they need.

use crate::config::findings::Findings;
use portcullis_plugin::error::Segment;
use portcullis_plugin::{ConfigError, Mode, Needs};
use std::collections::HashMap;

/// The filters of one chain in order, also those that are off.
pub struct Chained {
    /// `routes[2]`, `listeners[0]`.
    pub place: Vec<Segment>,
    pub filters: Vec<(&'static str, Mode, Needs)>,
}

/// A listener, as far as routes behind it are concerned.
pub struct Door {
    pub name: String,
    /// It asks for client certificates, or takes those that a proxy hands on.
    pub certificates: bool,
}

/// Warns of filters that refuse every request, and of those that stand where they do nothing. `routed` are the listeners of
/// each route; none are all.
pub fn check_needs(chains: &[Chained], doors: &[Door], routed: &[Vec<String>], findings: &mut Findings) {
    let placed: HashMap<(&str, usize), &Chained> = chains
        .iter()
        .filter_map(|chain| match &chain.place[..] {
            [Segment::Key(key), Segment::Index(at)] => Some(((&**key, *at), chain)),
            _ => None,
        })
        .collect();
    let at = |section: &'static str, index: usize| placed.get(&(section, index)).copied();
    let finds_out = |chain: &Chained| chain.filters.iter().any(|(_, mode, needs)| *mode == Mode::Enforce && may(needs));
    for (index, door) in doors.iter().enumerate() {
        let Some(chain) = at("listeners", index) else { continue };
        judge(chain, finds_out(chain), door.certificates, "this listener asks for no client certificate", findings);
    }
    for (index, listeners) in routed.iter().enumerate() {
        let Some(chain) = at("routes", index) else { continue };
        let mine = || doors.iter().enumerate().filter(|(_, door)| listeners.is_empty() || listeners.contains(&door.name));
        let known = finds_out(chain) || mine().any(|(door, _)| at("listeners", door).is_some_and(finds_out));
        let certificates = mine().any(|(_, door)| door.certificates);
        judge(chain, known, certificates, "no listener of this route asks for a client certificate", findings);
    }
}

fn may(needs: &Needs) -> bool {
    needs.authenticates || needs.may_authenticate
}

fn judge(chain: &Chained, known: bool, certificates: bool, without: &str, findings: &mut Findings) {
    for (index, (name, mode, needs)) in chain.filters.iter().enumerate() {
        let mut warn = |message: String, help: &str| {
            let warning = ConfigError::new(message).help(help).at(*name).at(index).at("filters");
            findings.warning(chain.place.iter().rev().fold(warning, |warning, step| warning.at(step.clone())));
        };
        let enforced = *mode == Mode::Enforce;
        if enforced && needs.requires_principal && !known {
            warn(
                format!("`{name}` refuses every request: no filter before it finds out who is calling"),
                "put one before it that does, such as `oidc`, `api_key` or `client_cert`",
            );
        }
        if enforced && needs.requires_certificate && !certificates {
            warn(
                format!("`{name}` refuses every request: {without}"),
                "give a listener with `tls` a `client_auth`, or one behind a proxy that ends TLS a `client_cert`",
            );
        }
        let refuses = |needs: &Needs| may(needs) || needs.combines || needs.reads_identity || needs.answers_preflights;
        let before = chain.filters.iter().take(index).find(|(_, mode, needs)| *mode == Mode::Enforce && refuses(needs));
        if let (true, Some((before, ..))) = (needs.comes_first && *mode != Mode::Off, before) {
            warn(
                format!("`{name}` sees nothing of what `{before}` refuses, which comes before it"),
                &format!("put `{name}` first"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(chains: Vec<Chained>, certificates: &[bool], routed: &[&[&str]]) -> Vec<String> {
        let doors: Vec<Door> = certificates
            .iter()
            .enumerate()
            .map(|(at, certificates)| Door { name: format!("l{at}"), certificates: *certificates })
            .collect();
        let routed: Vec<Vec<String>> = routed.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect();
        let mut findings = Findings::default();
        check_needs(&chains, &doors, &routed, &mut findings);
        findings.warnings().iter().map(ToString::to_string).collect()
    }

    fn chain(section: &str, index: usize, filters: &[(&'static str, Mode, &Needs)]) -> Chained {
        let filters = filters.iter().map(|(name, mode, needs)| (*name, *mode, (*needs).clone())).collect();
        Chained { place: vec![section.into(), index.into()], filters }
    }

    #[test]
    fn a_filter_that_refuses_everybody_is_told_and_one_that_may_not_is_not() {
        let finds = Needs { may_authenticate: true, ..Needs::default() };
        let requires = Needs { requires_principal: true, ..Needs::default() };
        let (on, shadow) = (Mode::Enforce, Mode::Shadow);
        let route = |filters: &[_]| vec![chain("routes", 0, filters)];
        let alone = told(route(&[("authorize", on, &requires)]), &[false], &[&[]]);
        assert!(
            matches!(&alone[..], [one] if one.starts_with("routes[0].filters[0].authorize: `authorize` refuses every")),
            "{alone:?}"
        );
        for filters in [&[("oidc", on, &finds), ("authorize", on, &requires)][..], &[("authorize", shadow, &requires)]] {
            assert_eq!(told(route(filters), &[false], &[&[]]), [""; 0]);
        }
        // Who is shadowed has found out nothing.
        assert_eq!(told(route(&[("oidc", shadow, &finds), ("authorize", on, &requires)]), &[false], &[&[]]).len(), 1);
        // A filter of the listener has, for the routes behind it.
        for (listeners, warnings) in [(&["l0"][..], 0), (&[], 0), (&["l1"], 1)] {
            let chains =
                vec![chain("routes", 0, &[("authorize", on, &requires)]), chain("listeners", 0, &[("oidc", on, &finds)])];
            assert_eq!(told(chains, &[false, false], &[listeners]).len(), warnings, "{listeners:?}");
        }
    }

    #[test]
    fn a_certificate_must_come_from_somewhere() {
        let requires = Needs { requires_certificate: true, ..Needs::default() };
        for (doors, listeners, warnings) in
            [(&[false][..], &[][..], 1), (&[true], &[], 0), (&[false, true], &[], 0), (&[false, true], &["l0"], 1)]
        {
            let chains = vec![chain("routes", 0, &[("client_cert", Mode::Enforce, &requires)])];
            assert_eq!(told(chains, doors, &[listeners]).len(), warnings, "{doors:?} {listeners:?}");
        }
    }

    #[test]
    fn what_comes_first_is_told_of_what_comes_before() {
        let (debug, oidc) = (Needs { comes_first: true, ..Needs::default() }, Needs { authenticates: true, ..Needs::default() });
        let plain = Needs::default();
        let told = |filters: &[_]| told(vec![chain("routes", 0, filters)], &[false], &[&[]]);
        assert_eq!(told(&[("oidc", Mode::Enforce, &oidc), ("debug", Mode::Enforce, &debug)]).len(), 1);
        assert_eq!(told(&[("debug", Mode::Enforce, &debug), ("oidc", Mode::Enforce, &oidc)]).len(), 0);
        assert_eq!(told(&[("request_id", Mode::Enforce, &plain), ("debug", Mode::Enforce, &debug)]).len(), 0);
    }
}
