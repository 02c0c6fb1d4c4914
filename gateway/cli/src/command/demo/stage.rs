//! Everything the demo needs, started and written to one folder.

use super::Failure;
use portcullis::config::inspect::{self, Inspection};
use portcullis::{Gateway, Handle};
use portcullis_testkit::pki::{Identity, Pki, Usage};
use portcullis_testkit::provider::Provider;
use portcullis_testkit::token::TokenSpec;
use portcullis_testkit::upstream::Upstream;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const CONFIGURATION: &str = include_str!("edge.yaml");
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub const AUDIENCE: &str = "https://api.example.test";

pub struct Stage {
    folder: PathBuf,
    gateway: Handle,
    provider: Provider,
    blue: Upstream,
    green: Upstream,
    servers: Pki,
    partner: Identity,
    revoked: Identity,
}

impl Stage {
    /// Starts it all. `port` 0 takes a free one.
    pub async fn set(folder: &Path, port: u16) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)?;
        let provider = Provider::builder().audience(AUDIENCE).start().await?;
        let (blue, green) = (Upstream::named("blue").await?, Upstream::named("green").await?);
        let servers = Pki::named("Portcullis demo servers")?;
        let clients = Pki::named("Portcullis demo partners")?;
        servers.write_ca(folder.join("ca.pem"))?;
        clients.write_ca(folder.join("clients-ca.pem"))?;
        let now = SystemTime::now();
        let server = servers.leaf("api.example.test").dns("api.example.test").dns("partners.example.test").dns("localhost");
        server.usage(Usage::Server).valid(now - DAY, now + 90 * DAY).issue()?.write_to(folder, "edge")?;
        let partner = clients.leaf("Acme").dns("acme.partner.example").issue()?;
        let revoked = clients.leaf("Former partner").dns("former.partner.example").issue()?;
        partner.write_to(folder, "partner")?;
        revoked.write_to(folder, "revoked")?;
        clients.crl(&[&revoked])?.write_to(folder.join("clients.crl"))?;
        let filled = CONFIGURATION
            .replace("${DEMO_LISTEN}", &format!("127.0.0.1:{port}"))
            .replace("${DEMO_ADMIN}", "127.0.0.1:0")
            .replace("${DEMO_ISSUER}", provider.issuer())
            .replace("${DEMO_BLUE}", &blue.address().to_string())
            .replace("${DEMO_GREEN}", &green.address().to_string());
        std::fs::write(folder.join("edge.yaml"), filled)?;
        let gateway = Gateway::builder().config_file(folder.join("edge.yaml")).start().await.map_err(|error| match error {
            portcullis::StartError::Bind { address, cause, .. } => {
                format!("cannot listen on {address}: {cause}; try `portcullis demo --port 0`").into()
            }
            other => Failure::from(other),
        })?;
        let stage = Self { folder: folder.to_owned(), gateway, provider, blue, green, servers, partner, revoked };
        std::fs::write(stage.folder.join("token"), stage.token(&good())?)?;
        std::fs::write(stage.folder.join("token-expired"), stage.token(&good().expires_in(-41))?)?;
        Ok(stage)
    }

    pub fn address(&self) -> SocketAddr {
        self.gateway.address("https").unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn admin(&self) -> SocketAddr {
        self.gateway.admin_address().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn issuer(&self) -> &str {
        self.provider.issuer()
    }

    pub fn blue(&self) -> SocketAddr {
        self.blue.address()
    }

    pub fn green(&self) -> SocketAddr {
        self.green.address()
    }

    pub fn servers(&self) -> &Pki {
        &self.servers
    }

    pub fn partner(&self) -> &Identity {
        &self.partner
    }

    pub fn revoked(&self) -> &Identity {
        &self.revoked
    }

    pub fn token(&self, spec: &TokenSpec) -> Result<String, Failure> {
        Ok(self.provider.issue(spec)?)
    }

    /// How many requests each upstream got.
    pub fn shares(&self) -> (u64, u64) {
        (self.blue.count(), self.green.count())
    }

    /// The configuration as `explain` sees it.
    pub fn inspect(&self) -> Result<Inspection, Failure> {
        inspect::inspect(&self.folder.join("edge.yaml"), &portcullis_plugins::table(), None)
            .map_err(|found| found.to_string().into())
    }

    /// What to try next.
    pub fn invitation(&self) -> String {
        let (port, dir) = (self.address().port(), self.folder.display());
        let curl = |host: &str| format!("curl -s --cacert {dir}/ca.pem --resolve {host}:{port}:127.0.0.1");
        let api = curl("api.example.test");
        let partners = curl("partners.example.test");
        format!(
            "Try it (ctrl-c ends it; the token is good for an hour):\n\n  {api} -H \"Authorization: Bearer $(cat {dir}/token)\" https://api.example.test:{port}/orders/1\n  {api} -i -H \"Authorization: Bearer $(cat {dir}/token-expired)\" https://api.example.test:{port}/orders/1\n  {partners} --cert {dir}/partner.pem --key {dir}/partner.key https://partners.example.test:{port}/\n  {partners} -i --cert {dir}/revoked.pem --key {dir}/revoked.key https://partners.example.test:{port}/\n  portcullis explain -c {dir}/edge.yaml --url https://api.example.test/orders/1 --token-file {dir}/token-expired\n  portcullis check -c {dir}/edge.yaml\n  curl -s http://{}/metrics | grep portcullis_verdicts_total\n  tail -f {dir}/access.jsonl\n",
            self.admin()
        )
    }

    pub async fn close(self) {
        self.gateway.stop().await;
    }
}

/// A token that the demo's routes accept, for an hour.
pub fn good() -> TokenSpec {
    TokenSpec::new().subject("alice").scope("orders:read orders:write").roles(&["orders-admin"]).expires_in(3600)
}
