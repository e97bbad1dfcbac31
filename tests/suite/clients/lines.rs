//! curl: each version of HTTP, in clear and by TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use portreeve::pep::{ListenerTls, TlsSettings};

use super::{Said, run};
use crate::support::front::Gate;
use crate::support::peer::peer;
use crate::support::upstream::{Reply, Upstream, ok};
use crate::support::world::World;

/// What is asked for beside the body: version, status, bytes sent.
const WRITE: &str = "\n%{http_version} %{http_code} %{size_upload}";

struct Curl {
    program: PathBuf,
    gate: Gate,
    scheme: &'static str,
    /// The authority that it believes.
    ca: Option<PathBuf>,
}

impl Curl {
    /// Runs it; what it says last, and all before.
    fn ask(&self, path: &str, arguments: &[&str]) -> (String, Said) {
        let port = self.gate.running.address().port();
        let mut command = Command::new(&self.program);
        command.args(["--silent", "--show-error", "--include", "--max-time", "50", "--write-out", WRITE]);
        command.args(["--noproxy", "*", "--resolve", &format!("orders.test:{port}:127.0.0.1")]);
        if let Some(ca) = &self.ca {
            command.arg("--cacert").arg(ca);
        }
        let said = run(command.args(arguments).arg(format!("{}://orders.test:{port}{path}", self.scheme)));
        assert_eq!(said.code, Some(0), "{arguments:?}: {} {}", said.out, said.err);
        (said.out.lines().last().unwrap().to_owned(), said)
    }
}

/// A certificate for `orders.test`, and its key, in this folder.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["orders.test".to_owned()]).unwrap();
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

#[test]
fn curl_is_answered_by_each_version() {
    let Some(program) = peer("PORTREEVE_CURL") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let upstream = Upstream::new(|arrived| {
        let length = arrived.body.len().to_string();
        Reply::Bytes(ok("", if arrived.body.is_empty() { "hello" } else { &length }))
    });
    let clear = || Gate::new(upstream.address());
    let secure = Gate::with(upstream.address(), |_, listener| {
        let settings = TlsSettings::one(certificate.clone(), key.clone());
        let tls = ListenerTls::open(&listener.name, settings, World::new().clock.clone());
        listener.tls = Some(Arc::new(tls.unwrap()));
    });
    let by = |gate, scheme, ca| Curl { program: program.clone(), gate, scheme, ca };
    let clear = by(clear(), "http", None);
    let secure = by(secure, "https", Some(certificate.clone()));
    let large = folder.path().join("large");
    fs::write(&large, vec![b'x'; 3 << 20]).unwrap();
    let upload = format!("@{}", large.display());
    for (curl, version, shown) in [
        (&clear, "--http1.1", "1.1"),
        (&clear, "--http1.0", "1"),
        (&clear, "--http2-prior-knowledge", "2"),
        (&secure, "--http1.1", "1.1"),
        (&secure, "--http2", "2"),
    ] {
        let auth = format!("Authorization: Bearer {}", curl.gate.token());
        let (last, said) = curl.ask("/orders/1?a=b", &[version, "-H", &auth]);
        assert_eq!(last, format!("{shown} 200 0"), "{version}");
        assert!(said.out.contains("hello\n"), "{}", said.out);
        let arrived = upstream.next();
        assert_eq!((arrived.line(), arrived.one("authorization")), ("GET /orders/1?a=b HTTP/1.1", None));

        let (last, said) = curl.ask("/orders/1", &[version]);
        assert_eq!(last, format!("{shown} 401 0"), "{version}");
        assert!(said.out.to_ascii_lowercase().contains("www-authenticate: bearer"), "{}", said.out);
        let (last, _) = curl.ask("/orders/../orders/1", &[version, "--path-as-is", "-H", &auth]);
        assert_eq!(last, format!("{shown} 400 0"), "{version}");
        assert!(upstream.is_untouched());

        let (last, said) = curl.ask("/orders/1", &[version, "--head", "-H", &auth]);
        assert_eq!(last, format!("{shown} 200 0"), "{version}");
        assert!(said.out.to_ascii_lowercase().contains("content-length: 5") && !said.out.contains("hello"));
        assert_eq!(upstream.next().line(), "HEAD /orders/1 HTTP/1.1");

        // Over HTTP/1.1 it would not send the body without a `100`. Over HTTP/2 it gets none, and sends
        // after a while of its own.
        let patience = if shown == "2" { "0.1" } else { "100" };
        let wait = ["-H", "Expect: 100-continue", "--expect100-timeout", patience, "--data-binary", &upload];
        if shown != "1" {
            let sized = [&[version, "-H", "Content-Type: a/b"][..], &wait].concat();
            let (last, said) = curl.ask("/open/x", &sized);
            assert_eq!(last, format!("{shown} 200 {}", 3 << 20), "{version}");
            assert!(said.out.contains("\n3145728"), "{}", said.out);
            assert_eq!(upstream.next().body.len(), 3 << 20);
        }
        if shown == "1.1" {
            let (last, said) = curl.ask("/orders/1", &[&[version][..], &wait].concat());
            assert_eq!(last, "1.1 401 0", "refused before its body");
            assert!(!said.out.contains(" 100 "), "{}", said.out);
            assert!(upstream.is_untouched());
        }
    }
}
