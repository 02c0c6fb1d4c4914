//! The requests of the tour: what is sent, and what has to come back.

use super::Failure;
use super::stage::{AUDIENCE, Stage, good};
use crate::command::explain::render;
use portcullis::explain::{Query, explain};
use portcullis_testkit::client::Client;
use portcullis_testkit::pki::Identity;
use portcullis_testkit::token::{SignWith, TokenSpec};
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

pub struct Case<'a> {
    title: &'static str,
    host: &'static str,
    path: &'static str,
    headers: Vec<(String, String)>,
    certificate: Option<&'a Identity>,
    expect: u16,
}

/// What a case came to.
pub struct Shown {
    pub title: String,
    pub text: String,
    pub as_expected: bool,
}

/// Every case of the tour, in order.
pub fn all(stage: &Stage) -> Result<Vec<Case<'_>>, Failure> {
    let bearer =
        |spec: TokenSpec| Ok::<_, Failure>(vec![("Authorization".to_owned(), format!("Bearer {}", stage.token(&spec)?))]);
    let orders =
        |title, headers, expect| Case { title, host: "api.example.test", path: "/orders/1", headers, certificate: None, expect };
    let partners = |title, certificate, expect| Case {
        title,
        host: "partners.example.test",
        path: "/",
        headers: Vec::new(),
        certificate,
        expect,
    };
    let mut spoofed = bearer(good())?;
    spoofed.extend([
        ("X-User".to_owned(), "root".to_owned()),
        ("x_user".to_owned(), "root".to_owned()),
        ("Connection".to_owned(), "x-user".to_owned()),
    ]);
    Ok(vec![
        orders("A token with the right scope", bearer(good())?, 200),
        orders("The same, with identity headers forged by the client", spoofed, 200),
        orders("No token", Vec::new(), 401),
        orders("A token that expired 41 seconds ago", bearer(good().expires_in(-41))?, 401),
        orders("A token for another API", bearer(good().audience("https://other.example.test"))?, 401),
        orders("A token without the scope", bearer(good().scope("orders:write"))?, 403),
        orders("A token signed by somebody else", bearer(good().audience(AUDIENCE).sign_with(SignWith::Foreign))?, 401),
        partners("A partner's certificate", Some(stage.partner()), 200),
        partners("No certificate where one is required", None, 403),
        partners("A certificate that was revoked", Some(stage.revoked()), 403),
        Case {
            title: "A path that two servers could read differently",
            host: "api.example.test",
            path: "/orders/..;/admin",
            headers: Vec::new(),
            certificate: None,
            expect: 400,
        },
    ])
}

/// Sends `count` good requests, and says how many each upstream got.
pub async fn share(stage: &Stage, count: usize) -> Result<(u64, u64), Failure> {
    let before = stage.shares();
    let tls = portcullis_testkit::pki::client_config(&[stage.servers()], None, &["http/1.1"])?;
    let mut connection = Client::connect_tls(stage.address(), "api.example.test", tls).await?;
    let authorization = format!("Bearer {}", stage.token(&good().subject("bob"))?);
    for _ in 0..count {
        connection.get("api.example.test", "/orders/1", &[("Authorization", &authorization)]).await?;
    }
    let after = stage.shares();
    Ok((after.0 - before.0, after.1 - before.1))
}

impl Case<'_> {
    /// Sends the request over the wire, and explains it with the same code offline.
    pub async fn play(self, stage: &Stage) -> Result<Shown, Failure> {
        let tls = portcullis_testkit::pki::client_config(&[stage.servers()], self.certificate, &["http/1.1"])?;
        let mut raw = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", self.path, self.host);
        for (name, value) in &self.headers {
            raw.push_str(&format!("{name}: {value}\r\n"));
        }
        raw.push_str("\r\n");
        let mut connection = Client::connect_tls(stage.address(), self.host, tls).await?;
        let response = connection.request(&raw).await?;
        let id = response.header("x-decision-id").unwrap_or_default();
        let query = Query {
            url: format!("https://{}{}", self.host, self.path),
            method: "GET".into(),
            headers: self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect(),
            certificate: self.certificate.map(|identity| identity.chain().to_vec()).unwrap_or_default(),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            at: SystemTime::now(),
            listener: None,
        };
        let explanation = explain(stage.inspect()?.snapshot(), &query).await?;
        // What the wire said and what the explanation says must be one story.
        let agree = explanation.status.is_none_or(|status| status == response.status);
        let as_expected = response.status == self.expect && agree;
        let mut text = format!("GET {}{}  →  {}  (decision {id})\n", self.host, self.path, response.status);
        if !as_expected {
            text.push_str(&format!("unexpected: {} should have come back\n", self.expect));
        }
        text.push_str(&render(&explanation, crate::command::colours(&std::io::stdout())));
        Ok(Shown { title: self.title.to_owned(), text, as_expected })
    }
}
