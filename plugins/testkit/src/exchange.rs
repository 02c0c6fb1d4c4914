//! A request as a filter meets it, described in a line.

use crate::error::Error;
use bytes::Bytes;
use portcullis_plugin::connection::{CertificateFacts, CertificateRefusal, CertificateStatus};
use portcullis_plugin::{Connection, Exchange, Headers, Method, Principal, ReasonCode, RequestHead, ResponseHead, Scheme};
use portcullis_plugin::{TlsFacts, Version};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

/// Starts to describe a request: `request("GET", "https://api.example.test/orders?x=1")`.
///
/// It is what the normaliser would hand on: give the path and the host as they are after normalisation. With `https`,
/// the connection has TLS 1.3 with the host as its server name. Mistakes show when the request is run.
pub fn request(method: &str, url: &str) -> Request {
    Request::new(method, url)
}

/// Starts to describe what the upstream answers.
pub fn answer(status: u16) -> Answer {
    Answer { status, headers: Vec::new(), body: Vec::new() }
}

type Field = (String, Vec<u8>);
type Preparation = Box<dyn FnOnce(&mut Exchange)>;

/// The description of a request, its connection and its surroundings.
pub struct Request {
    method: String,
    url: String,
    version: Version,
    headers: Vec<Field>,
    pub(crate) body: Vec<Bytes>,
    listener: String,
    peer: SocketAddr,
    client: Option<IpAddr>,
    sni: Option<String>,
    certificate: CertificateStatus,
    now: SystemTime,
    route: Option<String>,
    preparations: Vec<Preparation>,
    pub(crate) answer: Answer,
}

impl Request {
    fn new(method: &str, url: &str) -> Self {
        Self {
            method: method.to_owned(),
            url: url.to_owned(),
            version: Version::Http11,
            headers: Vec::new(),
            body: Vec::new(),
            listener: "test".to_owned(),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000)),
            client: None,
            sni: None,
            certificate: CertificateStatus::Missing,
            now: SystemTime::now(),
            route: None,
            preparations: Vec::new(),
            answer: answer(200),
        }
    }

    /// Adds a field; the same name may come again.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// `Authorization: Bearer …`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Adds a piece of the body.
    #[must_use]
    pub fn chunk(mut self, data: impl Into<Bytes>) -> Self {
        self.body.push(data.into());
        self
    }

    #[must_use]
    pub fn listener(mut self, name: &str) -> Self {
        self.listener = name.to_owned();
        self
    }

    /// The other end of the socket. Default: `127.0.0.1:50000`.
    #[must_use]
    pub fn peer(mut self, peer: SocketAddr) -> Self {
        self.peer = peer;
        self
    }

    /// The real client's address. Default: the peer's.
    ///
    /// # Panics
    /// If it is not an IP address: the test has a typo.
    #[must_use]
    #[track_caller]
    pub fn client_ip(mut self, address: &str) -> Self {
        let Ok(address) = address.parse() else { panic!("`{address}` is not an IP address") };
        self.client = Some(address);
        self
    }

    /// The server name of the TLS handshake. Default: the host.
    #[must_use]
    pub fn sni(mut self, name: &str) -> Self {
        self.sni = Some(name.to_owned());
        self
    }

    /// A verified client certificate, such as [`Identity::facts`](crate::Identity::facts).
    #[must_use]
    pub fn certificate(mut self, facts: &CertificateFacts) -> Self {
        self.certificate = CertificateStatus::Verified(Arc::new(facts.clone()));
        self
    }

    /// A client certificate that did not verify.
    #[must_use]
    pub fn certificate_refused(mut self, reason: ReasonCode) -> Self {
        self.certificate = CertificateStatus::Refused(Arc::new(CertificateRefusal {
            reason,
            expected: "a certificate that verifies".to_owned(),
            observed: "a test certificate that does not".to_owned(),
            hint: None,
        }));
        self
    }

    /// When the request arrives. Default: now.
    #[must_use]
    pub fn at(mut self, now: SystemTime) -> Self {
        self.now = now;
        self
    }

    /// The route that was chosen.
    #[must_use]
    pub fn route(mut self, name: &str) -> Self {
        self.route = Some(name.to_owned());
        self
    }

    /// Who an earlier filter found the caller to be.
    #[must_use]
    pub fn principal(self, principal: Principal) -> Self {
        self.prepare(move |exchange| exchange.set_principal(Arc::new(principal)))
    }

    /// Keeps passed checks too, as `portcullis explain` does.
    #[must_use]
    pub fn explaining(self) -> Self {
        self.prepare(Exchange::driver_explain)
    }

    /// Anything else that was done to the exchange before this filter.
    #[must_use]
    pub fn prepare(mut self, preparation: impl FnOnce(&mut Exchange) + 'static) -> Self {
        self.preparations.push(Box::new(preparation));
        self
    }

    /// What the upstream answers. Default: 200 and nothing else.
    #[must_use]
    pub fn answered(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    /// The head and the exchange, for code that runs filters in its own way.
    ///
    /// # Errors
    /// If no gateway would pass such a request on.
    pub fn build(self) -> Result<(RequestHead, Exchange), Error> {
        let refuse = |what: String| Error::Request(what);
        let (scheme, authority, target) = split_url(&self.url)?;
        let method = Method::parse(self.method.as_bytes()).ok_or_else(|| refuse(format!("method `{}`", self.method)))?;
        let mut head = RequestHead::new(method, scheme, self.version, authority, target, fields(&self.headers)?);
        // The setters check what `new` leaves to the normaliser.
        let (path, query) = (head.path().to_owned(), head.query().map(str::to_owned));
        head.set_path(&path).and_then(|()| head.set_query(query.as_deref())).map_err(|error| refuse(error.to_string()))?;

        let tls = (scheme == Scheme::Https).then(|| TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS13_AES_256_GCM_SHA384",
            sni: Some(self.sni.as_deref().unwrap_or_else(|| head.host()).into()),
        });
        let client = self.client.unwrap_or_else(|| self.peer.ip());
        let connection = Connection {
            listener: self.listener.into(),
            peer: self.peer,
            source: self.peer,
            local: SocketAddr::from((Ipv4Addr::LOCALHOST, if tls.is_some() { 8443 } else { 8080 })),
            tls,
        };
        let mut exchange = Exchange::new(Arc::new(connection), client, self.certificate, self.now);
        if let Some(route) = self.route {
            exchange.driver_set_route(route.into());
        }
        for preparation in self.preparations {
            preparation(&mut exchange);
        }
        Ok((head, exchange))
    }
}

/// The description of an upstream's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<Field>,
    pub(crate) body: Vec<Bytes>,
}

impl Answer {
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Adds a piece of the body.
    #[must_use]
    pub fn chunk(mut self, data: impl Into<Bytes>) -> Self {
        self.body.push(data.into());
        self
    }

    pub(crate) fn head(&self) -> Result<ResponseHead, Error> {
        Ok(ResponseHead::new(self.status, fields(&self.headers)?))
    }
}

fn fields(fields: &[Field]) -> Result<Headers, Error> {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.driver_append(name, value).map_err(|error| Error::Request(format!("header `{name}`: {error}")))?;
    }
    Ok(headers)
}

fn split_url(url: &str) -> Result<(Scheme, String, String), Error> {
    let (scheme, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (Scheme::Https, rest),
        (None, Some(rest)) => (Scheme::Http, rest),
        (None, None) => return Err(Error::Request(format!("`{url}` starts neither with http:// nor with https://"))),
    };
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() {
        return Err(Error::Request(format!("`{url}` has no host")));
    }
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok((scheme, authority.to_ascii_lowercase(), format!("{slash}{target}")))
}
