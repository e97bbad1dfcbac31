//! An enforcement point that is killed under load, again and again: what was answered, what its upstream was
//! sent, and whether each of these decisions is on record. (Refusals of callers that are nobody's are not
//! asked about: beyond a rate those are counted, and a crash may lose the counts of some seconds.)
//!
//! `cargo bench --profile release --bench kills -- [--kills N] [--callers N] [--seed N]`
//!
//! Hub and enforcement point are the two processes of users, with `process_safe` evidence, which is the default.
//! The second is ended by `SIGKILL` after 20 to 400 ms under load, and started again. All traffic is on loopback; the run
//! ends by itself, with a failure when a decision is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use serde_json::Value;

use support::site::Site;
use support::upstream::{Reply, Upstream};

#[path = "../tests/suite/support/mod.rs"]
#[expect(dead_code, reason = "shared with the test suite, which uses the rest")]
mod support;

#[derive(Parser)]
struct Options {
    /// Times that the enforcement point is killed.
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Callers at the same time; one of four is of an identity that is revoked.
    #[arg(long, default_value_t = 8)]
    callers: usize,
    /// Of the times between kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Decisions by their ids, and what each was.
type Decisions = BTreeMap<String, &'static str>;

fn main() -> ExitCode {
    let options = Options::parse();
    let sent = Arc::new(Mutex::new(BTreeSet::new()));
    let upstream = {
        let sent = Arc::clone(&sent);
        Upstream::new(move |request| {
            let id = request.one("x-portreeve-decision").expect("nothing comes without a decision");
            sent.lock().unwrap().insert(id.to_owned());
            Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec())
        })
    };
    let site = Site::new(upstream.address());
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.let_join();
    site.apply_records();
    let answered = under_kills(&site, &upstream, &options);
    let sent = std::mem::take(&mut *sent.lock().unwrap());
    let recorded = recorded(&site);
    report(&answered, &sent, &recorded)
}

/// Kills it as often as was asked, while callers call; what they were answered.
fn under_kills(site: &Site, upstream: &Upstream, options: &Options) -> Decisions {
    let stop = AtomicBool::new(false);
    let (address, stop) = (site.proxy, &stop);
    std::thread::scope(|scope| {
        let mut proxy = site.start("proxy");
        proxy.says("the hub has confirmed the state");
        site.command(&["revoke", "identity", "batch", "--reason", "bench", "--wait"]);
        let callers: Vec<_> = (0..options.callers)
            .map(|n| {
                let bearer = site.bearer(if n % 4 == 3 { "batch" } else { "ledger" });
                scope.spawn(move || call_until(address, &bearer, stop))
            })
            .collect();
        for kill in 1..=options.kills {
            std::thread::sleep(span(options.seed, kill));
            proxy.kill();
            proxy = site.start("proxy");
            proxy.says("the enforcement point is running");
            // What nobody looks at would in the end stop its answers.
            while !upstream.is_untouched() {}
            eprint!("\rkill {kill} of {}", options.kills);
        }
        eprintln!();
        stop.store(true, Ordering::Relaxed);
        let mut answered = Decisions::new();
        for caller in callers {
            answered.extend(caller.join().unwrap());
        }
        proxy.stop();
        answered
    })
}

/// Between 20 and 400 ms, the same for the same seed.
fn span(seed: u64, kill: usize) -> Duration {
    let mut hasher = DefaultHasher::new();
    (seed, kill).hash(&mut hasher);
    Duration::from_millis(20 + hasher.finish() % 380)
}

/// One request after the other, on a new connection whenever the one before was lost.
fn call_until(address: SocketAddr, bearer: &str, stop: &AtomicBool) -> Decisions {
    let request = format!("GET / HTTP/1.1\r\nhost: orders.test\r\nauthorization: {bearer}\r\n\r\n");
    let mut answered = Decisions::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = TcpStream::connect(address) else {
            std::thread::yield_now();
            continue;
        };
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        while !stop.load(Ordering::Relaxed) {
            if stream.get_mut().write_all(request.as_bytes()).is_err() {
                break;
            }
            // What was not answered whole may or may not be on record.
            let Some((id, effect)) = answer(&mut stream) else { break };
            answered.insert(id, effect);
        }
    }
    answered
}

/// The id and the effect of the decision that an answer was given by; `None`: it was lost on the way.
fn answer(stream: &mut BufReader<TcpStream>) -> Option<(String, &'static str)> {
    let mut line = String::new();
    let mut next = |line: &mut String| {
        line.clear();
        stream.read_line(line).ok().filter(|_| line.ends_with('\n')).map(drop)
    };
    next(&mut line)?;
    let effect = if line.starts_with("HTTP/1.1 200 ") { "allow" } else { "deny" };
    let (mut id, mut length) = (None, 0);
    loop {
        next(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "x-portreeve-decision" => id = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some((id.expect("an answer names its decision"), effect))
}

/// The effects on record, how many lines tell again what stood before, and how many were cut short.
fn recorded(site: &Site) -> (BTreeMap<String, String>, [usize; 2]) {
    let text = std::fs::read_to_string(site.folder.path().join("decisions.jsonl")).unwrap();
    let (mut all, mut twice, mut cut) = (BTreeMap::new(), 0, 0);
    for line in text.lines() {
        let Ok(record) = serde_json::from_str::<Value>(line) else {
            cut += 1;
            continue;
        };
        if let (Some(id), Some(effect)) = (record["id"].as_str(), record["effect"].as_str()) {
            twice += usize::from(all.insert(id.to_owned(), effect.to_owned()).is_some());
        }
    }
    (all, [twice, cut])
}

fn report(
    answered: &Decisions,
    sent: &BTreeSet<String>,
    (recorded, [twice, cut]): &(BTreeMap<String, String>, [usize; 2]),
) -> ExitCode {
    // Refused because evidence had no room: counted, and without a record by design.
    let without_room = |id: &str| id.rsplit_once('-').is_some_and(|(_, number)| number.starts_with('x'));
    let is_lost = |(id, effect): &(&String, &&str)| {
        recorded.get(*id).is_none_or(|on| on != **effect) && !(**effect == "deny" && without_room(id))
    };
    let refused = answered.keys().filter(|id| without_room(id)).count();
    let lost: Vec<_> = answered.iter().filter(is_lost).collect();
    let unseen: Vec<_> = sent.iter().filter(|id| recorded.get(*id).is_none_or(|on| on != "allow")).collect();
    let allowed = answered.values().filter(|effect| **effect == "allow").count();
    println!("answered: {} ({allowed} allowed, {} refused)", answered.len(), answered.len() - allowed);
    println!("sent to the upstream: {}", sent.len());
    println!("on record: {}; {twice} times one was told again, {cut} lines were cut short", recorded.len());
    println!(
        "answered and not on record as they were: {} (without room for evidence, refused: {refused})",
        lost.len()
    );
    println!("sent to the upstream and not on record as allowed: {}", unseen.len());
    for missing in lost.iter().map(|(id, _)| *id).chain(unseen.iter().copied()).take(10) {
        println!("  {missing}");
    }
    if lost.is_empty() && unseen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
