//! The description of a certificate, good or bad.

use super::{HOUR, Identity, Pki, Usage, distinguished_name, hex, pem, serial, subject, whole_seconds};
use crate::error::Error;
use portcullis_plugin::CertificateFacts;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber};
use std::net::IpAddr;
use std::time::SystemTime;

#[derive(Clone)]
pub(super) enum Name {
    Dns(String),
    Uri(String),
    Email(String),
    Ip(IpAddr),
}

/// A certificate that is being described.
#[derive(Clone)]
pub struct Leaf<'a> {
    pub(super) authority: &'a Pki,
    pub(super) common_name: &'a str,
    pub(super) names: Vec<Name>,
    pub(super) usage: Usage,
    pub(super) valid: (SystemTime, SystemTime),
}

impl Leaf<'_> {
    /// Adds a DNS name.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push(Name::Dns(name.to_owned()));
        self
    }

    /// Adds a URI, such as a SPIFFE id.
    #[must_use]
    pub fn uri(mut self, uri: &str) -> Self {
        self.names.push(Name::Uri(uri.to_owned()));
        self
    }

    #[must_use]
    pub fn email(mut self, address: &str) -> Self {
        self.names.push(Name::Email(address.to_owned()));
        self
    }

    #[must_use]
    pub fn ip(mut self, address: IpAddr) -> Self {
        self.names.push(Name::Ip(address));
        self
    }

    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    #[must_use]
    pub fn valid(mut self, not_before: SystemTime, not_after: SystemTime) -> Self {
        self.valid = (not_before, not_after);
        self
    }

    /// Ended an hour ago.
    #[must_use]
    pub fn expired(self) -> Self {
        let now = SystemTime::now();
        self.valid(now - 48 * HOUR, now - HOUR)
    }

    /// Begins in an hour.
    #[must_use]
    pub fn not_yet_valid(self) -> Self {
        let now = SystemTime::now();
        self.valid(now + HOUR, now + 48 * HOUR)
    }

    /// Makes the certificate and its key.
    ///
    /// # Errors
    /// If a name is not one a certificate can hold.
    pub fn issue(self) -> Result<Identity, Error> {
        let key = KeyPair::generate()?;
        let serial = serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(self.common_name);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = whole_seconds(self.valid.0);
        params.not_after = whole_seconds(self.valid.1);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match self.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Neither => vec![ExtendedKeyUsagePurpose::CodeSigning],
            Usage::Unstated => Vec::new(),
        };
        for name in &self.names {
            params.subject_alt_names.push(match name {
                Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                Name::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
                Name::Email(address) => SanType::Rfc822Name(address.as_str().try_into()?),
                Name::Ip(address) => SanType::IpAddress(*address),
            });
        }
        let certificate = params.signed_by(&key, &self.authority.issuer)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.authority.chain.iter().cloned());
        let facts = self.facts(certificate.der(), &serial);
        Ok(Identity { cert_pem: pem(&chain), key_pem: key.serialize_pem(), key_der: key.serialize_der(), chain, serial, facts })
    }

    /// From what was asked for, not from the bytes: so that it can be held against what a parser finds in them.
    fn facts(&self, der: &[u8], serial: &[u8]) -> CertificateFacts {
        let names = |pick: fn(&Name) -> Option<&String>| self.names.iter().filter_map(pick).cloned().collect::<Vec<_>>();
        let san_uri = names(|name| if let Name::Uri(uri) = name { Some(uri) } else { None });
        let spiffe_id = match san_uri.as_slice() {
            [only] if only.starts_with("spiffe://") => Some(only.clone()),
            _ => None,
        };
        CertificateFacts {
            subject: subject(self.common_name),
            issuer: self.authority.subject.clone(),
            serial: hex(serial).to_ascii_uppercase(),
            sha256: hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref()),
            san_dns: names(|name| if let Name::Dns(name) = name { Some(name) } else { None }),
            san_uri,
            san_email: names(|name| if let Name::Email(address) = name { Some(address) } else { None }),
            san_ip: self.names.iter().filter_map(|name| if let Name::Ip(ip) = name { Some(*ip) } else { None }).collect(),
            spiffe_id,
            not_before: whole_seconds(self.valid.0).into(),
            not_after: whole_seconds(self.valid.1).into(),
            der: der.into(),
            chain: self.authority.chain.iter().map(|certificate| certificate.as_ref().into()).collect(),
        }
    }
}
