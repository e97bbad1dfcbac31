//! nghttp and h2load: HTTP/2 by the library that most others use.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{revoke, run};
use crate::support::front::Gate;
use crate::support::peer::peer;
use crate::support::upstream::Upstream;

#[test]
fn nghttp_sees_status_and_headers_and_no_upgrade() {
    let Some(program) = peer("PORTREEVE_NGHTTP") else { return };
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let url = format!("http://{}/orders/1", gate.running.address());
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        run(command.args(["--verbose", "--header=:authority: orders.test"]).args(arguments).arg(&url))
    };
    let auth = format!("--header=authorization: Bearer {}", gate.token());
    let allowed = ask(&[&auth]);
    assert!(allowed.out.contains(":status: 200") && allowed.out.contains("hello"), "{}", allowed.out);
    assert_eq!(upstream.next().one("host"), Some("orders.test"));
    let refused = ask(&[]);
    assert!(refused.out.contains(":status: 401") && refused.out.contains("x-portreeve-decision"));
    // It begins with HTTP/1.1 and an offer to go on in clear: that is not taken up.
    let upgraded = ask(&["--upgrade", &auth]);
    assert!(!upgraded.out.contains(":status: 200"), "{}", upgraded.out);
}

/// What h2load notes of each answer: its start in microseconds since 1970, and its status, or [`CUT`].
fn answers(log: &str) -> Vec<(u128, i32)> {
    let fields = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    log.lines().filter_map(fields).collect()
}

/// Of a stream that was reset.
const CUT: i32 = -1;

/// Every request is answered, and every one that began after the revocation was there is refused. Of those under
/// way some may have been answered in part: they are cut.
#[test]
fn h2load_is_answered_to_the_last_and_refused_from_the_revocation_on() {
    const COUNT: usize = 3000;
    const CLIENTS: usize = 4;
    const STREAMS: usize = 8;
    let Some(program) = peer("PORTREEVE_H2LOAD") else { return };
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("answers.log");
    let (said, revoked) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut command = Command::new(&program);
            command.args([format!("--clients={CLIENTS}"), format!("--max-concurrent-streams={STREAMS}")]);
            command.arg(format!("--requests={COUNT}"));
            command.arg(format!("--log-file={}", log.display()));
            command.arg(format!("--header=authorization: Bearer {}", gate.token()));
            command.arg("--header=:authority: orders.test");
            run(command.arg(format!("http://{}/orders/1", gate.running.address())))
        });
        while gate.world.log.entries().len() < COUNT / 4 {
            assert!(!load.is_finished(), "it ended before its time");
            std::thread::yield_now();
        }
        revoke(&gate);
        let revoked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        (load.join().unwrap(), revoked)
    });
    assert_eq!(said.code, Some(0), "{}", said.err);
    let counts = format!("requests: {COUNT} total, {COUNT} started, {COUNT} done, ");
    assert!(said.out.contains(&counts) && said.out.contains(" 0 timeout"), "{}", said.out);
    let answers = answers(&std::fs::read_to_string(&log).unwrap());
    assert_eq!(answers.len(), COUNT);
    let of = |wanted| answers.iter().filter(|(_, status)| *status == wanted).count();
    assert_eq!(of(200) + of(401) + of(CUT), COUNT, "{}", said.out);
    assert!(of(CUT) <= CLIENTS * STREAMS, "{}", said.out);
    assert!(of(200) >= COUNT / 8 && of(401) >= COUNT / 8, "{}", said.out);
    let late: Vec<_> = answers.iter().filter(|(begun, _)| *begun > revoked).collect();
    assert!(late.len() > COUNT / 8 && late.iter().all(|(_, status)| *status == 401), "{late:?}");
}
