//! Mutual TLS over real sockets: who is let in, how one joins, what a certificate's life is like,
//! files that change under a running hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portreeve::core::id::Name;
use portreeve::core::identity::{Keyer, SnapshotCell};
use portreeve::hub::{AccessSettings, HubSettings, StreamSecurity, StreamSettings, TlsFiles};
use portreeve::mtls::{Cluster, HubVerifier, JoinToken, WallClock, roots};
use portreeve::state::{
    self, AppliedBatch, Applier, ClientSettings, Dial, EnrolledDial, EnrolmentSettings, FilesDial, HubFiles,
    LastKnownGood, Observer, StateStatus, tuned,
};
use portreeve::wire::state_proto as proto;
use portreeve::wire::state_proto::enrolment_client::EnrolmentClient;
use portreeve::wire::state_proto::hub_message::Message as Down;
use portreeve::wire::state_proto::spoke_message::Message as Up;
use portreeve::wire::state_proto::state_sync_client::StateSyncClient;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, ClientTlsConfig, Identity};
use tonic::{Code, Status};

use super::lab::{HandClock, Lab, demo, document, resource_spec, settings, until};
use super::stream::{MINUTE, hello};
use crate::support::PATIENCE;

const LOOK_EVERY: Duration = Duration::from_millis(5);
const HOUR: Duration = Duration::from_secs(3600);

/// A hub that is its own authority.
fn own(directory: &Path) -> HubSettings {
    let access = AccessSettings { look_every: LOOK_EVERY, ..AccessSettings::default() };
    let streams = StreamSettings { ping_interval: Duration::from_millis(20), ..StreamSettings::default() };
    HubSettings { access, streams, ..settings(directory) }
}

async fn own_lab() -> (tempfile::TempDir, Lab) {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::start_with(own(directory.path()), HandClock::new()).await;
    (directory, lab)
}

async fn join_token(lab: &Lab, id: &str, tenants: &[&str]) -> JoinToken {
    let body = json!({ "id": id, "scope": { "tenants": tenants } });
    let (status, made) = lab.ask("POST", "/v1/join-tokens", Some(body)).await;
    assert_eq!(status, 201, "{made:#}");
    JoinToken::parse(made["token"].as_str().unwrap()).unwrap()
}

fn clock(lab: &Lab) -> WallClock {
    WallClock::new(lab.clock.clone())
}

/// A connection that trusts whom the token names.
async fn by_token(lab: &Lab, cluster: Cluster, authority: [u8; 32]) -> Result<Channel, String> {
    let verifier = Arc::new(HubVerifier::by_token(&cluster, authority, clock(lab)));
    connect(lab, ClientTlsConfig::new().domain_name(cluster.hub_host()), verifier).await
}

async fn connect(lab: &Lab, tls: ClientTlsConfig, verifier: Arc<HubVerifier>) -> Result<Channel, String> {
    let endpoint = tuned(&format!("https://{}", lab.stream)).unwrap();
    let endpoint = endpoint.tls_config_with_verifier(tls, verifier).unwrap();
    endpoint.connect().await.map_err(|error| format!("{error:?}"))
}

fn request(key: &KeyPair) -> Bytes {
    Bytes::copy_from_slice(CertificateParams::default().serialize_request(key).unwrap().der())
}

async fn join(lab: &Lab, token: &JoinToken, id: &str, key: &KeyPair) -> Result<proto::Enrolled, Status> {
    let channel = by_token(lab, token.cluster(), *token.authority()).await.unwrap();
    let asked =
        proto::JoinRequest { token: token.reveal().to_string(), spoke_id: id.into(), csr_der: request(key) };
    EnrolmentClient::new(channel).join(asked).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_good_once_in_time_for_one() {
    let (_directory, lab) = own_lab().await;
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let token = join_token(&lab, "edge", &["demo"]).await;
    let refused = |answer: Result<proto::Enrolled, Status>, code: Code, text: &str| {
        let status = answer.unwrap_err();
        assert!(status.code() == code && status.message().contains(text), "{status}");
    };
    refused(join(&lab, &token, "other", &key).await, Code::PermissionDenied, "another enforcement point");
    let enrolled = join(&lab, &token, "edge", &key).await.unwrap();
    assert_eq!((enrolled.chain_der.len(), enrolled.roots_der.len(), enrolled.signing_keys.len()), (1, 1, 1));
    // The answer may have been lost: the same key is answered again, another is not.
    assert!(join(&lab, &token, "edge", &key).await.is_ok());
    refused(join(&lab, &token, "edge", &other).await, Code::PermissionDenied, "used already");
    let late = join_token(&lab, "edge", &["demo"]).await;
    lab.clock.pass(HOUR + Duration::from_secs(1));
    refused(join(&lab, &late, "edge", &key).await, Code::PermissionDenied, "expired at 2026-06-21T01:00:01Z");
    // One that was made up, for the right hub.
    let id = Name::parse("edge").unwrap();
    let invented = JoinToken::mint(token.cluster(), *token.authority(), id.clone()).unwrap();
    refused(join(&lab, &invented, "edge", &key).await, Code::PermissionDenied, "not known here");
    let removed = join_token(&lab, "edge", &["demo"]).await;
    lab.ask("DELETE", "/v1/fleet/edge", None).await;
    refused(join(&lab, &removed, "edge", &key).await, Code::PermissionDenied, "not known here");
    let channel = by_token(&lab, token.cluster(), *token.authority()).await.unwrap();
    let damaged = proto::JoinRequest { token: "prt_join_x".into(), ..Default::default() };
    let damaged = EnrolmentClient::new(channel.clone()).join(damaged).await.unwrap_err();
    assert_eq!(damaged.code(), Code::InvalidArgument);
    let nobody = EnrolmentClient::new(channel).renew(proto::RenewRequest::default()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);

    // The joiner knows the hub by the token alone.
    let told = by_token(&lab, token.cluster(), [9; 32]).await.unwrap_err();
    assert!(told.contains("not the one that the join token names"), "{told}");
    assert!(
        by_token(&lab, Cluster::new([9; 16]), *token.authority()).await.is_err(),
        "another cluster's hub"
    );

    // Whoever keeps trying waits.
    let mut last = Code::Ok;
    for _ in 0..30 {
        last = join(&lab, &invented, "edge", &key).await.unwrap_err().code();
    }
    assert_eq!(last, Code::ResourceExhausted);
    lab.clock.pass(Duration::from_secs(61));
    let good = join_token(&lab, "edge", &["demo"]).await;
    assert!(join(&lab, &good, "edge", &key).await.is_ok());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_race_with_one_join_token_one_wins() {
    let (_directory, lab) = own_lab().await;
    for _ in 0..3 {
        let token = join_token(&lab, "edge", &["demo"]).await;
        let keys: Vec<_> = (0..6).map(|_| KeyPair::generate().unwrap()).collect();
        let racing = keys.iter().map(|key| join(&lab, &token, "edge", key));
        let answers = futures_util::future::join_all(racing).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        lab.clock.pass(Duration::from_secs(61));
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn join_tokens_at_their_bounds() {
    let (_directory, lab) = own_lab().await;
    for (body, status) in [
        (json!({ "id": "edge", "ttl_s": 60 }), 201),
        (json!({ "id": "edge", "ttl_s": 604_800 }), 201),
        (json!({ "id": "edge", "ttl_s": 59 }), 422),
        (json!({ "id": "edge", "ttl_s": 604_801 }), 422),
        (json!({ "id": "Edge" }), 422),
        (json!({}), 422),
        (json!({ "id": "edge", "scope": {} }), 422),
    ] {
        let (found, answer) = lab.ask("POST", "/v1/join-tokens", Some(body.clone())).await;
        assert_eq!(found, status, "{body} {answer:#}");
    }
    // Given none, an enforcement point has none: nobody holds everything unasked.
    let (_, made) = lab.ask("POST", "/v1/join-tokens", Some(json!({ "id": "new" }))).await;
    assert_eq!(made["scope"], json!([]));
    lab.stop().await;
}

struct Unobserved;

impl Observer for Unobserved {
    fn in_force(&self, _: &AppliedBatch<'_>) -> u64 {
        0
    }
}

/// An enforcement point's client that runs.
struct Edge {
    state: Arc<SnapshotCell>,
    status: Arc<StateStatus>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Edge {
    fn start(folder: &Path, lab: &Lab, incarnation: u8, dial: Arc<dyn Dial>) -> Self {
        let (lkg, loaded) = LastKnownGood::open(&folder.join("state"), "boot-1", Keyer::new(1)).unwrap();
        let state = Arc::new(SnapshotCell::new(loaded.snapshot));
        let status = Arc::new(StateStatus::default());
        let applier = Applier::new(Arc::clone(&state), lkg, Box::new(Unobserved), Arc::clone(&status));
        let settings = ClientSettings {
            dial,
            endpoints: vec![format!("https://{}", lab.stream)],
            spoke_id: "edge".to_owned(),
            incarnation: [incarnation; 16],
            deny_after_max: MINUTE,
            waived: Vec::new(),
            jitter: 7,
        };
        let stop = CancellationToken::new();
        let ended = tokio::spawn(state::run(
            settings,
            applier,
            Arc::clone(&status),
            lab.clock.clone(),
            state::KeyReports::new().1,
            stop.clone(),
        ));
        Self { state, status, stop, ended }
    }

    async fn holds(&self, tenants: &[&str]) {
        let held = || self.state.load().cells().iter().map(|cell| cell.cell.to_string()).collect::<Vec<_>>();
        until("the tenants of the scope are held", || held() == tenants).await;
    }

    async fn confirmed(&self) {
        until("the hub confirms the state", || self.state.lease().fresh_at.is_some()).await;
    }

    async fn fails(&self, text: &str) {
        let failed = || self.status.last_error().is_some_and(|error| error.contains(text));
        until(text, failed).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.ended).await.expect("an end").unwrap();
    }
}

fn enrolled(folder: &Path, lab: &Lab) -> Arc<EnrolledDial> {
    let settings = EnrolmentSettings {
        join_token_file: folder.join("join.token"),
        folder: folder.join("identity"),
        spoke_id: Name::parse("edge").unwrap(),
        look_every: LOOK_EVERY,
        jitter: 7,
    };
    Arc::new(EnrolledDial::open(settings, lab.clock.clone()).unwrap())
}

fn put_token(folder: &Path, token: &JoinToken) {
    std::fs::write(folder.join("join.token"), &**token.reveal()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_joins_holds_its_tenants_renews_by_itself_and_is_needed_no_token_again() {
    let (_directory, lab) = own_lab().await;
    lab.apply(&demo()).await;
    let mut other = document("resource", "x", resource_spec());
    other["tenant"] = json!("other");
    lab.apply(&[other]).await;
    let folder = tempfile::tempdir().unwrap();
    let dial = enrolled(folder.path(), &lab);
    let edge = Edge::start(folder.path(), &lab, 1, dial.clone());
    edge.fails("hub join-token --id edge").await;
    // A token for somebody else helps nobody, and is not spent on it.
    let theirs = join_token(&lab, "theirs", &["demo"]).await;
    put_token(folder.path(), &theirs);
    edge.fails("it is for `theirs`").await;
    put_token(folder.path(), &join_token(&lab, "edge", &["demo"]).await);
    edge.holds(&["demo"]).await;
    edge.confirmed().await;
    std::fs::remove_file(folder.path().join("join.token")).unwrap();

    // The scope changes under its feet: brought in, then dropped, on disk too.
    let scope = |tenants: Value| lab.ask("PUT", "/v1/fleet/edge/scope", Some(json!({ "tenants": tenants })));
    scope(json!(["demo", "other"])).await;
    edge.holds(&["demo", "other"]).await;
    scope(json!(["other"])).await;
    edge.holds(&["other"]).await;
    let revoked = lab.revoke("ledger").await;
    let path = format!("/v1/revisions/{}/receipts", revoked["revision"]);
    lab.until_answer(&path, |receipt| receipt["state"] == "EFFECTIVE" && receipt["members"] == json!([]))
        .await;
    assert!(!folder.path().join("state/demo.lkg").exists());

    // At half of its life the certificate is renewed; when the one of its stream ends, the stream is
    // opened anew with the next one.
    let first = dial.expires().unwrap();
    lab.clock.pass(Duration::from_secs(11 * 3600));
    assert_eq!(dial.expires(), Some(first), "too early");
    lab.clock.pass(2 * HOUR);
    until("the certificate is renewed", || dial.expires() > Some(first)).await;
    let streams = edge.status.connections();
    lab.clock.pass(Duration::from_secs(11 * 3600 + 600));
    until("a stream of the newer certificate", || edge.status.connections() > streams).await;
    edge.holds(&["other"]).await;
    edge.stop().await;

    // Another process goes on with what is kept.
    let dial = enrolled(folder.path(), &lab);
    let edge = Edge::start(folder.path(), &lab, 2, dial.clone());
    edge.confirmed().await;
    edge.stop().await;

    // Away for longer than its certificate lives: a token is needed, and said so.
    lab.clock.pass(25 * HOUR);
    let edge = Edge::start(folder.path(), &lab, 3, enrolled(folder.path(), &lab));
    edge.fails("the certificate expired at 2026-06-2").await;
    put_token(folder.path(), &join_token(&lab, "edge", &["demo"]).await);
    edge.holds(&["demo"]).await;

    // Lost, and turned away; found again, and admitted with a new token alone.
    lab.ask("DELETE", "/v1/fleet/edge", None).await;
    edge.fails("removed from the fleet").await;
    let (_, fleet) = lab.ask("GET", "/v1/fleet", None).await;
    assert_eq!(fleet["admissions"][0]["removed"], true, "{fleet:#}");
    lab.ask("PUT", "/v1/fleet/edge/scope", Some(json!({ "tenants": ["demo"] }))).await;
    edge.fails("from before it was removed").await;
    put_token(folder.path(), &join_token(&lab, "edge", &["other"]).await);
    lab.clock.pass(Duration::from_secs(1));
    edge.holds(&["other"]).await;
    edge.stop().await;
    lab.stop().await;
}

/// An authority of one's own, and certificates by it.
struct Pki {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// What a certificate is for.
struct Asked<'a> {
    sans: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
    years: (i32, i32),
    by: &'a Pki,
}

impl Pki {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn spoke(&self, uri: &str) -> Asked<'_> {
        let sans = vec![SanType::URI(uri.try_into().unwrap())];
        Asked { sans, usage: ExtendedKeyUsagePurpose::ClientAuth, years: (2026, 2030), by: self }
    }

    fn hub(&self) -> Asked<'_> {
        let sans = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        Asked { sans, usage: ExtendedKeyUsagePurpose::ServerAuth, years: (2026, 2030), by: self }
    }

    fn der(&self) -> CertificateDer<'static> {
        use rustls::pki_types::pem::PemObject as _;
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

impl Asked<'_> {
    /// Certificate and key in PEM.
    fn make(self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = self.sans;
        params.extended_key_usages = vec![self.usage];
        params.not_before = rcgen::date_time_ymd(self.years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(self.years.1, 1, 1);
        (params.signed_by(&key, &self.by.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn identity(self) -> Identity {
        let (certificate, key) = self.make();
        Identity::from_pem(certificate, key)
    }
}

/// The files of a hub with a certificate of `pki`.
fn put_files(folder: &Path, pki: &Pki) -> TlsFiles {
    let at = |name: &str| folder.join(name);
    let (certificate, key) = pki.hub().make();
    std::fs::write(at("hub.crt"), certificate).unwrap();
    std::fs::write(at("hub.key"), key).unwrap();
    std::fs::write(at("spokes.pem"), &pki.certificate).unwrap();
    TlsFiles { certificate: at("hub.crt"), key: at("hub.key"), client_ca: Some(at("spokes.pem")) }
}

async fn files_lab(directory: &Path, pki: &Pki) -> Lab {
    let own = own(directory);
    let security = StreamSecurity::MutualTls(Some(put_files(directory, pki)));
    let access = AccessSettings { security, ..own.access };
    Lab::start_with(HubSettings { access, ..own }, HandClock::new()).await
}

/// A connection with this certificate, to a hub of `pki`.
async fn with_identity(lab: &Lab, pki: &Pki, identity: Option<Identity>) -> Result<Channel, String> {
    let verifier = Arc::new(HubVerifier::by_host(roots(&[pki.der()]).unwrap(), clock(lab)));
    let tls = ClientTlsConfig::new();
    connect(lab, identity.map_or(tls.clone(), |identity| tls.identity(identity)), verifier).await
}

/// How a hello as `edge`, of a process of its own, ends: `Ok` with a welcome.
async fn said_hello(channel: Result<Channel, String>) -> Result<(), Option<Code>> {
    let mut client = StateSyncClient::new(channel.map_err(|_| None)?);
    let hello = proto::SpokeMessage { message: Some(Up::Hello(hello("edge", 9, MINUTE))) };
    let messages = tokio_stream::StreamExt::chain(tokio_stream::iter([hello]), tokio_stream::pending());
    // Under TLS 1.3 a client is done before it is judged: a refused handshake shows at the first answer.
    let coded = |status: Status| {
        let transport = std::error::Error::source(&status).is_some();
        if transport { None } else { Some(status.code()) }
    };
    let mut answers = client.sync(messages).await.map_err(coded)?.into_inner();
    match answers.message().await.map_err(coded)?.and_then(|answer| answer.message) {
        Some(Down::Welcome(_)) => Ok(()),
        other => panic!("neither a welcome nor a refusal: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_by_which_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let (pki, stranger) = (Pki::new(), Pki::new());
    let lab = files_lab(directory.path(), &pki).await;
    lab.apply(&demo()).await;
    let edge = || pki.spoke("spiffe://example.org/ns/prod/edge");
    let host = SanType::DnsName("edge".try_into().unwrap());
    type Row<'a> = (&'static str, Option<Asked<'a>>, Result<(), Option<Code>>);
    let rows: Vec<Row<'_>> = vec![
        ("its own", Some(edge()), Ok(())),
        ("by its host name", Some(Asked { sans: vec![host], ..edge() }), Ok(())),
        ("none", None, Err(Some(Code::Unauthenticated))),
        (
            "another's",
            Some(pki.spoke("spiffe://example.org/ns/prod/other")),
            Err(Some(Code::PermissionDenied)),
        ),
        (
            "one that names nobody",
            Some(Asked { sans: Vec::new(), ..edge() }),
            Err(Some(Code::PermissionDenied)),
        ),
        ("of another authority", Some(stranger.spoke("spiffe://example.org/edge")), Err(None)),
        ("expired", Some(Asked { years: (2025, 2026), ..edge() }), Err(None)),
        ("not yet good", Some(Asked { years: (2027, 2030), ..edge() }), Err(None)),
        ("a server's", Some(Asked { usage: ExtendedKeyUsagePurpose::ServerAuth, ..edge() }), Err(None)),
    ];
    for (what, asked, expected) in rows {
        let channel = with_identity(&lab, &pki, asked.map(Asked::identity)).await;
        assert_eq!(said_hello(channel).await, expected, "{what}");
    }
    // Nor by any other call.
    let calls = [
        ("none", None, Code::Unauthenticated),
        ("another's", Some("spiffe://example.org/other"), Code::PermissionDenied),
    ];
    for (what, uri, code) in calls {
        let identity = uri.map(|uri| pki.spoke(uri).identity());
        let mut client = StateSyncClient::new(with_identity(&lab, &pki, identity).await.unwrap());
        let urgent = proto::UrgentHello { spoke_id: "edge".into(), ..Default::default() };
        assert_eq!(client.urgent(urgent).await.unwrap_err().code(), code, "{what}");
        let repair =
            proto::RepairRequest { spoke_id: "edge".into(), cell: "demo".into(), ..Default::default() };
        assert_eq!(client.repair(repair).await.unwrap_err().code(), code, "{what}");
        // A chunk names nobody: by one's own name, and without the tenant.
        let chunk = proto::ChunkRequest { cell: "demo".into(), hash: Bytes::from(vec![1; 32]) };
        assert_eq!(client.get_chunk(chunk).await.unwrap_err().code(), code, "{what}");
    }
    // Whoever joined comes in beside them, and a hub of another authority is not believed.
    let token = join_token(&lab, "joined", &["demo"]).await;
    assert!(join(&lab, &token, "joined", &KeyPair::generate().unwrap()).await.is_ok());
    assert!(with_identity(&lab, &stranger, None).await.is_err());
    lab.stop().await;
}

fn hub_files(folder: &Path, pki: &Pki, uri: &str) -> HubFiles {
    let at = |name: &str| folder.join(name);
    let (certificate, key) = pki.spoke(uri).make();
    std::fs::write(at("ca.pem"), &pki.certificate).unwrap();
    std::fs::write(at("edge.crt"), certificate).unwrap();
    std::fs::write(at("edge.key"), key).unwrap();
    HubFiles { ca: at("ca.pem"), certificate: at("edge.crt"), key: at("edge.key") }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_taken_over_and_what_is_open_stays_open() {
    let (directory, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (Pki::new(), Pki::new());
    let lab = files_lab(directory.path(), &first).await;
    lab.apply(&demo()).await;
    lab.ask("PUT", "/v1/fleet/edge/scope", Some(json!({ "all": true }))).await;
    let id = Name::parse("edge").unwrap();
    let files = hub_files(folder.path(), &first, "spiffe://example.org/edge");
    let dial = FilesDial::open(files, id.clone(), lab.clock.clone(), LOOK_EVERY).unwrap();
    let edge = Edge::start(folder.path(), &lab, 1, Arc::new(dial));
    edge.confirmed().await;

    // Something else under the same names: the hub goes on with what it had.
    let key = directory.path().join("hub.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    let spoke = |pki: &Pki| pki.spoke("spiffe://example.org/edge").identity();
    for _ in 0..3 {
        tokio::time::timeout(HOUR, with_identity(&lab, &first, Some(spoke(&first)))).await.unwrap().unwrap();
    }
    std::fs::write(&key, good).unwrap();

    // Another authority, its files swapped one by one as they come.
    put_files(directory.path(), &second);
    let welcomed = async |of: &Pki| said_hello(with_identity(&lab, &second, Some(spoke(of))).await).await;
    let taken = async { while welcomed(&second).await.is_err() {} };
    tokio::time::timeout(PATIENCE, taken).await.expect("the new files are taken over");
    assert_eq!(welcomed(&first).await, Err(None));
    let before = edge.state.lease().fresh_at;
    lab.clock.pass(Duration::from_secs(1));
    until("the stream of before still renews", || edge.state.lease().fresh_at > before).await;
    assert_eq!(edge.status.connections(), 1, "dropped");

    // The enforcement point's own files, too: what it dials with next is new.
    hub_files(folder.path(), &second, "spiffe://example.org/edge");
    edge.stop().await;
    let files = HubFiles {
        ca: folder.path().join("ca.pem"),
        certificate: folder.path().join("edge.crt"),
        key: folder.path().join("edge.key"),
    };
    let dial = Arc::new(FilesDial::open(files.clone(), id.clone(), lab.clock.clone(), LOOK_EVERY).unwrap());
    let edge = Edge::start(folder.path(), &lab, 2, dial);
    edge.confirmed().await;
    edge.stop().await;

    // Files that cannot be used are told at the start, by their names.
    let other = hub_files(folder.path(), &second, "spiffe://example.org/other");
    let told = FilesDial::open(other, id.clone(), lab.clock.clone(), LOOK_EVERY).unwrap_err().to_string();
    assert!(told.contains("edge.crt") && told.contains("it is of `other`"), "{told}");
    let absent = HubFiles { key: PathBuf::from("absent.key"), ..files };
    let told = FilesDial::open(absent, id, lab.clock.clone(), LOOK_EVERY).unwrap_err().to_string();
    assert!(told.contains("absent.key"), "{told}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_certificate_is_for_its_owner_and_refused_when_damaged() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_directory, lab) = own_lab().await;
    let folder = tempfile::tempdir().unwrap();
    put_token(folder.path(), &join_token(&lab, "edge", &["demo"]).await);
    let dial = enrolled(folder.path(), &lab);
    dial.dial(&format!("https://{}", lab.stream)).await.unwrap();
    let kept = folder.path().join("identity/identity.pem");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&kept).unwrap();
    assert!(!format!("{dial:?}").contains(&text[100..140]), "a key is shown");
    assert!(!folder.path().join("identity/next.key").exists());
    let open = |id: &str| {
        let settings = EnrolmentSettings {
            join_token_file: folder.path().join("join.token"),
            folder: folder.path().join("identity"),
            spoke_id: Name::parse(id).unwrap(),
            look_every: LOOK_EVERY,
            jitter: 7,
        };
        EnrolledDial::open(settings, lab.clock.clone()).map(|dial| dial.expires().is_some())
    };
    assert!(open("edge").unwrap());
    assert!(open("other").unwrap_err().to_string().contains("it is of `edge`"));
    for damaged in [&text[..text.len() / 2], "", &text.replacen("# joined by", "# joined", 1)] {
        std::fs::write(&kept, damaged).unwrap();
        let told = open("edge").unwrap_err().to_string();
        assert!(told.contains("identity.pem") && told.contains("remove it"), "{told}");
    }
    lab.stop().await;
}
