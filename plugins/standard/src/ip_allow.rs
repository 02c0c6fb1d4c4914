//! Allows or denies clients by their address.
//!
//! ```yaml
//! - ip_allow: { allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.66.0.0/16], list: lists/partners.txt }
//! ```
//!
//! The address is that of the real client: what a trusted PROXY protocol header or `trusted_proxies` say, else the
//! peer's. A denied network wins over an allowed one. Once anything is said about who is allowed, nobody else is: a
//! list that is empty, or a file without a single network, allows nobody.

use crate::network_set::NetworkSet;
use crate::text::given;
use portcullis_plugin::units::{Network, OneOrMany};
use portcullis_plugin::{Build, ConfigError, Env, Exchange, Filter, Finding, Needs, RequestHead, Verdict, reason};
use schemars::JsonSchema;
use serde::Deserialize;

/// Which client addresses may pass. At least one key is needed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Networks in CIDR notation, or single addresses. Default: every address, if `list` is absent too.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "OneOrMany<Network>")]
    pub allow: Option<OneOrMany<Network>>,
    /// Networks that may not pass, whatever else allows them. Default: none.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "OneOrMany<Network>")]
    pub deny: Option<OneOrMany<Network>>,
    /// Files with allowed networks: one a line, `#` begins a comment. They are read again when they change. What they
    /// allow is added to `allow`.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub list: Option<OneOrMany<String>>,
    /// Files with denied networks, written likewise.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub deny_list: Option<OneOrMany<String>>,
}

pub struct IpAllow {
    /// `None`: every address that is not denied. An empty set allows nobody.
    allow: Option<NetworkSet>,
    deny: NetworkSet,
}

impl Build for IpAllow {
    const NAME: &'static str = "ip_allow";
    const EXAMPLE: &'static str = "{ allow: [10.0.0.0/8, \"2001:db8::/32\"], deny: [10.66.0.0/16] }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { allow, deny, list, deny_list } = config;
        if allow.is_none() && list.is_none() && deny_list.is_none() && deny.as_ref().is_none_or(|deny| deny.is_empty()) {
            return Err(ConfigError::new("this filter refuses nobody")
                .help("give at least one of `allow`, `list`, `deny` and `deny_list`"));
        }
        let only_denies = allow.is_none() && list.is_none();
        let mut allowed = allow.unwrap_or_default().0;
        read_lists(&list.unwrap_or_default(), "list", env, &mut allowed)?;
        let mut denied = deny.unwrap_or_default().0;
        read_lists(&deny_list.unwrap_or_default(), "deny_list", env, &mut denied)?;
        Ok(Self { allow: (!only_denies).then(|| NetworkSet::new(&allowed)), deny: NetworkSet::new(&denied) })
    }
}

impl Filter for IpAllow {
    fn request(&self, _request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let client = exchange.client();
        let hint = (client == exchange.connection().peer.ip()).then_some(
            "this is the peer itself: if it is a proxy, name it in `trusted_proxies` or the listener's `proxy_protocol`",
        );
        // Both are asked, so that an explanation shows both.
        let not_denied = self.deny.is_empty()
            || exchange.check("deny", reason::IP_DENIED, !self.deny.contains(client), || {
                let observed = match self.deny.find(client) {
                    Some(range) => format!("{client} is in the denied {range}"),
                    None => client.to_string(),
                };
                Finding { hint: hint.map(str::to_owned), ..Finding::new(format!("outside of {}", self.deny), observed) }
            });
        let allowed = self.allow.as_ref().is_none_or(|allow| {
            exchange.check("allow", reason::IP_DENIED, allow.contains(client), || Finding {
                hint: hint.map(str::to_owned),
                ..Finding::new(format!("one of {allow}"), client.to_string())
            })
        });
        if not_denied && allowed { Verdict::Continue } else { Verdict::deny(reason::IP_DENIED) }
    }

    fn needs(&self) -> Needs {
        let mut parts = Vec::new();
        if let Some(allow) = &self.allow {
            parts.push(format!("allow {}", allow.len()));
        }
        if !self.deny.is_empty() || self.allow.is_none() {
            parts.push(format!("deny {}", self.deny.len()));
        }
        Needs { combines: true, summary: Some(format!("ip({})", parts.join(", "))), ..Needs::default() }
    }
}

fn read_lists(files: &[String], key: &str, env: &Env, networks: &mut Vec<Network>) -> Result<(), ConfigError> {
    for file in files {
        let bytes = env.read(file).map_err(|error| error.at(key))?;
        read_list(&bytes, networks)
            .map_err(|(line, problem)| ConfigError::new(format!("{}:{line}: {problem}", env.resolve(file).display())).at(key))?;
    }
    Ok(())
}

/// One network a line. A line that is not one makes the whole file unusable: half a list would be another policy.
fn read_list(bytes: &[u8], networks: &mut Vec<Network>) -> Result<(), (usize, String)> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| (at + 1, "the line is not UTF-8 text".to_owned()))?;
        let network = line.split_once('#').map_or(line, |(network, _)| network).trim();
        if !network.is_empty() {
            networks.push(network.parse().map_err(|error| (at + 1, format!("{error}")))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Call, Folder, build, error};

    fn passes(yaml: &str, client: &str) -> bool {
        Call::get("/").client(client).run(&build::<IpAllow>(yaml)).is_continue()
    }

    #[test]
    fn only_the_allowed_pass() {
        let yaml = "{ allow: [10.0.0.0/8, '::1'] }";
        assert!(passes(yaml, "10.1.2.3") && passes(yaml, "::1"));
        assert!(!passes(yaml, "11.0.0.1") && !passes(yaml, "::2"));
    }

    #[test]
    fn deny_wins_over_allow() {
        let yaml = "{ allow: 10.0.0.0/8, deny: 10.66.0.0/16 }";
        assert!(passes(yaml, "10.65.0.1") && !passes(yaml, "10.66.0.1"));
        assert!(!passes("{ allow: [10.66.0.1/32], deny: [10.66.0.0/16] }", "10.66.0.1"), "even over a narrower one");
    }

    #[test]
    fn with_deny_alone_everybody_else_passes() {
        assert!(passes("{ deny: [10.66.0.0/16] }", "192.0.2.1") && !passes("{ deny: [10.66.0.0/16] }", "10.66.0.1"));
    }

    #[test]
    fn an_empty_allow_list_is_nobody_and_never_everybody() {
        let folder = Folder::new();
        folder.write("empty.txt", "# nobody yet\n\n");
        for yaml in ["{ allow: [] }", "{ allow: [], deny: [10.0.0.0/8] }", "{ list: empty.txt }", "{ list: [] }"] {
            let filter = folder.build::<IpAllow>(yaml).unwrap();
            assert!(!Call::get("/").client("127.0.0.1").run(&filter).is_continue(), "{yaml}");
        }
        // A key with nothing after it must not read as an absent key.
        let null = crate::test_support::try_build::<IpAllow>("{ allow: , deny: [10.0.0.0/8] }");
        assert!(null.is_err_and(|error| error.contains("allow")));
    }

    #[test]
    fn a_filter_that_refuses_nobody_is_an_error() {
        for yaml in ["{}", "{ deny: [] }"] {
            assert!(error::<IpAllow>(yaml).contains("refuses nobody"), "{yaml}");
        }
    }

    #[test]
    fn a_mapped_address_is_compared_as_ipv4() {
        assert!(passes("{ allow: [10.0.0.0/8] }", "::ffff:10.0.0.1"));
        assert!(!passes("{ allow: ['::/0'], deny: [10.0.0.0/8] }", "::ffff:10.0.0.1"));
        assert!(passes("{ allow: ['::ffff:10.0.0.0/104'] }", "10.0.0.1"));
    }

    #[test]
    fn the_client_is_judged_and_not_the_peer() {
        let filter = build::<IpAllow>("{ allow: [192.0.2.0/24] }");
        // The peer of `Call` is another balancer at 127.0.0.1.
        assert!(Call::get("/").client("192.0.2.9").run(&filter).is_continue());
        assert!(!Call::get("/").client("127.0.0.1").run(&filter).is_continue());
    }

    #[test]
    fn lists_are_read_with_comments_and_added_up() {
        let folder = Folder::new();
        folder.write("a.txt", "\u{feff}# partners\n10.0.0.0/8   # office\r\n\n 192.0.2.7 \n");
        folder.write("b.txt", "2001:db8::/32");
        folder.write("bad.txt", "10.9.0.0/16\n");
        let filter = folder.build::<IpAllow>("{ allow: [172.16.0.0/12], list: [a.txt, b.txt], deny_list: bad.txt }").unwrap();
        for (client, passes) in [
            ("10.1.1.1", true),
            ("192.0.2.7", true),
            ("2001:db8::1", true),
            ("172.16.0.1", true),
            ("10.9.0.1", false),
            ("192.0.2.8", false),
        ] {
            assert_eq!(Call::get("/").client(client).run(&filter).is_continue(), passes, "{client}");
        }
        assert_eq!(folder.env().files().len(), 3, "all are watched");
        assert_eq!(filter.needs().summary.as_deref(), Some("ip(allow 4, deny 1)"));
    }

    #[test]
    fn a_bad_line_names_its_file_and_number() {
        let folder = Folder::new();
        for (content, problem) in [
            ("10.0.0.0/8\n10.0.0.5/8\n", "10.0.0.0/8 or 10.0.0.5"),
            ("10.0.0.0/8\nexample.com\n", "is not a network"),
            ("10.0.0.0/8\n10.0.0.0/8 10.1.0.0/16", "is not a network"),
            ("10.0.0.0/8\n10.0.0.0/33", "is not a network"),
            ("10.0.0.0/8\n127.1", "is not a network"),
        ] {
            folder.write("list.txt", content);
            let error = folder.build::<IpAllow>("{ list: list.txt }").err().unwrap();
            assert!(error.starts_with("list: ") && error.contains("list.txt:2: ") && error.contains(problem), "{error}");
        }
        folder.write_bytes("list.txt", b"10.0.0.0/8\n\xff\n");
        assert!(folder.build::<IpAllow>("{ list: list.txt }").err().unwrap().contains("list.txt:2: the line is not UTF-8"));
        assert!(folder.build::<IpAllow>("{ list: absent.txt }").err().unwrap().contains("cannot read"));
    }

    #[test]
    fn a_hundred_thousand_entries_from_a_file() {
        let folder = Folder::new();
        let lines: Vec<String> = (0..100_000_u32).map(|n| format!("11.{}.{}.0/24", n >> 8 & 255, n & 255)).collect();
        folder.write("many.txt", &lines.join("\n"));
        let filter = folder.build::<IpAllow>("{ list: many.txt }").unwrap();
        assert!(Call::get("/").client("11.255.255.9").run(&filter).is_continue());
        assert!(!Call::get("/").client("12.0.0.0").run(&filter).is_continue());
    }

    #[test]
    fn a_refusal_says_what_was_expected_and_seen() {
        let filter = build::<IpAllow>("{ allow: [10.0.0.0/8, 172.16.0.0/12], deny: [192.0.2.0/24] }");
        let mut call = Call::get("/").client("192.0.2.7");
        assert_eq!(call.denied(&filter).reason(), reason::IP_DENIED);
        let checks = call.exchange.checks();
        assert_eq!(checks.iter().map(|check| (check.check, check.ok)).collect::<Vec<_>>(), [("deny", false), ("allow", false)]);
        assert_eq!(checks[0].finding.observed, "192.0.2.7 is in the denied 192.0.2.0 to 192.0.2.255");
        assert_eq!(checks[1].finding.expected, "one of 10.0.0.0/8, 172.16.0.0/12");
    }
}
