//! Names in certificates.
//!
//! | Who | Its certificate names |
//! |---|---|
//! | a hub, by the cluster's own authority | `spiffe://<cluster>.portreeve/hub`, and the host `hub.<cluster>.portreeve` |
//! | an enforcement point, by the same | `spiffe://<cluster>.portreeve/spoke/<id>` |
//! | an enforcement point, by another authority | one URI: `spiffe://<domain>/…/<id>`; or no URI and one host: `<id>` |
//!
//! `<cluster>` is the cluster's id in hexadecimal. An id is the *last segment* of the URI's path, or
//! the whole host name. Subject and common name are never read.

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::core::id::Name;
use crate::core::time::Timestamp;

/// A cluster, as its certificates name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cluster([u8; 16]);

/// What a certificate says of an enforcement point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certified {
    /// The enforcement point.
    pub id: Name,
    /// The trust domain of its URI, if it has one.
    pub domain: Option<String>,
    /// From when on it counts; whole seconds.
    pub not_before: Timestamp,
    /// Until when it counts, inclusive; whole seconds.
    pub not_after: Timestamp,
}

/// Why a certificate names no enforcement point.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// It is no certificate.
    #[error("the certificate cannot be read")]
    Malformed,
    /// There is not exactly one name to take.
    #[error(
        "the certificate has {uris} URI names and {hosts} host names: expected one URI, or no URI and one host"
    )]
    Ambiguous {
        /// Its URI names.
        uris: usize,
        /// Its host names.
        hosts: usize,
    },
    /// The URI is no SPIFFE ID.
    #[error("the certificate's URI `{uri}` is no SPIFFE ID with a path")]
    NotSpiffe {
        /// As it stands there.
        uri: String,
    },
    /// The cluster's own authority names something else.
    #[error("the certificate's URI `{uri}` names no enforcement point of this cluster")]
    NotASpoke {
        /// As it stands there.
        uri: String,
    },
    /// What it names cannot be an id.
    #[error("the certificate names `{found}`, which is no id of an enforcement point")]
    NotAnId {
        /// As it stands there.
        found: String,
    },
}

impl Cluster {
    /// By its id.
    pub const fn new(id: [u8; 16]) -> Self {
        Self(id)
    }

    /// Its id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The trust domain of its own authority.
    pub fn trust_domain(&self) -> String {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}.portreeve")
    }

    /// Who a hub of it is.
    pub fn hub_uri(&self) -> String {
        format!("spiffe://{}/hub", self.trust_domain())
    }

    /// Who an enforcement point of it is.
    pub fn spoke_uri(&self, id: &Name) -> String {
        format!("spiffe://{}{SPOKES}{id}", self.trust_domain())
    }

    /// The host that a hub's own certificate names; asked for by name, so that a hub with a
    /// certificate of another authority knows which one is wanted.
    pub fn hub_host(&self) -> String {
        format!("hub.{}", self.trust_domain())
    }
}

impl Certified {
    /// Whether the cluster's own authority made it, by its trust domain.
    pub fn is_enrolled(&self, cluster: &Cluster) -> bool {
        self.domain.as_deref() == Some(&cluster.trust_domain())
    }
}

/// Reads whom a leaf certificate names. Whether it is to be believed was decided by the handshake.
///
/// # Errors
/// [`NameError`] says what the certificate names instead.
///
/// # Standard
/// SPIFFE X509-SVID §2 for the form of a URI; ids of other shapes are this module's rule.
pub fn certified(leaf: &[u8], cluster: Option<&Cluster>) -> Result<Certified, NameError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| NameError::Malformed)?;
    let (uris, hosts) = names(&parsed)?;
    let (found, domain) = match (uris.as_slice(), hosts.as_slice()) {
        ([uri], _) => {
            let (domain, path) = split(uri).ok_or_else(|| NameError::NotSpiffe { uri: short(uri) })?;
            let own = cluster.is_some_and(|cluster| cluster.trust_domain() == domain);
            let id = match path.strip_prefix(SPOKES) {
                Some(id) if own => id,
                None if own => return Err(NameError::NotASpoke { uri: short(uri) }),
                _ => path.rsplit('/').next().unwrap_or_default(),
            };
            (id.to_owned(), Some(domain.to_owned()))
        }
        ([], [host]) => (host.to_ascii_lowercase(), None),
        _ => return Err(NameError::Ambiguous { uris: uris.len(), hosts: hosts.len() }),
    };
    let id = Name::parse(&found).map_err(|_| NameError::NotAnId { found: short(&found) })?;
    let validity = parsed.validity();
    Ok(Certified {
        id,
        domain,
        not_before: Timestamp::from_seconds(validity.not_before.timestamp()),
        not_after: Timestamp::from_seconds(validity.not_after.timestamp()),
    })
}

/// SHA-256 of a certificate's public key, as `SubjectPublicKeyInfo` holds it.
///
/// # Errors
/// [`NameError::Malformed`].
pub fn public_key_digest(certificate: &[u8]) -> Result<[u8; 32], NameError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| NameError::Malformed)?;
    <[u8; 32]>::try_from(digest(&SHA256, parsed.public_key().raw).as_ref()).map_err(|_| NameError::Malformed)
}

/// URI and host names of a certificate.
pub(super) fn names<'a>(parsed: &'a X509Certificate<'_>) -> Result<(Vec<&'a str>, Vec<&'a str>), NameError> {
    let (mut uris, mut hosts) = (Vec::new(), Vec::new());
    let alternative = parsed.subject_alternative_name().map_err(|_| NameError::Malformed)?;
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(host) => hosts.push(*host),
            _ => {}
        }
    }
    Ok((uris, hosts))
}

/// Trust domain, and path with its first `/`.
fn split(uri: &str) -> Option<(&str, &str)> {
    let rest = uri.strip_prefix("spiffe://")?;
    let (domain, path) = rest.split_at(rest.find('/')?);
    let in_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let in_segment = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let segment = |text: &str| !matches!(text, "" | "." | "..") && text.chars().all(in_segment);
    let sound = !domain.is_empty() && domain.chars().all(in_domain) && path[1..].split('/').all(segment);
    sound.then_some((domain, path))
}

fn short(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

const SPOKES: &str = "/spoke/";
const SHOWN_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    const CLUSTER: Cluster = Cluster::new([0xab; 16]);

    fn certificate(uris: &[&str], hosts: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let hosts = hosts.iter().map(|host| SanType::DnsName((*host).try_into().unwrap()));
        params.subject_alt_names = uris.chain(hosts).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn whom_a_certificate_names() {
        let own = CLUSTER.trust_domain();
        let spoke = format!("spiffe://{own}/spoke/orders-1");
        let hub = format!("spiffe://{own}/hub");
        let deep = format!("spiffe://{own}/spoke/a/b");
        type Row<'a> = (&'a [&'a str], &'a [&'a str], Result<&'a str, &'a str>);
        let rows: [Row<'_>; 17] = [
            (&[&spoke], &[], Ok("orders-1")),
            (&[&hub], &[], Err("names no enforcement point of this cluster")),
            (&[&deep], &[], Err("no id of an enforcement point")),
            (&["spiffe://example.org/ns/prod/sa/orders-1"], &[], Ok("orders-1")),
            (&["spiffe://example.org/ns/prod/sa/orders-1"], &["a.example", "b.example"], Ok("orders-1")),
            (&["spiffe://example.org/hub"], &[], Ok("hub")),
            (&["spiffe://example.org/Orders"], &[], Err("no id of an enforcement point")),
            (&["spiffe://example.org"], &[], Err("no SPIFFE ID")),
            (&["spiffe://example.org/"], &[], Err("no SPIFFE ID")),
            (&["spiffe://example.org/a//b"], &[], Err("no SPIFFE ID")),
            (&["spiffe://example.org/a/.."], &[], Err("no SPIFFE ID")),
            (&["spiffe://Example.org/a"], &[], Err("no SPIFFE ID")),
            (&["https://example.org/a"], &[], Err("no SPIFFE ID")),
            (&["spiffe://a/x", "spiffe://a/y"], &[], Err("2 URI names")),
            (&[], &["Edge-7.example"], Ok("edge-7.example")),
            (&[], &["a.example", "b.example"], Err("2 host names")),
            (&[], &[], Err("0 host names")),
        ];
        for (uris, hosts, expected) in rows {
            let found = certified(&certificate(uris, hosts), Some(&CLUSTER));
            match (&found, expected) {
                (Ok(found), Ok(id)) => assert_eq!(found.id.as_str(), id),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                _ => panic!("{uris:?} {hosts:?}: {found:?}"),
            }
        }
        assert_eq!(certified(b"none", None), Err(NameError::Malformed));
    }
}
