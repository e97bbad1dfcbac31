//! `portreeve revoke`: taking away, and seeing it in force.

mod wait;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::print::{Printer, cell};
use crate::cli::target::{Context, HubTarget};
use crate::cli::value::{Span, When, read_secret};
use crate::core::id::Name;

pub(in crate::cli) use self::wait::{is_effective, members, receipts_table};

/// Arguments of `revoke`.
#[derive(Args, Clone, Debug)]
pub struct RevokeArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to take away.
    #[command(subcommand)]
    pub what: What,
}

/// What can be taken away.
#[derive(Subcommand, Clone, Debug)]
pub enum What {
    /// A whole identity; its later tokens too.
    Identity {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Why, and whether to wait.
        #[command(flatten)]
        how: HowArgs,
    },
    /// One credential or signing key.
    Credential {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Why, and whether to wait.
        #[command(flatten)]
        how: HowArgs,
    },
    /// One token: by issuer and `jti`, or by a file that holds it.
    Token(TokenArgs),
    /// Everything of an identity issued before a time.
    IssuedBefore {
        /// The identity's name.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// The time.
        #[arg(value_parser = When::parse)]
        time: When,
        /// Why, and whether to wait.
        #[command(flatten)]
        how: HowArgs,
    },
}

/// Arguments of `revoke token`.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// The issuer record's name.
    #[arg(long, value_name = "NAME", value_parser = Name::parse, requires = "jti", required_unless_present = "file")]
    pub issuer: Option<Name>,
    /// The token's `jti`.
    #[arg(long, requires_all = ["issuer", "expires"])]
    pub jti: Option<String>,
    /// When the token ends of itself; the revocation is dropped after that. A JWT in a file says it.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub expires: Option<When>,
    /// A file that holds the token; `-` for standard input. Only its digest and expiry are sent.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["issuer", "jti"])]
    pub file: Option<PathBuf>,
    /// Why, and whether to wait.
    #[command(flatten)]
    pub how: HowArgs,
}

/// Why something is taken away, and whether to wait until it is in force.
#[derive(Args, Clone, Debug)]
pub struct HowArgs {
    /// Why; kept with the revocation.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
    /// Do it although more identities are denied than may be at once; it is on record, with the reason.
    #[arg(long)]
    pub break_glass: bool,
    /// Wait until no enforcement point can decide on older state.
    #[arg(long)]
    pub wait: bool,
    /// Longest time to wait.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = Span::parse)]
    pub timeout: Span,
}

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not; with `--wait`, also when the time is over before
/// every enforcement point has confirmed.
pub async fn run(args: RevokeArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.what {
        What::Identity { name, how } => {
            revoke(cx, json!({ "identity": name.as_str() }), &format!("identity `{name}`"), &how).await
        }
        What::Credential { name, how } => {
            revoke(cx, json!({ "credential": name.as_str() }), &format!("credential `{name}`"), &how).await
        }
        What::Token(args) => {
            let (target, what) = token_target(&args)?;
            revoke(cx, target, &what, &args.how).await
        }
        What::IssuedBefore { name, time, how } => {
            let target = json!({ "identity": name.as_str(), "issued_before": time.to_string() });
            let what = format!("everything of identity `{name}` issued before {time}");
            revoke(cx, target, &what, &how).await
        }
    }
}

/// Revokes `target`; says so, and waits if asked to.
///
/// # Errors
/// As [`run`].
pub async fn revoke(
    cx: &mut Context<'_, '_>,
    target: Value,
    what: &str,
    how: &HowArgs,
) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/revocations", cx.tenant);
    let body = json!({ "target": target, "reason": how.reason, "break_glass": how.break_glass });
    let committed = cx.client.post(&path, &body).await?;
    let Some(revision) = committed.get("revision").and_then(Value::as_u64) else {
        return Err(Failure::failed("the hub answered a revocation without its revision"));
    };
    if !cx.out.is_json() {
        let at = cell(committed.get("committed_at"));
        cx.out.line(format_args!("revoked {what}: committed as revision {revision} at {at}"))?;
        if let Some(by) = committed.get("effective_by").filter(|by| !by.is_null()) {
            cx.out.line(format_args!("in force everywhere by {} at the latest", cell(Some(by))))?;
        }
    }
    if how.wait {
        return wait::until_effective(cx, committed, revision, how.timeout.length()).await;
    }
    if cx.out.is_json() {
        cx.out.json(&committed)?;
    }
    cx.out.note(format_args!("where it is in force: portreeve fleet receipts {revision}"));
    Ok(())
}

fn token_target(args: &TokenArgs) -> Result<(Value, String), Failure> {
    match (&args.file, &args.issuer, &args.jti, args.expires) {
        (Some(file), ..) => {
            let (digest, expires) = digest_of(file, args.expires)?;
            let what = format!("the token with digest {digest}");
            Ok((json!({ "token_digest": digest, "expires": expires.to_string() }), what))
        }
        (None, Some(issuer), Some(jti), Some(expires)) => {
            let target = json!({ "issuer": issuer.as_str(), "jti": jti, "expires": expires.to_string() });
            Ok((target, format!("token `{}` of issuer `{issuer}`", jti.escape_debug())))
        }
        _ => Err(Failure::usage("name a token: --issuer, --jti and --expires, or --file")),
    }
}

/// SHA-256 of what was signed, in base64url, and the token's `exp`, both unverified: the
/// signature covers `exp`, so a token that any issuer vouches for carries its true one. Of an opaque
/// token, which does not say when it ends, the SHA-256 of the whole.
fn digest_of(file: &Path, expires: Option<When>) -> Result<(String, When), Failure> {
    let token = read_secret(file)?;
    let digest =
        |bytes: &[u8]| URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes));
    if let Some(expires) = expires {
        if token.matches('.').count() == 2 {
            return Err(Failure::usage("--expires is for opaque tokens: a JWT says when it ends"));
        }
        return Ok((digest(token.as_bytes()), expires));
    }
    let fault = |why: &str| Failure::input(format!("`{}` holds no JWT: {why}", file.display()));
    let parts = "expected three parts with dots, or --expires with an opaque token";
    let (signed, _) = token.rsplit_once('.').ok_or_else(|| fault(parts))?;
    let (_, payload) = signed.split_once('.').ok_or_else(|| fault(parts))?;
    let claims = URL_SAFE_NO_PAD.decode(payload).map_err(|_| fault("its second part is no base64url"))?;
    let claims: Value = serde_json::from_slice(&claims).map_err(|_| fault("its second part is no JSON"))?;
    let seconds = claims.get("exp").and_then(whole_seconds).ok_or_else(|| fault("it has no number `exp`"))?;
    let expires = When::from_seconds(seconds).map_err(|_| fault("its `exp` is out of range"))?;
    Ok((digest(signed.as_bytes()), expires))
}

/// A NumericDate may have a fraction (RFC 7519 §2); the revocation must outlive it.
fn whole_seconds(exp: &Value) -> Option<i64> {
    exp.as_i64().or_else(|| {
        let rounded = exp.as_f64()?.ceil();
        format!("{rounded:.0}").parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    #[test]
    fn a_token_is_named_by_the_digest_of_what_was_signed() {
        // {"alg":"none"} . {"exp":1795000000.5}
        let file = file_with("eyJhbGciOiJub25lIn0.eyJleHAiOjE3OTUwMDAwMDAuNX0.c2ln\n");
        let (digest, expires) = digest_of(file.path(), None).expect("a token");
        assert_eq!(expires.to_string(), "2026-11-18T11:06:41Z");
        assert_eq!(digest.len(), 43, "32 bytes in base64url");
        let other = file_with("eyJhbGciOiJub25lIn0.eyJleHAiOjE3OTUwMDAwMDAuNX0.b3RoZXI");
        assert_eq!(
            digest_of(other.path(), None).expect("a token").0,
            digest,
            "the signature is not part of it"
        );
    }

    #[test]
    fn an_opaque_token_is_named_by_the_digest_of_the_whole() {
        let ends = When::parse("2026-11-18T11:06:41Z").expect("a time");
        let (digest, expires) = digest_of(file_with("abc\n").path(), Some(ends)).expect("a token");
        // The vector of FIPS 180.
        assert_eq!(digest, "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
        assert_eq!(expires.to_string(), ends.to_string());
        assert!(digest_of(file_with("a.b.c").path(), Some(ends)).is_err());
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        for bad in ["", "secret", "a.b", "a.!.c", "e30.e30.x", "a b.c.d", "eyJhbGciOiJub25lIn0.bm9qc29u.x"] {
            let failure = digest_of(file_with(bad).path(), None).expect_err(bad);
            assert_eq!(failure.exit().code(), 3, "{bad:?}");
            assert!(!failure.to_string().contains("secret"), "{failure}");
        }
    }
}
