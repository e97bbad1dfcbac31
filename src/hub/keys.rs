//! The cluster key: what every hub of a cluster signs state with. Made at the first start.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::signature::Ed25519KeyPair;
use bytes::Bytes;
use prost::Message;
use zeroize::Zeroizing;

use super::settings::HubError;
use super::store::{StateStore, StoreError};
use crate::files;
use crate::wire::signed;
use crate::wire::state_proto as proto;

/// Signs what the hub vouches for.
pub(crate) struct ClusterKey {
    key: Ed25519KeyPair,
    public: proto::SigningKey,
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterKey({:08x})", self.public.key_id)
    }
}

impl ClusterKey {
    /// Reads the key in `directory`, or makes one when neither there nor in `store` is one. Blocks.
    ///
    /// # Errors
    /// [`HubError::File`] when the store's cluster has a key and there is none; a fault of the store.
    pub(crate) fn of(store: &dyn StateStore, directory: &Path) -> Result<Self, HubError> {
        let file = directory.join(FILE);
        if !file.exists() && store.item(SPACE, ITEM)?.is_some() {
            return Err(fault(&file, "it is not there, and the store's cluster has a key", COPY));
        }
        Self::load_or_make(directory)
    }

    /// Refuses to sign for a store of which another key is known; a store that knows none learns this
    /// one, so that all hubs of it sign alike. Blocks.
    ///
    /// # Errors
    /// [`HubError::File`] names the key in `directory`; a fault of the store.
    pub(crate) fn admit(&self, store: &dyn StateStore, directory: &Path) -> Result<(), HubError> {
        let public = self.public.encode_to_vec();
        let known = match store.item(SPACE, ITEM)? {
            Some(known) => known,
            None => match store.put_item(SPACE, ITEM, &public, None) {
                Ok(_) => return Ok(()),
                // Another hub of the same new store was first.
                Err(StoreError::Item(_)) => store.item(SPACE, ITEM)?.unwrap_or_default(),
                Err(error) => return Err(error.into()),
            },
        };
        if known.value == public {
            return Ok(());
        }
        Err(fault(&directory.join(FILE), "it is another key than that of the store's cluster", COPY))
    }

    /// Reads the key in `directory`, or makes one when there is no file.
    ///
    /// # Errors
    /// [`HubError::File`] names the file, what is wrong and what to do.
    pub(crate) fn load_or_make(directory: &Path) -> Result<Self, HubError> {
        let file = directory.join(FILE);
        let key = match files::open(&file) {
            Ok(opened) => read(&file, opened)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(&file)?,
            Err(error) => return Err(fault(&file, &format!("open: {error}"), READABLE)),
        };
        Ok(Self { public: signed::public(&key), key })
    }

    /// Reads the key in `directory`, which must be there.
    ///
    /// # Errors
    /// As [`Self::load_or_make`].
    pub(crate) fn load(directory: &Path) -> Result<Self, HubError> {
        let file = directory.join(FILE);
        let opened = files::open(&file).map_err(|e| fault(&file, &format!("open: {e}"), OWN_KEY))?;
        let key = read(&file, opened)?;
        Ok(Self { public: signed::public(&key), key })
    }

    /// Signs a message as one of `kind`.
    pub(crate) fn sign(&self, kind: proto::SignedKind, message: &impl Message) -> proto::Signed {
        signed::sign(&self.key, self.public.key_id, kind, Bytes::from(message.encode_to_vec()))
    }

    /// 32 secret bytes for another purpose, named by `info`: the same on every hub of the cluster.
    pub(crate) fn derive(&self, info: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        let seed = self.key.seed().ok()?.as_be_bytes().ok()?;
        let extracted = Salt::new(HKDF_SHA256, b"portreeve cluster key").extract(seed.as_ref());
        let mut derived = Zeroizing::new([0; 32]);
        extracted.expand(&[info], HKDF_SHA256).ok()?.fill(&mut *derived).ok()?;
        Some(derived)
    }

    /// The public half, as enforcement points pin it.
    pub(crate) const fn public(&self) -> &proto::SigningKey {
        &self.public
    }
}

fn read(file: &Path, opened: File) -> Result<Ed25519KeyPair, HubError> {
    let io = |e: std::io::Error| fault(file, &format!("read: {e}"), READABLE);
    let mode = opened.metadata().map_err(io)?.mode();
    if mode & 0o077 != 0 {
        let what = format!("its mode {:04o} lets others than its owner use it", mode & 0o7777);
        return Err(fault(
            file,
            &what,
            "`chmod 600` it, and replace the cluster if someone may have read it",
        ));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| fault(file, "it holds no Ed25519 key in PKCS #8", OWN_KEY))
}

fn make(file: &Path) -> Result<Ed25519KeyPair, HubError> {
    let random = |_| fault(file, "no key could be made", "try again");
    let key = Ed25519KeyPair::generate().map_err(random)?;
    let encoded = key.to_pkcs8().map_err(random)?;
    let made = files::create(file, encoded.as_ref());
    made.map_err(|e| fault(file, &format!("make: {e}"), files::remedy(&e)))?;
    tracing::info!(file = %file.display(), "made a cluster key");
    Ok(key)
}

fn fault(file: &Path, what: &str, remedy: &'static str) -> HubError {
    HubError::File { file: file.to_owned(), what: what.to_owned(), remedy }
}

/// Where the store keeps the public half.
const SPACE: &str = "cluster";
const ITEM: &str = "key";
const COPY: &str = "copy `cluster.key` from the `data_dir` of a hub of this cluster, with mode 0600";
const FILE: &str = "cluster.key";
const FILE_BYTES_MAX: u64 = 4096;
const OWN_KEY: &str = "put the cluster's own key back: enforcement points take state from no other";
const READABLE: &str = "let the hub's user read it";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_kept_to_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let made = ClusterKey::load_or_make(folder.path()).unwrap();
        let again = ClusterKey::load_or_make(folder.path()).unwrap();
        assert_eq!(made.public(), again.public());
        let file = folder.path().join(FILE);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(ClusterKey::load_or_make(folder.path()).unwrap_err().to_string().contains("0640"));
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, b"no key").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(ClusterKey::load_or_make(folder.path()).unwrap_err().to_string().contains("Ed25519"));
    }
}
