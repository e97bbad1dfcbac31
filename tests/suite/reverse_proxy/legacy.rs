//! Applications with credentials of their own: what they are shown in place of the caller's.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portreeve::pep::{Carriers, CredentialForm, ForwardSettings, UpstreamCredential, UpstreamSettings};

use crate::support::front::Gate;
use crate::support::tls::put;
use crate::support::upstream::Upstream;

fn open(form: &CredentialForm, file: &Path) -> Result<UpstreamCredential, String> {
    UpstreamCredential::open(&"app".into(), form.clone(), file).map_err(|error| error.to_string())
}

/// A gate whose upstream has a credential, and that would pass on a caller's.
fn gate(upstream: &Upstream, credential: &Arc<UpstreamCredential>) -> Gate {
    Gate::with(upstream.address(), |settings, _| {
        settings.forward = ForwardSettings { pass_credential: true, ..ForwardSettings::default() };
        settings.carriers = Carriers::new(true, Some("x-api-key")).unwrap();
        settings.upstreams.get_mut("app").unwrap().credential = Some(Arc::clone(credential));
    })
}

#[test]
fn the_upstreams_credential_arrives_and_the_callers_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = put(folder.path(), "secret", "correct horse\n");
    let basic = format!("Basic {}", STANDARD.encode("portreeve:correct horse"));
    let rows = [
        (CredentialForm::Basic("portreeve".into()), "authorization", basic.as_str()),
        (CredentialForm::Header("authorization".into()), "authorization", "correct horse"),
        (CredentialForm::Header("x-app-key".into()), "x-app-key", "correct horse"),
        (CredentialForm::Header("x-api-key".into()), "x-api-key", "correct horse"),
    ];
    for (form, name, value) in rows {
        let upstream = Upstream::hello();
        let credential = Arc::new(open(&form, &file).unwrap());
        let gate = gate(&upstream, &credential);
        let mut caller = gate.caller();
        // One with its token, and one on a route that asks for none, with a key.
        let forged =
            "DPoP: x\r\nX-App-Key: forged\r\nX_App_Key: forged\r\nX.App-Key: forged\r\nX-Kept: yes\r\n";
        assert_eq!(gate.order(&mut caller, forged).status, 200, "{form:?}");
        let keyed = format!("GET /open/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: mine\r\n{forged}\r\n");
        assert_eq!(caller.ask(&keyed).status, 200, "{form:?}");
        for arrived in [upstream.next(), upstream.next()] {
            assert_eq!(arrived.one(name), Some(value), "{form:?}");
            for held in ["authorization", "dpop", "x-api-key"].into_iter().filter(|held| *held != name) {
                assert_eq!(arrived.one(held), None, "{form:?} {held}");
            }
            let forged = arrived.head.iter().any(|line| line.ends_with("forged"));
            // Where another header is the credential's, this one is the caller's to use.
            assert_eq!(forged, name != "x-app-key", "{form:?} {:?}", arrived.head);
            assert_eq!(arrived.one("x-kept"), Some("yes"));
            assert_eq!(arrived.all("x-portreeve-decision").len(), 1);
        }
    }
}

#[test]
fn an_upstream_without_one_gets_none_of_another() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    assert_eq!(gate.order(&mut gate.caller(), "").status, 200);
    assert_eq!(upstream.next().one("authorization"), None);
}

#[test]
fn a_changed_file_counts_and_one_that_cannot_be_used_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = put(folder.path(), "secret", "first");
    let upstream = Upstream::hello();
    let credential = Arc::new(open(&CredentialForm::Header("x-app-key".into()), &file).unwrap());
    let gate = gate(&upstream, &credential);
    // What the part that watches the files looks at.
    let mut watched = UpstreamSettings::new("127.0.0.1".into(), 1);
    watched.credential = Some(credential);
    assert!(watched.has_files());
    let mut caller = gate.caller();
    for (text, shown) in
        [("first", "first"), ("second\r\n", "second"), ("", "second"), ("a\nb\n", "second"), ("3rd", "3rd")]
    {
        put(folder.path(), "secret", text);
        watched.look();
        assert_eq!(gate.order(&mut caller, "").status, 200);
        let arrived = upstream.next();
        assert_eq!((arrived.one("x-app-key"), arrived.connection), (Some(shown), 0), "{text:?}");
    }
    std::fs::remove_file(&file).unwrap();
    watched.look();
    assert_eq!(gate.order(&mut caller, "").status, 200);
    assert_eq!(upstream.next().one("x-app-key"), Some("3rd"));
    assert!(!format!("{watched:?}").contains("3rd"), "{watched:?}");
}

#[test]
fn what_a_file_must_hold() {
    let folder = tempfile::tempdir().unwrap();
    let basic = CredentialForm::Basic("portreeve".into());
    let header = CredentialForm::Header("x-app-key".into());
    let (most, above) = ("x".repeat(8192), "x".repeat(8193));
    let rows = [
        ("one line", &header, "a b\n", None),
        ("the longest", &header, most.as_str(), None),
        ("too long", &header, above.as_str(), Some("longer than 8 KiB")),
        ("nothing", &header, "\n", Some("empty")),
        ("two lines", &header, "a\nb", Some("more than one line")),
        ("a tab", &basic, "a\tb", Some("control character")),
        ("spaces around it", &header, " s3cret", Some("spaces around it")),
        ("a password with spaces around it", &basic, " a ", None),
        ("not ASCII", &header, "ä", Some("not ASCII")),
        ("a password not ASCII", &basic, "ä", None),
    ];
    for (row, form, text, refused) in rows {
        let file = put(folder.path(), "secret", text);
        let error = open(form, &file).err();
        assert_eq!(error.is_some(), refused.is_some(), "{row}: {error:?}");
        if let (Some(error), Some(refused)) = (error, refused) {
            assert!(error.starts_with("upstream `app`: `") && error.contains(refused), "{row}: {error}");
            assert!(text.trim().is_empty() || !error.contains(text), "{row}: {error}");
        }
    }
    let error = open(&header, &folder.path().join("absent")).unwrap_err();
    assert!(error.contains("absent") && error.contains("expected a readable file with one line"), "{error}");
}
