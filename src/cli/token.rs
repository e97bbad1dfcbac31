//! The issuer of `portreeve dev`: one P-256 key in one file, tokens by the minute.
//!
//! The file is JSON, readable by its owner only:
//!
//! ```text
//! { "iss": "…", "kid": "…", "audience": "…", "private_key_pem": "-----BEGIN PRIVATE KEY-----…" }
//! ```
//!
//! `private_key_pem` is PKCS#8 (RFC 5958) in PEM, `kid` the key's RFC 7638 thumbprint. For trying
//! things out only: a production issuer keeps its key elsewhere.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use crate::cli::failure::{Exit, Failure};
use crate::core::time::Timestamp;

/// The file's name in a data folder.
pub const DEV_ISSUER_FILE: &str = "dev-issuer.json";

/// Longest life of a minted token.
pub const TTL_MAX: Duration = Duration::from_secs(3600);

/// Largest key file, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why the development issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("cannot use the issuer's key file `{}`: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        cause: io::Error,
    },
    /// Others may read the file.
    #[error("others may read the issuer's key file `{}` (mode {mode:o}): expected mode 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file does not hold an issuer.
    #[error("`{}` holds no development issuer: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The life asked for is none, or too long.
    #[error("malformed life of {}s: expected 1s to {}s", ttl.as_secs(), TTL_MAX.as_secs())]
    Ttl {
        /// As asked for.
        ttl: Duration,
    },
    /// The cryptographic library failed.
    #[error("cannot {0}: the cryptographic library failed")]
    Crypto(&'static str),
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        let exit = match error {
            TokenError::Ttl { .. } => Exit::Usage,
            TokenError::Crypto(_) => Exit::Failure,
            TokenError::File { .. } | TokenError::Exposed { .. } | TokenError::Malformed { .. } => {
                Exit::Input
            }
        };
        Self::new(exit, error.to_string())
    }
}

/// An issuer that signs tokens for trying things out.
pub struct DevIssuer {
    iss: String,
    kid: String,
    audience: String,
    public: PublicKey,
    key: EncodingKey,
}

impl DevIssuer {
    /// Makes an issuer with a new key and writes it to `path`, which must not exist.
    ///
    /// # Errors
    /// [`TokenError::File`] when the file exists or cannot be written; [`TokenError::Crypto`].
    pub fn create(path: &Path, iss: &str, audience: &str) -> Result<Self, TokenError> {
        let der = EcdsaKeyPair::generate_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &aws_lc_rs::rand::SystemRandom::new(),
        )
        .map_err(|_| TokenError::Crypto("make a key"))?;
        let public = PublicKey::of(der.as_ref()).ok_or(TokenError::Crypto("read the new key"))?;
        let mut held = Held {
            iss: iss.to_owned(),
            kid: public.thumbprint(),
            audience: audience.to_owned(),
            private_key_pem: pem(der.as_ref()),
        };
        let written = write_new(path, &held);
        held.private_key_pem.zeroize();
        written.map_err(|cause| TokenError::File { path: path.to_owned(), cause })?;
        Self::load(path)
    }

    /// Reads the issuer that [`Self::create`] wrote.
    ///
    /// # Errors
    /// [`TokenError::File`], [`TokenError::Exposed`] or [`TokenError::Malformed`].
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let text = read_private(path)?;
        let fault = |why| TokenError::Malformed { path: path.to_owned(), why };
        let held: Held = serde_json::from_str(&text)
            .map_err(|_| fault("expected an object with `iss`, `kid`, `audience` and `private_key_pem`"))?;
        let Held { iss, kid, audience, private_key_pem } = held;
        let pem = Zeroizing::new(private_key_pem);
        let key = "`private_key_pem` is no P-256 key in PKCS#8";
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| fault(key))?;
        let public = PublicKey::of(der.secret_pkcs8_der()).ok_or_else(|| fault(key))?;
        let key = EncodingKey::from_ec_der(der.secret_pkcs8_der());
        Ok(Self { iss, kid, audience, public, key })
    }

    /// The exact `iss` of its tokens.
    pub fn iss(&self) -> &str {
        &self.iss
    }

    /// The audience of its tokens when none is asked for.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Its public key, as a set of one.
    ///
    /// # Standard
    /// RFC 7517 §5, RFC 7518 §6.2.1.
    pub fn jwks_json(&self) -> Value {
        let PublicKey { x, y } = &self.public;
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "alg": "ES256", "use": "sig" }
        ] })
    }

    /// Signs a token: valid from `now` for `ttl`, of 1 s to [`TTL_MAX`].
    ///
    /// # Errors
    /// [`TokenError::Ttl`] outside these bounds; [`TokenError::Crypto`].
    pub fn mint(
        &self,
        subject: &str,
        audience: Option<&str>,
        ttl: Duration,
        now: Timestamp,
        jti: &str,
    ) -> Result<String, TokenError> {
        if ttl < Duration::from_secs(1) || ttl > TTL_MAX {
            return Err(TokenError::Ttl { ttl });
        }
        let issued = now.as_seconds();
        let claims = Claims {
            iss: &self.iss,
            sub: subject,
            aud: audience.unwrap_or(&self.audience),
            iat: issued,
            nbf: issued,
            exp: now.after(ttl).as_seconds(),
            jti,
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| TokenError::Crypto("sign"))
    }
}

impl std::fmt::Debug for DevIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevIssuer").field("iss", &self.iss).field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The file, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    iss: String,
    kid: String,
    audience: String,
    private_key_pem: String,
}

#[derive(Serialize)]
struct Claims<'t> {
    iss: &'t str,
    sub: &'t str,
    aud: &'t str,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: &'t str,
}

/// A point of P-256, its coordinates in base64url.
struct PublicKey {
    x: String,
    y: String,
}

impl PublicKey {
    fn of(pkcs8: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
        // Uncompressed, SEC 1 §2.3.3: 4, then 32 bytes each.
        let point = pair.public_key().as_ref();
        let coordinate = |range| point.get(range).map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        Some(Self { x: coordinate(1..33)?, y: coordinate(33..65)? })
    }

    /// # Standard
    /// RFC 7638 §3: the required members only, in this order, without blanks.
    fn thumbprint(&self) -> String {
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, self.x, self.y);
        URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()))
    }
}

fn pem(pkcs8: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(pkcs8));
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    for (place, c) in body.chars().enumerate() {
        if place > 0 && place % 64 == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push_str("\n-----END PRIVATE KEY-----\n");
    text
}

fn write_new(path: &Path, held: &Held) -> io::Result<()> {
    let text = Zeroizing::new(serde_json::to_vec_pretty(held)?);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, TokenError> {
    let fault = |cause| TokenError::File { path: path.to_owned(), cause };
    let file = std::fs::File::open(path).map_err(fault)?;
    let mode = file.metadata().map_err(fault)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TokenError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    io::Read::read_to_string(&mut io::Read::take(file, FILE_BYTES_MAX), &mut text).map_err(fault)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation};

    const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);

    fn issuer() -> (tempfile::TempDir, PathBuf, DevIssuer) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(DEV_ISSUER_FILE);
        let issuer = DevIssuer::create(&path, "https://issuer.example", "orders").expect("an issuer");
        (folder, path, issuer)
    }

    #[test]
    fn a_minted_token_verifies_with_the_published_key() {
        let (_folder, path, created) = issuer();
        let issuer = DevIssuer::load(&path).expect("the same issuer");
        assert_eq!(created.jwks_json(), issuer.jwks_json());
        let token = issuer.mint("ledger", None, Duration::from_secs(300), NOW, "j-1").expect("a token");
        let keys: JwkSet = serde_json::from_value(issuer.jwks_json()).expect("a key set");
        let header = jsonwebtoken::decode_header(&token).expect("a header");
        assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::ES256, Some("JWT")));
        let key = keys.find(&header.kid.expect("a key id")).expect("the key");
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_exp = false;
        rules.set_audience(&["orders"]);
        let decoded =
            jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(key).expect("a key"), &rules);
        let expected = json!({
            "iss": "https://issuer.example", "sub": "ledger", "aud": "orders", "jti": "j-1",
            "iat": 1_795_000_000, "nbf": 1_795_000_000, "exp": 1_795_000_300,
        });
        assert_eq!(decoded.expect("a good signature").claims, expected);
    }

    #[test]
    fn a_life_has_bounds() {
        let (_folder, _path, issuer) = issuer();
        for (seconds, good) in [(0, false), (1, true), (3600, true), (3601, false)] {
            let minted = issuer.mint("ledger", Some("a"), Duration::from_secs(seconds), NOW, "j");
            assert_eq!(minted.is_ok(), good, "{seconds}");
        }
    }

    #[test]
    fn a_key_file_is_private_and_never_replaced() {
        let (_folder, path, _) = issuer();
        let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(DevIssuer::create(&path, "x", "y"), Err(TokenError::File { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("changed");
        assert!(matches!(DevIssuer::load(&path), Err(TokenError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn what_holds_no_issuer_is_refused() {
        let (_folder, path, issuer) = issuer();
        for text in ["", "{}", r#"{"iss":"a","kid":"b","audience":"c","private_key_pem":"secret"}"#] {
            std::fs::write(&path, text).expect("written");
            let error = DevIssuer::load(&path).expect_err(text);
            assert!(matches!(error, TokenError::Malformed { .. }), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(!format!("{issuer:?}").contains("PRIVATE"));
    }
}
