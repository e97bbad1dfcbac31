//! The command line from outside: arguments, exit codes, and talk with a hub that is a script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use portreeve::cli;
use portreeve::cli::failure::Exit;

/// What a command said and how it ended.
struct Done {
    exit: Exit,
    out: String,
    err: String,
}

fn portreeve(args: &[&str]) -> Done {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = cli::run_with(std::iter::once(&"portreeve").chain(args), &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Done { exit, out: text(out), err: text(err) }
}

/// A server that answers each request with the next of its answers, and tells what it was asked.
struct Script {
    url: String,
    asked: mpsc::Receiver<String>,
}

impl Script {
    fn new(answers: &[(u16, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answers: Vec<(u16, String)> = answers.iter().map(|(s, body)| (*s, (*body).to_owned())).collect();
        let (tell, asked) = mpsc::sync_channel(64);
        thread::spawn(move || {
            for (status, body) in answers {
                let (stream, _) = listener.accept().expect("a connection");
                let mut reader = BufReader::new(stream);
                // Told before it is answered: whoever has the answer finds the request told.
                if tell.send(request(&mut reader)).is_err() {
                    break;
                }
                let length = body.len();
                write!(reader.get_mut(), "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}")
                    .expect("an answer");
            }
        });
        Self { url, asked }
    }

    /// The requests so far: `METHOD path body`.
    fn requests(&self) -> Vec<String> {
        self.asked.try_iter().collect()
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> String {
    let mut first = String::new();
    reader.read_line(&mut first).expect("a request line");
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).expect("a header") > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        line.clear();
    }
    let mut sent = vec![0; length];
    reader.read_exact(&mut sent).expect("a body");
    let target = first.rsplit_once(' ').map_or("", |(target, _)| target);
    format!("{target} {}", String::from_utf8_lossy(&sent))
}

const EFFECTIVE: &str = r#"{"revision":42,"committed_at":"2026-11-01T00:00:00Z","state":"EFFECTIVE",
    "effective_since":"2026-11-01T00:00:00.25Z","members":[
    {"spoke_id":"edge-1","incarnation":"626d4e380d4a5de718dc6d59e5db96c0","state":"in_force","at":"2026-11-01T00:00:00.1Z","purged":3},
    {"spoke_id":"edge-2","incarnation":"570009c1f8ad5485b3fc77e7f12592b1","state":"lapsed","at":"2026-11-01T00:00:00.25Z"}]}"#;
const PENDING: &str = r#"{"revision":42,"committed_at":"2026-11-01T00:00:00Z","state":"PENDING","settled":1,"members":[
    {"spoke_id":"edge-1","incarnation":"626d4e380d4a5de718dc6d59e5db96c0","state":"in_force","at":"2026-11-01T00:00:00.1Z","purged":3},
    {"spoke_id":"edge-2","incarnation":"570009c1f8ad5485b3fc77e7f12592b1","state":"pending"}]}"#;
const COMMITTED: &str = r#"{"name":"r-1","revision":42,"committed_at":"2026-11-01T00:00:00Z",
    "effective_by":"2026-11-01T00:01:00Z"}"#;

#[test]
fn the_arguments_are_consistent() {
    use clap::CommandFactory as _;
    cli::Cli::command().debug_assert();
}

#[test]
fn bad_arguments_exit_with_2() {
    for args in [
        &[][..],
        &["fly"],
        &["--output", "xml", "identity", "list"],
        &["check"],
        &["check", "--config", "a", "--schema"],
        &["hub"],
        &["apply"],
        &["identity", "show"],
        &["identity", "show", "Ledger"],
        &["identity", "create", "ledger"],
        &["identity", "create", "ledger", "--environment", "prod", "--type", "robot"],
        &["identity", "create", "ledger", "--environment", "prod", "--bind", "main"],
        &["identity", "set", "ledger"],
        &["identity", "set", "ledger", "--end", "tomorrow"],
        &["credential", "create", "key-1", "--kind", "password", "--fingerprint", "x"],
        &["exception", "create", "e", "--identity", "a", "--lifts", "credential.revoked", "--reason", "r"],
        &["revoke", "identity", "ledger"],
        &["revoke", "identity", "ledger", "--reason", ""],
        &["revoke", "identity", "ledger", "--reason", "r", "--timeout", "soon"],
        &["revoke", "token", "--reason", "r"],
        &["revoke", "token", "--reason", "r", "--issuer", "main"],
        &["revoke", "token", "--reason", "r", "--issuer", "main", "--jti", "j"],
        &["revoke", "token", "--reason", "r", "--file", "f", "--issuer", "main"],
        &["explain", "--path", "/", "--token", "t", "--token-file", "f"],
        &["token", "mint", "--identity", "ledger", "--data", "d", "--key-file", "f"],
        &["identity", "list", "--hub", "https://hub.example"],
        &["completion", "fortran"],
    ] {
        let done = portreeve(args);
        assert_eq!(done.exit, Exit::Usage, "{args:?}: {}", done.err);
        assert!(done.out.is_empty() && !done.err.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_completion_are_results() {
    for args in [&["--help"][..], &["--version"], &["revoke", "token", "--help"], &["completion", "bash"]] {
        let done = portreeve(args);
        assert_eq!(done.exit, Exit::Ok, "{args:?}: {}", done.err);
        assert!(!done.out.is_empty() && done.err.is_empty(), "{args:?}");
    }
}

#[test]
fn answers_become_exit_codes() {
    let problem = r#"{"title":"invalid record","detail":"one fault",
        "errors":[{"path":"/spec/owner","message":"expected a mapping"}]}"#;
    for (status, body, exit, said) in [
        (400, problem, Exit::Input, "error: invalid record: one fault\n  /spec/owner: expected a mapping\n"),
        (422, problem, Exit::Input, "/spec/owner"),
        (401, "{}", Exit::Failure, "--token-file, PORTREEVE_TOKEN_FILE"),
        (403, r#"{"title":"not allowed"}"#, Exit::Failure, "error: not allowed\n"),
        (404, "", Exit::Failure, "404"),
        (500, "<html>", Exit::Failure, "500"),
        (200, "<html>", Exit::Failure, "makes no sense"),
        (200, "null", Exit::Failure, "makes no sense"),
        (200, "", Exit::Failure, "makes no sense"),
        (202, "{}", Exit::Failure, "makes no sense"),
    ] {
        let hub = Script::new(&[(status, body)]);
        let done = portreeve(&["identity", "show", "ledger", "--hub", &hub.url]);
        assert_eq!(done.exit, exit, "{status}: {}", done.err);
        assert!(done.err.contains(said), "{status}: {}", done.err);
        assert_eq!(hub.requests(), ["GET /v1/tenants/default/identity/ledger "]);
    }
}

/// The token of a join goes into its file whole, or nothing does.
#[test]
fn a_join_token_is_written_where_it_can_be_and_beside_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let neighbour = at("join.new");
    std::fs::write(&neighbour, "a neighbour's").expect("written");
    let run = |hub: &Script, to: &std::path::Path| {
        let to = to.to_str().expect("a path");
        portreeve(&["hub", "join-token", "--id", "p1", "--to", to, "--hub", &hub.url])
    };
    let file = at("join.token");
    let empty = Script::new(&[(200, r#"{"token":""}"#)]);
    let done = run(&empty, &file);
    assert_eq!(done.exit, Exit::Failure);
    assert!(done.err.contains("it names no token") && !file.exists(), "{}", done.err);
    let unasked = Script::new(&[(200, r#"{"token":"t"}"#)]);
    let done = run(&unasked, folder.path());
    assert_eq!(done.exit, Exit::Failure);
    assert!(done.err.contains("no regular file"), "{}", done.err);
    let done = run(&unasked, &file);
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    assert_eq!(unasked.requests().len(), 1, "a token was made that had no place");
    assert_eq!(std::fs::read_to_string(&file).expect("written"), "t\n");
    assert_eq!(std::fs::read_to_string(&neighbour).expect("still there"), "a neighbour's");
}

#[test]
fn an_absent_hub_is_named_with_the_remedy() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let url = format!("http://127.0.0.1:{port}");
    let done = portreeve(&["fleet", "status", "--hub", &url]);
    assert_eq!(done.exit, Exit::Failure);
    assert!(done.err.contains(&url) && done.err.contains("is the hub running?"), "{}", done.err);
    let done = portreeve(&["health", "--address", &url]);
    assert_eq!(done.exit, Exit::Failure);
}

#[test]
fn a_refused_token_is_named_by_its_file_and_never_shown() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "s3cret\n").expect("written");
    let path = file.path().to_str().expect("a path");
    let hub = Script::new(&[(401, "{}")]);
    let done = portreeve(&["fleet", "status", "--hub", &hub.url, "--token-file", path]);
    assert_eq!(done.exit, Exit::Failure);
    assert!(done.err.contains(path) && !done.err.contains("s3cret"), "{}", done.err);
    std::fs::write(file.path(), "two words").expect("written");
    let done = portreeve(&["fleet", "status", "--token-file", path]);
    assert_eq!(done.exit, Exit::Input, "{}", done.err);
}

#[test]
fn a_list_is_read_to_its_end() {
    let hub = Script::new(&[
        (200, r#"{"items":[{"name":"a","revision":1,"spec":{"type":"workload"}}],"next":"a"}"#),
        (200, r#"{"items":[{"name":"b","revision":2,"spec":{"owner":{"person":"m.ortiz"}}}],"next":null}"#),
    ]);
    let done = portreeve(&["identity", "list", "--tenant", "demo", "--hub", &hub.url]);
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    let lines: Vec<_> = done.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", done.out);
    assert!(lines.iter().any(|line| line.starts_with('b') && line.contains("m.ortiz")), "{}", done.out);
    let asked = hub.requests();
    let expected =
        ["GET /v1/tenants/demo/identity?limit=500 ", "GET /v1/tenants/demo/identity?limit=500&after=a "];
    assert_eq!(asked, expected);
}

#[test]
fn a_change_is_tried_again_once_on_a_conflict() {
    let held = |revision| format!(r#"{{"revision":{revision},"spec":{{"entitlements":[{{"name":"a"}}]}}}}"#);
    let (old, new) = (held(7), held(8));
    let args = |hub: &Script| {
        ["identity", "grant", "ledger", "b", "--hub"].map(str::to_owned).into_iter().chain([hub.url.clone()])
    };
    let grant = |hub: &Script| {
        let args: Vec<String> = args(hub).collect();
        portreeve(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let hub = Script::new(&[(200, &old), (409, "{}"), (200, &new), (200, r#"{"revision":9}"#)]);
    let done = grant(&hub);
    assert_eq!(
        (done.exit, done.out.as_str()),
        (Exit::Ok, "identity `ledger` changed, revision 9\n"),
        "{}",
        done.err
    );
    let asked = hub.requests();
    let put = asked.last().expect("four requests");
    assert!(put.contains(r#""expect_revision":8"#), "{put}");
    assert!(put.contains(r#""entitlements":[{"name":"a"},{"name":"b"}]"#), "{put}");

    let hub = Script::new(&[(200, &old), (409, "{}"), (200, &new), (409, r#"{"title":"changed"}"#)]);
    assert_eq!(grant(&hub).exit, Exit::Failure);
}

#[test]
fn a_shown_record_can_be_applied_again() {
    let record = r#"{"kind":"identity","tenant":"demo","name":"ledger","generation":1,"revision":4,
        "spec":{"type":"workload","end":"2027-05-01T00:00:00Z","entitlements":[{"name":"orders:read"}],
        "labels":{"a":"true","b":"012","c":"null","d":"a: b # c","e":"two\nlines\n","f":""},"third_party":false}}"#;
    let applied = r#"{"tenants":[{"tenant":"demo","revision":4,"changes":[
        {"kind":"identity","name":"ledger","action":"unchanged"}]}]}"#;
    let hub = Script::new(&[(200, record), (200, applied)]);
    let shown = portreeve(&["identity", "show", "ledger", "--tenant", "demo", "--hub", &hub.url]);
    assert_eq!(shown.exit, Exit::Ok, "{}", shown.err);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ledger.yaml");
    std::fs::write(&file, shown.out).expect("written");
    let path = file.to_str().expect("a path");
    let done = portreeve(&["apply", "-f", path, "--dry-run", "--hub", &hub.url]);
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    assert!(done.err.contains("nothing was changed"), "{}", done.err);
    assert_eq!(done.out, "TENANT  KIND      NAME    ACTION\ndemo    identity  ledger  unchanged\n");
    let asked = hub.requests();
    let (line, sent) = asked[1].split_once(" {").expect("a body");
    assert_eq!(line, "POST /v1/apply?dry_run=true");
    let sent: serde_json::Value = serde_json::from_str(&format!("{{{sent}")).expect("JSON");
    let record: serde_json::Value = serde_json::from_str(record).expect("JSON");
    assert_eq!(sent["documents"][0]["spec"], record["spec"]);
    assert_eq!(sent["documents"][0]["tenant"], "demo");
}

#[test]
fn receipts_are_printed_as_they_arrive() {
    let hub = Script::new(&[(201, COMMITTED), (200, PENDING), (200, EFFECTIVE)]);
    let done = portreeve(&["revoke", "identity", "ledger", "--reason", "leak", "--wait", "--hub", &hub.url]);
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    let lines: Vec<_> = done.out.lines().collect();
    assert_eq!(lines.len(), 6, "{}", done.out);
    for (line, words) in lines.iter().zip([
        &["revoked identity `ledger`", "revision 42", "2026-11-01T00:00:00Z"][..],
        &["in force everywhere by 2026-11-01T00:01:00Z at the latest"],
        &["ENFORCEMENT POINT", "PURGED"],
        &["edge-1", "in_force", "3"],
        &["edge-2", "lapsed"],
        &["in force everywhere since 2026-11-01T00:00:00.25Z, 250.0 ms after its commit (2 enforcement points)"],
    ]) {
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    let column = |line: &str, word: &str| line.find(word).expect("the column");
    assert_eq!(column(lines[2], "STATE"), column(lines[3], "in_force"), "{}", done.out);
    let asked = hub.requests();
    assert!(asked[0].contains(r#""target":{"identity":"ledger"}"#), "{}", asked[0]);
    assert!(asked[1].ends_with("&seen=0 ") && asked[2].ends_with("&seen=1 "), "{asked:?}");
}

#[test]
fn the_end_of_waiting_names_who_is_missing() {
    let hub = Script::new(&[(201, COMMITTED), (200, PENDING)]);
    let args =
        ["revoke", "credential", "key-1", "--reason", "leak", "--wait", "--timeout", "0s", "--hub", &hub.url];
    let done = portreeve(&args);
    assert_eq!(done.exit, Exit::Failure);
    assert!(done.err.contains("missing: edge-2") && done.err.contains("revision 42"), "{}", done.err);
    assert!(done.out.contains("edge-1"), "{}", done.out);
}

#[test]
fn nobody_connected_is_said_plainly() {
    let nobody =
        r#"{"revision":42,"state":"EFFECTIVE","effective_since":"2026-11-01T00:00:00Z","members":[]}"#;
    let hub = Script::new(&[(201, COMMITTED), (200, nobody)]);
    let args =
        ["revoke", "issued-before", "ledger", "2026-11-01", "--reason", "leak", "--wait", "--hub", &hub.url];
    let done = portreeve(&args);
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    assert!(done.err.contains("no enforcement point is connected"), "{}", done.err);
    assert!(hub.requests()[0].contains(r#"{"identity":"ledger","issued_before":"2026-11-01T00:00:00Z"}"#));
}

#[test]
fn programs_read_one_json_value() {
    let hub = Script::new(&[(201, COMMITTED), (200, PENDING), (200, EFFECTIVE)]);
    let args =
        ["--output", "json", "revoke", "identity", "ledger", "--reason", "leak", "--wait", "--hub", &hub.url];
    let done = portreeve(&args);
    let value: serde_json::Value = serde_json::from_str(&done.out).expect("one value");
    assert_eq!(value["revocation"]["name"], "r-1");
    assert_eq!(value["receipts"]["state"], "EFFECTIVE");
}

#[test]
fn a_passing_fault_of_the_hub_does_not_end_the_wait() {
    let hub = Script::new(&[(201, COMMITTED), (503, ""), (200, EFFECTIVE)]);
    let done = portreeve(&["revoke", "identity", "ledger", "--reason", "r", "--wait", "--hub", &hub.url]);
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    assert!(done.err.contains("still waiting"), "{}", done.err);
}

#[test]
fn a_question_about_a_token_does_not_repeat_it() {
    let admin = Script::new(&[(
        200,
        r#"{"effect":"allow","reason":null,"steps":[{"name":"verify","finding":"ok"}]}"#,
    )]);
    let done = portreeve(&["explain", "--token", "s3cret", "--path", "/orders/7", "--admin", &admin.url]);
    assert_eq!(
        (done.exit, done.out.as_str()),
        (Exit::Ok, " 1. verify  ok\nverdict: allow\n"),
        "{}",
        done.err
    );
    assert!(!done.err.contains("s3cret"));
    assert!(admin.requests()[0].starts_with("POST /explain {"));
}

#[test]
fn minting_prints_the_token_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(cli::token::DEV_ISSUER_FILE);
    cli::token::DevIssuer::create(&path, "https://issuer.example", "orders").expect("an issuer");
    let data = folder.path().to_str().expect("a path");
    let done = portreeve(&["token", "mint", "--identity", "ledger", "--data", data]);
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    assert_eq!((done.out.matches('.').count(), done.out.lines().count(), done.err.as_str()), (2, 1, ""));
    let done = portreeve(&["token", "mint", "--identity", "ledger", "--data", data, "--ttl", "2h"]);
    assert_eq!(done.exit, Exit::Usage, "{}", done.err);
    let done = portreeve(&["token", "mint", "--identity", "ledger", "--key-file", "absent.json"]);
    assert_eq!(done.exit, Exit::Input, "{}", done.err);
}

#[test]
fn health_follows_the_answer() {
    for (status, body, flag, path, exit, said) in [
        (200, "ok\n", None, "GET /livez ", Exit::Ok, "alive\n"),
        (200, "ready\n", Some("--ready"), "GET /readyz ", Exit::Ok, "ready\n"),
        (
            200,
            "ready\nstate is 20.0s old\n",
            Some("--ready"),
            "GET /readyz ",
            Exit::Ok,
            "ready: state is 20.0s old\n",
        ),
        (
            503,
            "not ready\nstate.absent: none\n",
            Some("--ready"),
            "GET /readyz ",
            Exit::Failure,
            "state.absent: none",
        ),
    ] {
        let process = Script::new(&[(status, body)]);
        let args: Vec<&str> = ["health", "--address", &process.url].into_iter().chain(flag).collect();
        let done = portreeve(&args);
        assert_eq!(done.exit, exit, "{status}");
        assert!(done.out == said || done.err.contains(said), "{}{}", done.out, done.err);
        assert_eq!(process.requests(), [path]);
    }
}

#[test]
fn an_issuer_of_certificates_has_no_keys() {
    let script = Script::new(&[(201, r#"{"revision":1}"#)]);
    let create = [
        "--hub",
        &script.url,
        "--tenant",
        "demo",
        "issuer",
        "create",
        "td",
        "--iss",
        "spiffe://acme.example",
    ];
    let run = |more: &[&str]| {
        let (hub, rest) = create.split_at(4);
        portreeve(&[&rest[..2], hub, &rest[2..], more].concat())
    };
    for missing in [&[][..], &["--algorithms", "ES256"], &["--algorithms", "ES256", "--audiences", "a"]] {
        let done = run(missing);
        assert_eq!((done.exit, done.out.as_str()), (Exit::Usage, ""), "{missing:?}: {}", done.err);
    }
    let done = run(&["--profile", "x509", "--max-lifetime", "24h"]);
    assert_eq!(done.exit, Exit::Ok, "{}", done.err);
    let asked = script.requests();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].contains(r#""profile":"x509""#) && !asked[0].contains("keys"), "{asked:?}");
    assert!(!asked[0].contains("algorithms"), "{asked:?}");
}
