//! What an authorization service is asked: the same facts over HTTP and over gRPC.

use crate::bearer::VerifiedToken;
use crate::external_grpc::{CHECK, framed};
use crate::external_messages::{
    Address, AttributeContext, CheckRequest, HttpRequest, Peer, Request as AttributedRequest, SocketAddress, Timestamp,
};
use crate::external_service::Failure;
use crate::identity_headers::encode_into;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue, TE};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use http_body_util::Full;
use portcullis_plugin::{CertificateFacts, CertificateStatus, Exchange, RequestHead};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

const METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const DECISION_ID: HeaderName = HeaderName::from_static("x-decision-id");
const SUBJECT: HeaderName = HeaderName::from_static("x-principal-subject");
const ISSUER: HeaderName = HeaderName::from_static("x-principal-issuer");
const IDENTIFIED_BY: HeaderName = HeaderName::from_static("x-principal-method");
/// What the question says in any case, and so no client's field.
pub(crate) const OURS: [HeaderName; 9] = [METHOD, PROTO, HOST, URI, FOR, DECISION_ID, SUBJECT, ISSUER, IDENTIFIED_BY];

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How a question is put, and which of the client's fields it tells.
pub(crate) struct Question {
    form: Form,
    /// As configured, and as sent.
    sent: Vec<(String, HeaderName)>,
}

enum Form {
    Http(Uri),
    Grpc { method: Uri, timeout: HeaderValue },
}

impl Question {
    pub fn http(uri: Uri, sent: Vec<(String, HeaderName)>) -> Self {
        Self { form: Form::Http(uri), sent }
    }

    /// `None` if `service` is no scheme and host.
    pub fn grpc(service: Uri, timeout: Duration, sent: Vec<(String, HeaderName)>) -> Option<Self> {
        let mut parts = service.into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static(CHECK));
        let method = Uri::from_parts(parts).ok()?;
        let timeout = HeaderValue::from_str(&format!("{}m", timeout.as_millis())).ok()?;
        Some(Self { form: Form::Grpc { method, timeout }, sent })
    }

    pub fn put(&self, request: &RequestHead, exchange: &Exchange) -> Result<Request<Full<Bytes>>, Failure> {
        match &self.form {
            Form::Http(uri) => self.over_http(uri, request, exchange),
            Form::Grpc { method, timeout } => {
                let mut question = Request::new(Full::new(framed(&self.attributes(request, exchange)?)?));
                *question.method_mut() = Method::POST;
                *question.uri_mut() = method.clone();
                let fields = question.headers_mut();
                fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                fields.insert(TE, HeaderValue::from_static("trailers"));
                fields.insert(GRPC_TIMEOUT, timeout.clone());
                Ok(question)
            }
        }
    }

    fn over_http(&self, uri: &Uri, request: &RequestHead, exchange: &Exchange) -> Result<Request<Full<Bytes>>, Failure> {
        let value = |bytes: &[u8]| {
            HeaderValue::from_bytes(bytes).map_err(|_| Failure::Unsendable("a part of the request fits into no header"))
        };
        let mut question = Request::new(Full::default());
        *question.uri_mut() = uri.clone();
        let fields = question.headers_mut();
        self.tell(request, exchange, |name, told, is_secret| {
            let mut told = value(told)?;
            told.set_sensitive(is_secret);
            fields.append(name, told);
            Ok(())
        })?;
        fields.insert(METHOD, value(request.method().as_str().as_bytes())?);
        fields.insert(PROTO, HeaderValue::from_static(request.scheme().as_str()));
        fields.insert(HOST, value(request.authority().as_bytes())?);
        fields.insert(URI, value(request.target().as_bytes())?);
        fields.insert(FOR, value(exchange.client().to_string().as_bytes())?);
        Ok(question)
    }

    fn attributes(&self, request: &RequestHead, exchange: &Exchange) -> Result<CheckRequest, Failure> {
        let mut headers = BTreeMap::<String, String>::new();
        self.tell(request, exchange, |name, told, _| {
            let told = std::str::from_utf8(told).map_err(|_| Failure::Unsendable("a field that is to be told is not UTF-8"))?;
            match headers.entry(name.as_str().to_owned()) {
                Entry::Vacant(place) => drop(place.insert(told.to_owned())),
                // One member of the map for one name: joined as HTTP joins them.
                Entry::Occupied(mut before) => {
                    before.get_mut().push_str(if *name == COOKIE { "; " } else { "," });
                    before.get_mut().push_str(told);
                }
            }
            Ok(())
        })?;
        let connection = exchange.connection();
        let client = exchange.client();
        // Behind another proxy, the client's port is nobody's to know.
        let port = if connection.source.ip() == client { connection.source.port() } else { 0 };
        let since = exchange.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let http = HttpRequest {
            id: exchange.decision_id().as_str().to_owned(),
            method: request.method().as_str().to_owned(),
            headers,
            path: request.target().to_owned(),
            host: request.authority().to_owned(),
            scheme: request.scheme().as_str().to_owned(),
            // Not known: the body is not waited for.
            size: -1,
            protocol: request.version().as_str().to_owned(),
        };
        Ok(CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(Peer { address: Some(address(client, port)), principal: certified(exchange.certificate()) }),
                destination: Some(Peer {
                    address: Some(address(connection.local.ip(), connection.local.port())),
                    principal: String::new(),
                }),
                request: Some(AttributedRequest {
                    time: Some(Timestamp {
                        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
                    }),
                    http: Some(http),
                }),
            }),
        })
    }

    /// The fields that a question has in both forms: the client's that are named, who is calling, and the decision's id.
    fn tell(
        &self,
        request: &RequestHead,
        exchange: &Exchange,
        mut field: impl FnMut(&HeaderName, &[u8], bool) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for (given, name) in &self.sent {
            let mut found = false;
            for value in request.headers().get_all(given) {
                field(name, value, false)?;
                found = true;
            }
            // A filter before this one may have verified the token, and taken it out.
            if *name == AUTHORIZATION
                && !found
                && let Some(token) = exchange.extension::<VerifiedToken>()
            {
                field(name, format!("{} {}", token.scheme().name(), token.expose()).as_bytes(), true)?;
            }
        }
        field(&DECISION_ID, exchange.decision_id().as_str().as_bytes(), false)?;
        if let Some(principal) = exchange.principal() {
            let mut encoded = |name: &HeaderName, text: &str| {
                let mut out = String::new();
                encode_into(&mut out, text, false);
                field(name, out.as_bytes(), false)
            };
            encoded(&SUBJECT, &principal.subject)?;
            encoded(&IDENTIFIED_BY, principal.method)?;
            if let Some(issuer) = &principal.issuer {
                encoded(&ISSUER, issuer)?;
            }
        }
        Ok(())
    }
}

fn address(ip: IpAddr, port: u16) -> Address {
    Address { socket_address: Some(SocketAddress { address: ip.to_string(), port_value: Some(port.into()) }) }
}

/// Of a verified client certificate: its first URI, else its first DNS name, else its subject, as Envoy chooses.
fn certified(certificate: &CertificateStatus) -> String {
    let CertificateStatus::Verified(facts) = certificate else { return String::new() };
    let CertificateFacts { san_uri, san_dns, subject, .. } = &**facts;
    san_uri.first().or(san_dns.first()).unwrap_or(subject).clone()
}
