//! Certificate and key as they are kept on disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::transport::Identity;
use zeroize::Zeroizing;

use super::EnrolmentError;
use crate::core::id::Name;
use crate::core::time::Timestamp;
use crate::mtls::{Certified, Cluster, Key, certified, encode, key_pair, public_key_digest};
use crate::wire::state_proto as proto;

/// A certificate that the hub gave, with its key and its authority.
pub(super) struct Held {
    key: Key,
    certificate: CertificateDer<'static>,
    pub(super) root: CertificateDer<'static>,
    pub(super) certified: Certified,
    pub(super) cluster: Cluster,
    /// The number of the join token that it goes back to.
    pub(super) joined_by: String,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("certified", &self.certified).finish_non_exhaustive()
    }
}

impl Held {
    /// What a hub answered, if it is for `key` and `id`.
    pub(super) fn new(
        enrolled: &proto::Enrolled,
        key: &KeyPair,
        joined_by: String,
        id: &Name,
    ) -> Option<Self> {
        let [leaf] = enrolled.chain_der.as_slice() else { return None };
        let [root] = enrolled.roots_der.as_slice() else { return None };
        let own = |der: &[u8]| CertificateDer::from(der.to_vec());
        let key = Key::new(Zeroizing::new(key.serialize_pem()).as_bytes());
        Self::of(own(leaf), own(root), key, joined_by).ok().filter(|held| held.certified.id == *id)
    }

    fn of(
        certificate: CertificateDer<'static>,
        root: CertificateDer<'static>,
        key: Key,
        joined_by: String,
    ) -> Result<Self, String> {
        let found = certified(&certificate, None).map_err(|e| e.to_string())?;
        let cluster = found.domain.as_deref().and_then(cluster_of).ok_or("it names no cluster")?;
        let certified = certified(&certificate, Some(&cluster)).map_err(|e| e.to_string())?;
        let (place, chain) = (Path::new("certificate"), [certificate]);
        key_pair((place, &chain), (Path::new("key"), &key)).map_err(|e| e.to_string())?;
        let [certificate] = chain;
        Ok(Self { key, certificate, root, certified, cluster, joined_by })
    }

    /// Whether it is of this cluster, by the authority with this public key.
    pub(super) fn is_by(&self, cluster: Cluster, authority: &[u8; 32]) -> bool {
        self.cluster == cluster && public_key_digest(&self.root).is_ok_and(|digest| digest == *authority)
    }

    /// What a connection shows.
    pub(super) fn identity(&self) -> Identity {
        Identity::from_pem(encode("CERTIFICATE", &self.certificate).as_bytes(), self.key.pem())
    }

    /// When half of its life is over.
    pub(super) fn renew_at(&self) -> Timestamp {
        let Certified { not_before, not_after, .. } = self.certified;
        not_before.after(not_after.since(not_before) / 2)
    }
}

fn cluster_of(domain: &str) -> Option<Cluster> {
    let hex = domain.strip_suffix(".portreeve")?;
    let id = u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 32)?;
    Some(Cluster::new(id.to_be_bytes()))
}

/// Where it is kept.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, EnrolmentError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(EnrolmentError::io(path))?;
        Ok(Self { path: path.to_owned() })
    }

    /// What is kept; `None`: nothing, or something of another enforcement point.
    pub(super) fn read(&self, id: &Name) -> Result<Option<Held>, EnrolmentError> {
        let path = self.path.join(IDENTITY);
        let text = match fs::read(&path).map(Zeroizing::new) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EnrolmentError::io(&path)(error)),
        };
        match parse(&text) {
            Ok(held) if held.certified.id == *id => Ok(Some(held)),
            Ok(held) => {
                let found = held.certified.id;
                let what = format!("it is of `{found}`, and this enforcement point is `{id}`");
                Err(EnrolmentError::Damaged { path, what })
            }
            Err(what) => Err(EnrolmentError::Damaged { path, what }),
        }
    }

    /// Keeps a certificate in place of the one before; on disk when this returns.
    pub(super) fn write(&self, held: &Held) -> Result<(), EnrolmentError> {
        let mut text = Zeroizing::new(format!("{JOINED_BY}{}\n", held.joined_by).into_bytes());
        text.extend_from_slice(held.key.pem());
        text.extend_from_slice(encode("CERTIFICATE", &held.certificate).as_bytes());
        text.extend_from_slice(encode("CERTIFICATE", &held.root).as_bytes());
        self.replace(IDENTITY, &text)?;
        // It has become the key of what is kept; where it cannot be removed, the next one is the same.
        fs::remove_file(self.path.join(NEXT_KEY)).unwrap_or_default();
        Ok(())
    }

    /// The key of the next certificate: the one asked for before, as long as none has come.
    pub(super) fn next_key(&self) -> Result<KeyPair, EnrolmentError> {
        let path = self.path.join(NEXT_KEY);
        let kept = fs::read_to_string(&path).map(Zeroizing::new).ok();
        if let Some(key) = kept.and_then(|text| KeyPair::from_pem(&text).ok()) {
            return Ok(key);
        }
        let made = KeyPair::generate().map_err(|e| EnrolmentError::io(&path)(io::Error::other(e)))?;
        self.replace(NEXT_KEY, Zeroizing::new(made.serialize_pem()).as_bytes())?;
        Ok(made)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), EnrolmentError> {
        let (path, beside) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(EnrolmentError::io(&path))
    }
}

fn parse(text: &[u8]) -> Result<Held, String> {
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let joined_by = std::str::from_utf8(first).ok().and_then(|line| line.strip_prefix(JOINED_BY));
    let joined_by = joined_by.ok_or("it does not begin with the number of its join token")?.to_owned();
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let certificates = certificates.map_err(|e| e.to_string())?;
    let [leaf, root] = <[CertificateDer<'static>; 2]>::try_from(certificates)
        .map_err(|found| format!("it has {} certificates, expected two", found.len()))?;
    Held::of(leaf, root, Key::new(text), joined_by)
}

const IDENTITY: &str = "identity.pem";
const NEXT_KEY: &str = "next.key";
const JOINED_BY: &str = "# joined by ";
