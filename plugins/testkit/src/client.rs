//! An HTTP/1.1 client that sends exactly the bytes it is given, over TCP or TLS.

use crate::error::Error;
use crate::message::{Body, Field, Head, Io, Reader};
use crate::wait::within;
use crate::websocket;
use rustls_pki_types::ServerName;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// A response as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    pub version: String,
    /// In the order and case of the wire.
    pub headers: Vec<Field>,
    /// Without framing.
    pub body: Vec<u8>,
    /// Of the whole body; of a very long one, `body` has only the first part.
    pub body_len: u64,
    pub trailers: Vec<Field>,
    /// The statuses of 1xx responses before this one.
    pub interim: Vec<u16>,
    /// Whether the connection ended before the body did.
    pub broken: bool,
}

impl Response {
    /// The first field of that name.
    pub fn header(&self, name: &str) -> Option<String> {
        self.header_all(name).into_iter().next()
    }

    /// Every field of that name.
    pub fn header_all(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    pub fn trailer(&self, name: &str) -> Option<String> {
        let named = self.trailers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Errors
    /// If the body is no JSON.
    pub fn json(&self) -> Result<serde_json::Value, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::Http(format!("JSON body: {error}")))
    }
}

/// A connection. Every operation gives up after [`PATIENCE`](crate::PATIENCE).
pub struct Client {
    reader: Reader<Box<dyn Io>>,
    alpn: Option<Vec<u8>>,
    tls_version: Option<rustls::ProtocolVersion>,
    resumed: bool,
    server_chain: Vec<Vec<u8>>,
    local: SocketAddr,
}

impl Client {
    /// # Errors
    /// If there is no connection.
    pub async fn connect(address: SocketAddr) -> Result<Self, Error> {
        Self::plain(tcp(address, None).await?)
    }

    /// From a local address, such as 127.0.0.2, for rules about addresses.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn connect_from(local: IpAddr, address: SocketAddr) -> Result<Self, Error> {
        Self::plain(tcp(address, Some(local)).await?)
    }

    /// TLS for `server_name`, which may be an IP address; see [`client_config`](crate::pki::client_config).
    ///
    /// # Errors
    /// If there is no connection, or the handshake fails.
    pub async fn connect_tls(address: SocketAddr, server_name: &str, config: Arc<rustls::ClientConfig>) -> Result<Self, Error> {
        Self::tls(tcp(address, None).await?, &[], server_name, config).await
    }

    /// Sends `prefix`, such as a PROXY protocol header, before the TLS handshake.
    ///
    /// # Errors
    /// As [`connect_tls`](Self::connect_tls).
    pub async fn connect_tls_after(
        prefix: &[u8],
        address: SocketAddr,
        server_name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> Result<Self, Error> {
        Self::tls(tcp(address, None).await?, prefix, server_name, config).await
    }

    fn plain(stream: TcpStream) -> Result<Self, Error> {
        let local = stream.local_addr().map_err(Error::io("local address"))?;
        let reader = Reader::new(Box::new(stream) as Box<dyn Io>);
        Ok(Self { reader, alpn: None, tls_version: None, resumed: false, server_chain: Vec::new(), local })
    }

    async fn tls(mut tcp: TcpStream, prefix: &[u8], name: &str, config: Arc<rustls::ClientConfig>) -> Result<Self, Error> {
        let local = tcp.local_addr().map_err(Error::io("local address"))?;
        let name = ServerName::try_from(name.to_owned()).map_err(|error| Error::Http(format!("server name: {error}")))?;
        tcp.write_all(prefix).await.map_err(Error::io("write"))?;
        let handshake = tokio_rustls::TlsConnector::from(config).connect(name, tcp);
        let stream = within("the TLS handshake", handshake).await?.map_err(Error::io("TLS handshake"))?;
        let (_, session) = stream.get_ref();
        let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
        let tls_version = session.protocol_version();
        let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let server_chain = session.peer_certificates().unwrap_or_default().iter().map(|der| der.to_vec()).collect();
        Ok(Self { reader: Reader::new(Box::new(stream) as Box<dyn Io>), alpn, tls_version, resumed, server_chain, local })
    }

    /// The protocol agreed on in the TLS handshake.
    pub fn alpn(&self) -> Option<String> {
        self.alpn.as_ref().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    pub fn tls_version(&self) -> Option<rustls::ProtocolVersion> {
        self.tls_version
    }

    /// Whether the handshake resumed an earlier session.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The chain the server presented, leaf first, DER.
    pub fn server_chain(&self) -> &[Vec<u8>] {
        &self.server_chain
    }

    /// Our end of the connection.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends these bytes, whatever they are.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        let stream = &mut self.reader.stream;
        let write = async {
            stream.write_all(bytes.as_ref()).await?;
            stream.flush().await
        };
        within("a write", write).await?.map_err(Error::io("write"))
    }

    /// Sends these bytes in pieces of `piece`, with a pause after each.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn send_slowly(&mut self, bytes: impl AsRef<[u8]>, piece: usize, pause: Duration) -> Result<(), Error> {
        for piece in bytes.as_ref().chunks(piece.max(1)) {
            self.send(piece).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Says that nothing more is sent; responses can still be read.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn finish(&mut self) -> Result<(), Error> {
        within("a shutdown", self.reader.stream.shutdown()).await?.map_err(Error::io("shutdown"))
    }

    /// Reads a response to a request of any method but HEAD.
    ///
    /// # Errors
    /// If none comes, or it is no HTTP.
    pub async fn response(&mut self) -> Result<Response, Error> {
        self.response_to("GET").await
    }

    /// Reads a response to a request of that method.
    ///
    /// # Errors
    /// If none comes, or it is no HTTP.
    pub async fn response_to(&mut self, method: &str) -> Result<Response, Error> {
        within("a response", read_response(&mut self.reader, method)).await?
    }

    /// Sends a request as it stands and reads the response.
    ///
    /// # Errors
    /// If none comes, or it is no HTTP. A write that fails is no error as long as a response can be read: a server may
    /// refuse a request before its end.
    pub async fn request(&mut self, bytes: impl AsRef<[u8]>) -> Result<Response, Error> {
        let bytes = bytes.as_ref();
        let written = self.send(bytes).await;
        let method = bytes.split(|b| *b == b' ').next().unwrap_or_default();
        let response = self.response_to(&String::from_utf8_lossy(method)).await;
        if response.is_err() {
            written?;
        }
        response
    }

    /// A GET with these fields more than `Host`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn get(&mut self, host: &str, target: &str, fields: &[(&str, &str)]) -> Result<Response, Error> {
        self.request(head("GET", host, target, fields)).await
    }

    /// A POST with a body of known length.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn post(&mut self, host: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Result<Response, Error> {
        let length = body.len().to_string();
        let mut all = fields.to_vec();
        all.push(("content-length", &length));
        let mut bytes = head("POST", host, target, &all).into_bytes();
        bytes.extend_from_slice(body);
        self.request(bytes).await
    }

    /// Whether the server closes without sending more.
    ///
    /// # Errors
    /// If it does neither.
    pub async fn is_closed(&mut self) -> Result<bool, Error> {
        Ok(self.rest().await?.is_empty())
    }

    /// Everything up to the end of the connection, however it ends.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn rest(&mut self) -> Result<Vec<u8>, Error> {
        let mut rest = crate::message::Bytes::default();
        // A reset is an end too; what came before it stays.
        let _ = within("the end of the connection", self.reader.until_end(&mut rest)).await?;
        Ok(rest.kept)
    }

    /// What has been read and not used.
    pub fn unread(&self) -> &[u8] {
        self.reader.pending()
    }

    /// The next `len` bytes, for protocols other than HTTP.
    ///
    /// # Errors
    /// If they don't come.
    pub async fn bytes(&mut self, len: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = crate::message::Bytes::default();
        within("bytes", self.reader.exactly(len, &mut [&mut bytes])).await??;
        Ok(bytes.kept)
    }

    /// Asks for a WebSocket. With 101, [`echo`](Self::echo) works.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn websocket(&mut self, host: &str, target: &str, fields: &[(&str, &str)]) -> Result<Response, Error> {
        let mut all = vec![
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        all.extend_from_slice(fields);
        self.get(host, target, &all).await
    }

    /// Sends a text message and returns the payload of the frame that comes back.
    ///
    /// # Errors
    /// If none comes back.
    pub async fn echo(&mut self, message: &str) -> Result<String, Error> {
        self.send(websocket::masked(1, message.as_bytes())).await?;
        let (_, payload) = within("a frame", websocket::frame(&mut self.reader)).await??;
        Ok(String::from_utf8_lossy(&payload).into_owned())
    }

    pub(crate) fn into_stream(self) -> Box<dyn Io> {
        self.reader.stream
    }
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// As [`Client::request`].
pub async fn once(address: SocketAddr, request: impl AsRef<[u8]>) -> Result<Response, Error> {
    Client::connect(address).await?.request(request).await
}

/// The head of a request, for [`Client::request`].
pub fn head(method: &str, host: &str, target: &str, fields: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head
}

async fn tcp(address: SocketAddr, local: Option<IpAddr>) -> Result<TcpStream, Error> {
    let what = || format!("connect to {address}");
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(Error::io("socket"))?;
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0)).map_err(Error::io(format!("bind {local}")))?;
    }
    let stream = within(&what(), socket.connect(address)).await?.map_err(Error::io(what()))?;
    stream.set_nodelay(true).map_err(Error::io("TCP_NODELAY"))?;
    Ok(stream)
}

async fn read_response(reader: &mut Reader<Box<dyn Io>>, method: &str) -> Result<Response, Error> {
    let mut interim = Vec::new();
    loop {
        let bytes = reader.head().await?.ok_or_else(|| Error::Http("the connection ended instead of a response".to_owned()))?;
        let head = Head::parse(&bytes)?;
        let status: u16 = head.first[1].parse().map_err(|_| Error::Http(format!("status `{}`", head.first[1])))?;
        if (100..200).contains(&status) && status != 101 {
            interim.push(status);
            continue;
        }
        let mut body = Body::default();
        let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
        let result = if bodiless { Ok(()) } else { read_body(reader, &head, &mut body).await };
        let [version, ..] = head.first;
        return Ok(Response {
            status,
            version,
            headers: head.fields,
            body: body.data.kept,
            body_len: body.data.total,
            trailers: body.trailers,
            interim,
            broken: result.is_err(),
        });
    }
}

async fn read_body(reader: &mut Reader<Box<dyn Io>>, head: &Head, body: &mut Body) -> Result<(), Error> {
    if head.lists("transfer-encoding", "chunked") {
        return reader.chunked(body).await;
    }
    match head.field("content-length") {
        Some(length) => {
            let length = length.parse().map_err(|_| Error::Http(format!("content-length `{length}`")))?;
            reader.exactly(length, &mut [&mut body.data]).await
        }
        None => reader.until_end(&mut body.data).await,
    }
}
