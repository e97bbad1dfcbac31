//! Callers' certificates: read from a handshake, or from what a proxy in front says it verified.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::core::credential::ClientCertificate;
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// Reads a certificate; `None`: it is none, or not read in one way only.
pub(crate) fn parse(der: &[u8]) -> Option<ClientCertificate> {
    let (rest, parsed) = X509Certificate::from_der(der).ok()?;
    let read = [OID_X509_EXT_KEY_USAGE, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME];
    if parsed.extensions().iter().any(|it| read.contains(&it.oid) && it.parsed_extension().error().is_some())
    {
        return None;
    }
    let usage = parsed.key_usage().ok()?;
    let constraints = parsed.basic_constraints().ok()?;
    let alternative = parsed.subject_alternative_name().ok()?;
    let (mut uris, mut hosts, mut mails) = (Vec::new(), Vec::new(), Vec::new());
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(Arc::from(*uri)),
            GeneralName::DNSName(host) => hosts.push(Arc::from(host.to_ascii_lowercase())),
            GeneralName::RFC822Name(mail) => mails.push(Arc::from(*mail)),
            GeneralName::Invalid(..) => return None,
            _ => {}
        }
    }
    let signs_others =
        usage.as_ref().is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    let validity = parsed.validity();
    let thumbprint = digest(&SHA256, der).as_ref().try_into().ok()?;
    let plain = |name: &Arc<str>| !name.chars().any(char::is_control);
    let sound = rest.is_empty() && [&uris, &hosts, &mails].into_iter().flatten().all(plain);
    sound.then(|| ClientCertificate {
        thumbprint,
        serial: Arc::from(
            parsed.raw_serial().iter().take(SERIAL_BYTES_MAX).map(|b| format!("{b:02x}")).collect::<String>(),
        ),
        uris,
        hosts,
        mails,
        is_authority: signs_others || constraints.is_some_and(|constraints| constraints.value.ca),
        signs: usage.is_some_and(|usage| usage.critical && usage.value.digital_signature()),
        not_before: Timestamp::from_seconds(validity.not_before.timestamp()),
        not_after: Timestamp::from_seconds(validity.not_after.timestamp()),
        issuer: None,
        voucher: None,
    })
}

/// The header in which a proxy in front says which certificate it verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardedHeader {
    /// Envoy's `x-forwarded-client-cert`, its `Cert` element.
    Xfcc,
    /// `client-cert` (RFC 9440).
    ClientCert,
}

/// Which proxies in front say what certificate a caller showed them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardedCertificates {
    /// Where they say it.
    pub header: ForwardedHeader,
    /// Networks they are in, as address and bits.
    pub peers: Arc<[(IpAddr, u8)]>,
}

impl ForwardedCertificates {
    /// Whether `peer` is such a proxy.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.peers.iter().any(|(network, bits)| is_within(peer.to_canonical(), network.to_canonical(), *bits))
    }

    /// The one certificate that is said; `None`: none is.
    ///
    /// # Errors
    /// [`Reason::RequestAmbiguous`] for more than one, and for what cannot be read.
    pub(crate) fn find(&self, headers: &HeaderMap) -> Result<Option<ClientCertificate>, Reason> {
        let name = match self.header {
            ForwardedHeader::Xfcc => HeaderName::from_static("x-forwarded-client-cert"),
            ForwardedHeader::ClientCert => HeaderName::from_static("client-cert"),
        };
        let mut lines = headers.get_all(name).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        let text = line.to_str().ok().filter(|_| lines.next().is_none());
        let der = text.and_then(|text| match self.header {
            ForwardedHeader::Xfcc => from_xfcc(text),
            ForwardedHeader::ClientCert => from_byte_sequence(text),
        });
        der.and_then(|der| parse(&der)).map(Some).ok_or(Reason::RequestAmbiguous)
    }
}

/// Which certificate is a caller's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CallerCertificates {
    /// The `iss` of the issuer whose certificates are taken; `None`: only those that the hub has records of.
    pub issuer: Option<Arc<str>>,
    /// Proxies in front that say what they verified.
    pub forwarded: Option<ForwardedCertificates>,
}

impl CallerCertificates {
    /// The certificate of a connection, as this listener takes it.
    pub(crate) fn taken(&self, certificate: ClientCertificate) -> Arc<ClientCertificate> {
        Arc::new(ClientCertificate { issuer: self.issuer.clone(), ..certificate })
    }

    /// A certificate in PEM as one that a connection showed; `None`: it is not one.
    pub fn shown(&self, pem: &str) -> Option<Arc<ClientCertificate>> {
        parse(&from_pem(pem.as_bytes())?).map(|certificate| self.taken(certificate))
    }

    /// The caller's certificate: what a proxy in front says, or what the connection showed. The connection
    /// of such a proxy shows the proxy's own, which is never the caller's.
    ///
    /// # Errors
    /// [`Reason::RequestAmbiguous`] when what is said cannot be read in one way.
    pub(crate) fn of_request(
        &self,
        peer: Option<IpAddr>,
        shown: Option<&Arc<ClientCertificate>>,
        headers: &HeaderMap,
    ) -> Result<Option<Arc<ClientCertificate>>, Reason> {
        match (&self.forwarded, peer) {
            (Some(forwarded), Some(peer)) if forwarded.trusts(peer) => {
                Ok(forwarded.find(headers)?.map(|said| self.taken(said)))
            }
            _ => Ok(shown.cloned()),
        }
    }
}

/// The certificate of a PEM text in percent-encoding, as Envoy writes it.
pub(crate) fn from_encoded_pem(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    from_pem(&bytes)
}

/// The only certificate of a PEM text.
fn from_pem(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut found = CertificateDer::pem_slice_iter(bytes);
    let first = found.next()?.ok()?;
    found.next().is_none().then(|| first.to_vec())
}

/// The `Cert` of the only element. Values with `,`, `;` or `=` are quoted.
fn from_xfcc(text: &str) -> Option<Vec<u8>> {
    let mut certificate = None;
    for pair in outside_quotes(text, b';')? {
        let (key, value) = pair.split_once('=')?;
        let value = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'))?;
        if key.eq_ignore_ascii_case("cert") && certificate.replace(value).is_some() {
            return None;
        }
    }
    from_encoded_pem(certificate?)
}

/// The parts between separators that stand outside quotation marks; `None`: a comma stands there too,
/// and so another element, or a quotation has no end.
fn outside_quotes(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut begin, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return None,
            byte if byte == separator && !quoted => {
                parts.push(text.get(begin..at)?);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(begin..)?);
    (!quoted).then_some(parts)
}

/// A byte sequence of RFC 9651 §3.3.5, without parameters.
fn from_byte_sequence(text: &str) -> Option<Vec<u8>> {
    let inner = text.trim_matches(' ').strip_prefix(':')?.strip_suffix(':')?;
    STANDARD.decode(inner).ok()
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let shift = width.saturating_sub(u32::from(bits));
        a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// Bytes of a serial number (RFC 5280 §4.1.2.2).
const SERIAL_BYTES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let rows = [
            ("10.1.2.3", "10.0.0.0", 8, true),
            ("11.1.2.3", "10.0.0.0", 8, false),
            ("10.0.0.1", "10.0.0.1", 32, true),
            ("10.0.0.2", "10.0.0.1", 32, false),
            ("1.2.3.4", "0.0.0.0", 0, true),
            ("::1", "::1", 128, true),
            ("::2", "::1", 128, false),
            ("fd00::9", "fd00::", 8, true),
            ("::", "0.0.0.0", 0, false),
        ];
        for (address, network, bits, expected) in rows {
            let found = is_within(address.parse().unwrap(), network.parse().unwrap(), bits);
            assert_eq!(found, expected, "{address} in {network}/{bits}");
        }
    }

    #[test]
    fn what_counts_and_cannot_be_read_refuses() {
        let key = rcgen::KeyPair::generate().unwrap();
        let (names, constraints, usage, other) =
            ([2, 5, 29, 17], [2, 5, 29, 19], [2, 5, 29, 15], [1, 2, 3, 4]);
        let rows: [(&str, [u64; 4], &[u8], bool); 9] = [
            ("a host", names, b"\x30\x08\x82\x06a.test", true),
            ("a host in no text", names, b"\x30\x08\x82\x06a.te\xff\xff", false),
            ("one more in no text", names, b"\x30\x0b\x82\x06a.test\x86\x01\xff", false),
            ("no names", names, b"\x04\x01a", false),
            ("no authority", constraints, b"\x30\x00", true),
            ("no constraints", constraints, b"\x04\x01a", false),
            ("signs", usage, b"\x03\x02\x07\x80", true),
            ("no usage", usage, b"\x04\x01a", false),
            ("of no concern", other, b"\x04\x01a", true),
        ];
        for (what, id, content, expected) in rows {
            let mut params = rcgen::CertificateParams::default();
            params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&id, content.to_vec())];
            let made = params.self_signed(&key).unwrap();
            assert_eq!(parse(made.der()).is_some(), expected, "{what}");
        }
    }

    #[test]
    fn forwarded_certificates_are_one() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let encoded: String = made.cert.pem().bytes().map(|b| format!("%{b:02X}")).collect();
        let plain = made.cert.pem().replace('\n', "%0A").replace(' ', "%20");
        let sequence = format!(":{}:", STANDARD.encode(made.cert.der()));
        use ForwardedHeader::{ClientCert, Xfcc};
        let rows = [
            (Xfcc, format!("Hash=ab;Cert=\"{encoded}\";Subject=\"CN=a,O=b;c\";URI=spiffe://td/a"), true),
            (Xfcc, format!("By=spiffe://td/b;cert=\"{plain}\""), true),
            (Xfcc, format!("Cert=\"{encoded}\",Cert=\"{encoded}\""), false),
            (Xfcc, format!("Cert=\"{encoded}\";Cert=\"{encoded}\""), false),
            (Xfcc, format!("Cert=\"{encoded}{encoded}\""), false),
            (Xfcc, format!("Cert=\"{encoded}"), false),
            (Xfcc, "Hash=ab;URI=spiffe://td/a".to_owned(), false),
            (Xfcc, "Cert=\"%4\"".to_owned(), false),
            (Xfcc, String::new(), false),
            (ClientCert, sequence.clone(), true),
            (ClientCert, format!("{sequence}, {sequence}"), false),
            (ClientCert, sequence.trim_matches(':').to_owned(), false),
            (ClientCert, ":AAAA:".to_owned(), false),
            (ClientCert, "::".to_owned(), false),
        ];
        for (header, text, expected) in rows {
            let forwarded = ForwardedCertificates { header, peers: Arc::from([]) };
            let name = if header == Xfcc { "x-forwarded-client-cert" } else { "client-cert" };
            let mut headers = HeaderMap::new();
            assert_eq!(forwarded.find(&headers), Ok(None));
            headers.append(name, text.parse().unwrap());
            let found = forwarded.find(&headers);
            assert_eq!(found.is_ok(), expected, "{}", &text[..text.len().min(80)]);
            if let Ok(found) = found {
                assert_eq!(found.unwrap().hosts, [Arc::from("a.test")]);
            }
            headers.append(name, text.parse().unwrap());
            assert!(forwarded.find(&headers).is_err(), "two lines");
        }
    }
}
