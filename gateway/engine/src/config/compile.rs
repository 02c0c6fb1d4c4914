//! From what the configuration says to what runs. Everything is decoded, looked up and built here; nothing per request.
//!
//! Every raw struct is taken apart field by field, without `..`: a key that is added to `raw` and forgotten here does
//! not compile. How a key reloads follows from that: the whole snapshot is made anew and swapped, sockets and the state
//! that filters and pools keep by name are carried over.

use super::check::needs::{Chained, Door, check_needs};
use super::check::{check, check_filter_order};
use super::decode::{decode_filter, decode_members};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::filter_entry::FilterEntry;
use super::findings::Findings;
use super::load::Loaded;
use super::raw;
use super::snapshot::{Action, ListenerPlan, ListenerRoute, RedirectPlan, RoutePlan, Snapshot};
use crate::access_log::AccessLog;
use crate::admin::AdminSettings;
use crate::audit::AuditLog;
use crate::chain::{Chain, Entry};
use crate::decisions::Decisions;
use crate::forwarded::TrustedProxies;
use crate::forwarded_cert::ForwardedCertificates;
use crate::group::{Combination, MAX_DEPTH, MAX_MEMBERS, Member, group};
use crate::http1::HeadLimits;
use crate::listen::{ListenerSettings, TlsSettings};
use crate::metrics::Metrics;
use crate::normalise::Policy;
use crate::owned::OwnedHeaders;
use crate::pool::{Pool, split::Split};
use crate::route::Router;
use portcullis_identity::Issuers;
use portcullis_identity::assertion::AssertionSigner;
use portcullis_identity::certificate::CertificateHeader;
use portcullis_plugin::env::{Contents, Kept};
use portcullis_plugin::error::{Segment, unknown_name};
use portcullis_plugin::{BodyAccess, ConfigError, Env, Filter, FilterTable, Mode, Reply, Scheme};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a snapshot is compiled for.
pub enum Purpose<'a> {
    /// To run. `log` and `audit` are the logs that are open already, and `decisions` are those kept already.
    Serve { log: &'a AccessLog, audit: &'a AuditLog, decisions: &'a Arc<Decisions> },
    /// To be looked at: nothing is opened or bound. Keys may be given; else an issuer is asked when a token needs it.
    Inspect { keys: Option<&'a [u8]> },
}

/// What a compilation stands on.
pub struct Context<'a> {
    pub table: &'a FilterTable,
    pub metrics: &'a Arc<Metrics>,
    pub kept: &'a Arc<Kept>,
    pub generation: u64,
    pub purpose: Purpose<'a>,
}

/// Compiles a configuration, or says everything that is wrong with it. With the snapshot come the warnings.
///
/// # Errors
/// If a key cannot be enforced as it is written.
pub fn compile(mut loaded: Loaded, context: &Context<'_>) -> Result<(Snapshot, Vec<Diagnostic>), Diagnostics> {
    let raw = std::mem::take(&mut loaded.raw);
    let mut build = Build {
        loaded: &loaded,
        context,
        env: Env::new(&loaded.base, context.metrics.registry().clone(), Arc::clone(context.kept)),
        findings: Findings::default(),
        faults: Vec::new(),
        owned: Vec::new(),
        chains: Vec::new(),
    };
    check(&raw, &mut build.findings);
    for name in Combination::ALL.map(Combination::name).into_iter().filter(|name| context.table.get(name).is_some()) {
        build.findings.error(ConfigError::new(format!("this program has a filter called `{name}`, which combines filters here")));
    }
    let snapshot = build.snapshot(raw);
    let Build { mut findings, faults, env, .. } = build;
    findings.drop_consequences();
    let mut diagnostics = loaded.diagnostics(&findings);
    for fault in faults {
        diagnostics.push(fault);
    }
    match snapshot {
        Some(mut snapshot) if !diagnostics.has_errors() => {
            snapshot.files = loaded.files.clone();
            snapshot.files.extend(env.files());
            snapshot.contents = env.contents();
            snapshot.files.sort();
            snapshot.files.dedup();
            Ok((snapshot, diagnostics.warnings().cloned().collect()))
        }
        _ => {
            diagnostics.watch(env.files());
            Err(diagnostics)
        }
    }
}

struct Build<'a> {
    loaded: &'a Loaded,
    context: &'a Context<'a>,
    env: Env,
    findings: Findings,
    faults: Vec<Diagnostic>,
    owned: Vec<String>,
    /// Of each chain that could be built, to judge them together.
    chains: Vec<Chained>,
}

impl Build<'_> {
    /// `None` if something has been found that leaves nothing to build. What can be built is built all the same, so that
    /// its own findings are told too.
    fn snapshot(&mut self, raw: raw::Config) -> Option<Snapshot> {
        let raw::Config {
            include: _,
            listeners,
            admin,
            trusted_proxies,
            access_log,
            audit_log,
            issuers,
            assertion,
            pools,
            routes,
            shutdown,
        } = raw;
        let raw::Shutdown { drain } = shutdown;
        let issuers = match &self.context.purpose {
            Purpose::Inspect { keys: Some(keys) } => Issuers::offline(&issuers, &self.env, Some(keys)),
            // Nothing is fetched before a token asks for it, or `start` does.
            Purpose::Serve { .. } => Issuers::compile(&issuers, &self.env),
            Purpose::Inspect { keys: None } => Issuers::patient(&issuers, &self.env),
        };
        let issuers = self.findings.take(issuers);
        if let Some(issuers) = &issuers {
            self.env.offer(Arc::clone(issuers));
        }
        let assertion = assertion.and_then(|assertion| {
            let signer = AssertionSigner::compile(&assertion, &self.env);
            self.findings.take(signer).map(Arc::new)
        });
        if let Some(signer) = &assertion {
            self.env.offer(Arc::clone(signer));
        }
        let pools = self.pools(pools);
        let admin = admin.and_then(|admin| {
            let settings = AdminSettings::compile(admin, &self.env);
            self.findings.take(settings)
        });
        if let (Some(issuers), true) = (&issuers, admin.as_ref().is_some_and(AdminSettings::takes_revocations)) {
            issuers.revocations().open();
        }
        let matches: Vec<_> = routes.iter().map(|route| (route.listeners.clone(), route.matches.clone())).collect();
        let routes: Vec<Option<Arc<RoutePlan>>> =
            routes.into_iter().enumerate().map(|(at, route)| self.route(at, route, &pools).map(Arc::new)).collect();
        let door = |listener: &raw::Listener| Door {
            name: listener.name.clone(),
            certificates: listener.client_cert.is_some() || listener.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some()),
        };
        let doors: Vec<Door> = listeners.iter().map(door).collect();
        let listeners: Vec<_> = listeners
            .into_iter()
            .enumerate()
            .filter_map(|(at, listener)| self.listener(at, listener, &matches, &routes).map(Arc::new))
            .collect();
        let routed: Vec<Vec<String>> = matches.into_iter().map(|(listeners, _)| listeners).collect();
        check_needs(&self.chains, &doors, &routed, &mut self.findings);
        let access_log = self.access_log(access_log);
        let audit = self.audit_log(audit_log);
        // Who can write one of these is whom he likes: they are no client's to send, also where nobody reads them here.
        self.owned.extend(CertificateHeader::ALL.map(str::to_owned));
        let owned = OwnedHeaders::new(std::mem::take(&mut self.owned));
        let routes: Vec<_> = routes.into_iter().collect::<Option<_>>()?;
        if !self.findings.is_ok() || !self.faults.is_empty() {
            return None;
        }
        Some(Snapshot {
            generation: self.context.generation,
            listeners,
            routes,
            pools: pools.into_values().collect(),
            issuers: issuers?,
            owned,
            trusted_proxies: TrustedProxies::new(trusted_proxies),
            admin,
            access_log: access_log?,
            audit: audit?,
            assertion,
            sha256: self.loaded.sources.sha256(),
            decisions: match &self.context.purpose {
                Purpose::Serve { decisions, .. } => Arc::clone(decisions),
                Purpose::Inspect { .. } => Decisions::off(),
            },
            drain: drain.get(),
            files: Vec::new(),
            contents: Contents::default(),
        })
    }

    fn access_log(&mut self, log: Option<raw::AccessLog>) -> Option<AccessLog> {
        match &self.context.purpose {
            Purpose::Inspect { .. } => Some(AccessLog::off()),
            Purpose::Serve { log: running, .. } => {
                let compiled = AccessLog::compile(log, &self.env, Some(running), self.context.metrics);
                self.findings.take(compiled)
            }
        }
    }

    fn audit_log(&mut self, log: Option<raw::AuditLog>) -> Option<AuditLog> {
        match &self.context.purpose {
            Purpose::Inspect { .. } => {
                let compiled = AuditLog::inspect(log, &self.env);
                self.findings.take(compiled)
            }
            Purpose::Serve { audit: running, .. } => {
                let compiled = AuditLog::compile(log, &self.env, running, self.context.metrics);
                self.findings.take(compiled)
            }
        }
    }

    fn pools(&mut self, raw: BTreeMap<String, raw::Pool>) -> BTreeMap<String, Arc<Pool>> {
        let mut pools = BTreeMap::new();
        for (name, pool) in raw {
            let compiled =
                Pool::compile(&name, pool, &self.env, self.context.metrics).map_err(|error| error.at(name.as_str()).at("pools"));
            if let Some(pool) = self.findings.take(compiled) {
                pools.insert(name, pool);
            }
        }
        pools
    }

    fn chain(&mut self, owner: &str, place: &[Segment], entries: Vec<FilterEntry>) -> Option<Chain> {
        let mut built = Some(Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            let path = [place, &["filters".into(), at.into()]].concat();
            // State is kept by the filter's place among its own kind: another filter put in front loses none of it.
            let nth = entries[..at].iter().filter(|earlier| earlier.name == entry.name).count();
            let made = self.entry(owner, nth, &path, entry);
            match (made, &mut built) {
                (Some(made), Some(list)) => list.push(made),
                _ => built = None,
            }
        }
        let built = built?;
        let needs: Vec<_> = built.iter().map(|entry: &Entry| (entry.name, entry.filter.needs())).collect();
        let mut order = Findings::default();
        check_filter_order(false, needs.iter().map(|(name, needs)| (*name, needs)), &mut order);
        for warning in order.warnings() {
            self.findings.warning(place.iter().rev().fold(warning.clone(), |error, step| error.at(step.clone())));
        }
        let filters = built.iter().zip(needs).map(|(entry, (name, needs))| (name, entry.mode, needs)).collect();
        self.chains.push(Chained { place: place.to_vec(), filters });
        Some(Chain::new(built))
    }

    fn entry(&mut self, owner: &str, nth: usize, path: &[Segment], entry: &FilterEntry) -> Option<Entry> {
        let FilterEntry { name, mode } = entry;
        let (known, filter) = match Combination::named(name) {
            Some(combination) => {
                let group = Place { owner, scope: &format!("{owner}/{name}/{nth}"), label: name, path, depth: 1 };
                (combination.name(), self.group(combination, &group)?)
            }
            None => self.filter(&format!("{owner}/{name}/{nth}"), path, entry)?,
        };
        // Also of a filter that is off: switching it on must not be the moment a client's copy is first removed.
        self.owned.extend(filter.needs().owned_headers);
        if *mode == Mode::Off {
            let warning = ConfigError::new(format!("`{name}` is off: it is checked for errors and does nothing"));
            self.findings.warning(placed(path, warning.at(name.as_str())));
        }
        Some(Entry::new(known, *mode, filter, self.context.metrics.filter(owner, known, *mode)))
    }

    /// The members of a group, and the filter that stands for it.
    fn group(&mut self, combination: Combination, group_place: &Place<'_>) -> Option<Arc<dyn Filter>> {
        let Place { owner, scope, label, path, depth } = *group_place;
        let name = combination.name();
        let inner = [path, &[name.into()]].concat();
        if depth > MAX_DEPTH {
            let error = ConfigError::new(format!("groups stand within each other at most {MAX_DEPTH} deep"));
            self.findings.error(placed(&inner, error));
            return None;
        }
        let entries = match decode_members(&self.loaded.tree, path, name) {
            Ok(entries) => entries,
            Err(faults) => {
                self.faults.extend(faults.into_iter().map(|fault| self.loaded.fault(fault)));
                return None;
            }
        };
        if !(2..=MAX_MEMBERS).contains(&entries.len()) {
            let error = ConfigError::new(format!("`{name}` has {} members, and takes 2 to {MAX_MEMBERS}", entries.len()))
                .help("a filter that stands alone needs no group");
            self.findings.error(placed(&inner, error));
            return None;
        }
        let mut members = Some(Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            let nth = entries[..at].iter().filter(|earlier| earlier.name == entry.name).count();
            let path = [inner.as_slice(), &[at.into()]].concat();
            let (scope, label) = (format!("{scope}/{}/{nth}", entry.name), format!("{label}/{}", entry.name));
            let made = self.member(entry, &Place { owner, scope: &scope, label: &label, path: &path, depth });
            match (made, &mut members) {
                (Some(made), Some(list)) => list.push(made),
                _ => members = None,
            }
        }
        let place = (depth > 1).then(|| member_place(path));
        members.map(|members| group(combination, place, members))
    }

    fn member(&mut self, entry: &FilterEntry, place: &Place<'_>) -> Option<Member> {
        let FilterEntry { name, mode } = entry;
        if *mode != Mode::Enforce {
            let error = ConfigError::new("a member of a group has no mode of its own").help("give `mode` to the group");
            self.findings.error(placed(place.path, error.at("mode")));
            return None;
        }
        let (known, filter) = match Combination::named(name) {
            Some(combination) => (combination.name(), self.group(combination, &Place { depth: place.depth + 1, ..*place })?),
            None => self.filter(place.scope, place.path, entry)?,
        };
        let needs = filter.needs();
        let touches_bodies = needs.request_body != BodyAccess::None || needs.response_body != BodyAccess::None;
        if !needs.combines || touches_bodies || needs.answers_preflights {
            let error = ConfigError::new(format!("`{name}` cannot be a member of a group as it stands here"))
                .help("members only judge, and need their credential: no `optional: true`, no `require: false`, no DPoP nonces");
            self.findings.error(placed(place.path, error.at(name.as_str())));
            return None;
        }
        let metrics = self.context.metrics.filter(place.owner, place.label, Mode::Enforce);
        Some(Member { name: known, place: member_place(place.path), filter, metrics })
    }

    /// One filter of the table, and its name there. `scope` is where it keeps its state.
    fn filter(&mut self, scope: &str, path: &[Segment], entry: &FilterEntry) -> Option<(&'static str, Arc<dyn Filter>)> {
        let FilterEntry { name, mode: _ } = entry;
        let pending = match decode_filter(&self.loaded.tree, path, entry, self.context.table) {
            Ok(pending) => pending,
            Err(faults) => {
                self.faults.extend(faults.into_iter().map(|fault| self.loaded.fault(fault)));
                return None;
            }
        };
        let factory = self.context.table.get(name)?;
        let env = self.env.scoped(scope);
        let filter = self.findings.take(pending(&env).map_err(|error| placed(path, error.at(name.as_str()))))?;
        Some((factory.name, filter))
    }

    fn route(&mut self, at: usize, route: raw::Route, pools: &BTreeMap<String, Arc<Pool>>) -> Option<RoutePlan> {
        let raw::Route { name, matches: _, listeners: _, filters, pool, split, redirect, respond } = route;
        let place: [Segment; 2] = ["routes".into(), at.into()];
        let placed = |error: ConfigError| error.at(at).at("routes");
        let chain = self.chain(&name, &place, filters);
        // `check` has said so if it is not exactly one.
        let action = match (pool, split, redirect, respond) {
            (Some(pool), None, None, None) => {
                self.findings.take(find(pools, &pool).map_err(|error| placed(error.at("pool")))).map(Action::Pool)
            }
            (None, Some(shares), None, None) => {
                let split = compile_split(shares, pools).map_err(|error| placed(error.at("split")));
                self.findings.take(split).map(Action::Split)
            }
            (None, None, Some(redirect), None) => {
                let plan = compile_redirect(redirect).map_err(|error| placed(error.at("redirect")));
                self.findings.take(plan).map(Action::Redirect)
            }
            (None, None, None, Some(respond)) => {
                let reply = compile_respond(respond).map_err(|error| placed(error.at("respond")));
                self.findings.take(reply).map(Action::Respond)
            }
            _ => None,
        };
        Some(RoutePlan { name: name.into(), chain: chain?, action: action? })
    }

    fn listener(
        &mut self,
        at: usize,
        listener: raw::Listener,
        matches: &[(Vec<String>, raw::Match)],
        routes: &[Option<Arc<RoutePlan>>],
    ) -> Option<ListenerPlan> {
        let raw::Listener { name, address, tls, client_cert, proxy_protocol, h2c, driver, filters, limits, normalise } = listener;
        let place: [Segment; 2] = ["listeners".into(), at.into()];
        let placed = |error: ConfigError| error.at(at).at("listeners");
        let had_tls = tls.is_some();
        let tls = tls.and_then(|tls| {
            let compiled = TlsSettings::compile(tls, &self.env).map_err(|error| placed(error.at("tls")));
            self.findings.take(compiled)
        });
        for warning in tls.iter().flat_map(|tls| tls.warnings()) {
            self.findings.warning(placed(warning.clone().at("tls")));
        }
        let forwarded = client_cert.map(|raw| {
            let compiled = ForwardedCertificates::compile(raw, &self.env).map_err(|error| placed(error.at("client_cert")));
            self.findings.take(compiled)
        });
        let proxy_trust = proxy_protocol.map(|raw::ProxyProtocol { trust }| trust);
        let chain = self.chain(&format!("listener:{name}"), &place, filters);
        let mine: Vec<usize> = matches
            .iter()
            .enumerate()
            .filter(|(_, (listeners, _))| listeners.is_empty() || listeners.contains(&name))
            .map(|(at, _)| at)
            .collect();
        let patterns = mine.iter().enumerate().filter_map(|(place, at)| Some((place, &matches.get(*at)?.1))).collect();
        // An error names the place among this listener's routes; the file has it among all.
        let router = Router::new(patterns).map_err(|error| reroute(error, &mine));
        let router = self.findings.take(router);
        let router = router.map(|router| {
            let answers = |place: usize| {
                mine.get(place).and_then(|at| routes.get(*at)?.as_ref()).is_some_and(|route| route.chain.answers_preflights())
            };
            router.answering_preflights(answers)
        });
        let served: Option<Vec<_>> = mine.iter().map(|at| routes.get(*at)?.clone()).collect();
        let metrics = self.context.metrics;
        let routes =
            served?.into_iter().map(|route| ListenerRoute { metrics: metrics.route(&name, &route.name), route }).collect();
        let head_limits = HeadLimits::from(&limits);
        let body_limit = limits.body.map(|body| body.0);
        if had_tls && tls.is_none() {
            return None;
        }
        Some(ListenerPlan {
            address,
            policy: Policy::from(&normalise),
            head_limits,
            body_limit,
            driver,
            forwarded: match forwarded {
                None => None,
                Some(compiled) => Some(compiled?),
            },
            chain: chain?,
            router: router?,
            routes,
            unrouted: metrics.route(&name, ""),
            metrics: metrics.listener(&name),
            settings: Arc::new(ListenerSettings { name: name.into(), tls, proxy_trust, h2c, limits }),
        })
    }
}

/// Where a filter stands that is built.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The route or listener.
    owner: &'a str,
    /// Names the state that it keeps.
    scope: &'a str,
    /// Its name in the metrics.
    label: &'a str,
    path: &'a [Segment],
    /// Groups around it.
    depth: usize,
}

/// `any_of/0/all_of/1` of `routes[2].filters[0].any_of[0].all_of[1]`: what of a member's path is within its filter's entry.
fn member_place(path: &[Segment]) -> Arc<str> {
    let name = |step: &Segment| match step {
        Segment::Key(key) => key.clone(),
        Segment::Index(index) => index.to_string(),
    };
    let within = path.iter().position(|step| matches!(step, Segment::Key(key) if Combination::named(key).is_some()));
    path.iter().skip(within.unwrap_or(0)).map(name).collect::<Vec<_>>().join("/").into()
}

fn placed(path: &[Segment], error: ConfigError) -> ConfigError {
    path.iter().rev().fold(error, |error, step| error.at(step.clone()))
}

/// `routes[place among a listener's].…` as the file counts.
fn reroute(error: ConfigError, mine: &[usize]) -> ConfigError {
    let mut steps = error.path().to_vec();
    if let Some(Segment::Index(place)) = steps.get_mut(1) {
        *place = mine.get(*place).copied().unwrap_or(*place);
    }
    let mut moved = ConfigError::new(error.message());
    if let Some(help) = error.help_text() {
        moved = moved.help(help);
    }
    if let Some(within) = error.place() {
        moved = moved.within(within.offset, within.words.as_str());
    }
    steps.into_iter().rev().fold(moved, |error, step| error.at(step))
}

fn find(pools: &BTreeMap<String, Arc<Pool>>, name: &str) -> Result<Arc<Pool>, ConfigError> {
    pools.get(name).cloned().ok_or_else(|| unknown_name("pool", name, pools.keys().map(String::as_str)))
}

fn compile_split(shares: Vec<raw::Share>, pools: &BTreeMap<String, Arc<Pool>>) -> Result<Split, ConfigError> {
    let shares = shares.into_iter().enumerate().map(|(at, raw::Share { pool, weight })| {
        find(pools, &pool).map(|pool| (pool, weight)).map_err(|error| error.at("pool").at(at))
    });
    Split::compile(shares.collect::<Result<_, _>>()?)
}

fn compile_redirect(redirect: raw::Redirect) -> Result<RedirectPlan, ConfigError> {
    let raw::Redirect { status, scheme, host, port, path, keep_query } = redirect;
    let scheme = scheme.map(|scheme| match scheme {
        raw::RedirectScheme::Http => Scheme::Http,
        raw::RedirectScheme::Https => Scheme::Https,
    });
    let printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if let Some(host) = &host
        && (!printable(host) || host.is_empty() || host.contains(['/', '?', '#', '@', '\\']))
    {
        return Err(ConfigError::new(format!("`{host}` is not a host"))
            .help("write a name without scheme, port or path")
            .at("host"));
    }
    if let Some(path) = &path
        && (!printable(path) || !path.starts_with('/') || path.starts_with("//"))
    {
        return Err(ConfigError::new(format!("`{path}` is not a path")).help("start it with one `/`").at("path"));
    }
    Ok(RedirectPlan { status, scheme, host, port, path, keep_query })
}

fn compile_respond(respond: raw::Respond) -> Result<Reply, ConfigError> {
    let raw::Respond { status, body, content_type, headers } = respond;
    let mut reply = Reply::new(status).body(content_type.as_deref().unwrap_or("text/plain; charset=utf-8"), body);
    if reply.headers.get("content-type").is_none() {
        return Err(ConfigError::new("the content type is not a header value").at("content_type"));
    }
    for (name, value) in &headers {
        reply.headers.set(name, value).map_err(|error| ConfigError::new(error.to_string()).at(name.as_str()).at("headers"))?;
    }
    Ok(reply)
}
