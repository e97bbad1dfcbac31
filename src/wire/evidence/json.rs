//! Records as lines of JSON, one object a line; docs/evidence.md shows one of each kind.
//!
//! Every line has `id`, `kind` and `at`; the rest are the record's fields by their names in the
//! proto file, all of them, so that a line's shape depends on its kind alone. Bytes are lower hex.
//! Control characters (C0, delete, C1), U+2028 and U+2029 are escaped wherever they come from: a
//! line is one line, and shows nothing but itself on a terminal.

use std::fmt::Write;

use crate::core::id::{DecisionId, LogId, Place};
use crate::wire::evidence::put::hex_digit;
use crate::wire::evidence_proto as proto;
use proto::record::Body;

/// One record as a line, its line feed included.
pub fn json_line(record: &proto::Record, log: LogId, sequence: u64) -> String {
    let mut line = Object::begin(log, sequence, kind(record.body.as_ref()));
    let at = jiff::Timestamp::from_microsecond(record.at_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    line.text("at", &format!("{at:.6}"));
    line.number("boot_us", record.boot_us);
    match &record.body {
        Some(Body::Decision(body)) => decision(&mut line, body),
        Some(Body::Withdrawn(body)) => {
            let place = Place::Recorded(body.decision);
            line.text("decision", &DecisionId { log, place }.to_string());
            line.text("reason", &body.reason);
            line.number("revision", body.revision);
        }
        Some(Body::Abandoned(body)) => {
            line.text("listener", &body.listener);
            line.text("door", &body.door);
        }
        Some(Body::RolledUp(body)) => rolled_up(&mut line, body),
        Some(Body::Loss(body)) => {
            line.number("count", body.count);
            line.text("cause", &body.cause);
            line.flag("upper_bound", body.upper_bound);
            line.text("log_id", &log_name(&body.log_id));
        }
        Some(Body::LogOpen(body)) => log_open(&mut line, body),
        Some(Body::LogClose(body)) => {
            line.number("decisions", body.decisions);
            line.number("records", body.records);
            line.number("rolled_up", body.rolled_up);
            line.number("lost", body.lost);
        }
        Some(Body::InForce(body)) => {
            line.text("cell", &body.cell);
            line.hex("epoch", &body.epoch);
            line.number("revision", body.revision);
            line.texts("revocations", &body.revocations);
            line.number("purged", body.purged);
            line.number("ended_streams", body.ended_streams);
        }
        Some(Body::Severed(body)) => {
            let place = Place::Recorded(body.decision);
            line.text("decision", &DecisionId { log, place }.to_string());
            line.text("reason", &body.reason);
            line.number("revision", body.revision);
            line.number("open_us", body.open_us);
        }
        None => {}
    }
    line.end()
}

/// The line that stands for records which can no longer be read.
///
/// Its id is that of the first of them. `to` is the last, or `None` when that cannot be told.
pub fn missing_line(log: LogId, from: u64, to: Option<u64>) -> String {
    let mut line = Object::begin(log, from, "missing");
    line.number("from", from);
    line.key("to");
    match to {
        Some(to) => line.raw(to),
        None => line.raw("null"),
    }
    line.end()
}

/// The line that stands for a whole record which is of no known form.
pub fn undecodable_line(log: LogId, sequence: u64, length: usize) -> String {
    let mut line = Object::begin(log, sequence, "undecodable");
    line.number("length", length as u64);
    line.end()
}

const fn kind(body: Option<&Body>) -> &'static str {
    match body {
        Some(Body::Decision(_)) => "decision",
        Some(Body::Withdrawn(_)) => "withdrawn",
        Some(Body::Abandoned(_)) => "abandoned",
        Some(Body::RolledUp(_)) => "rolled_up",
        Some(Body::Loss(_)) => "loss",
        Some(Body::LogOpen(_)) => "log_open",
        Some(Body::LogClose(_)) => "log_close",
        Some(Body::InForce(_)) => "in_force",
        Some(Body::Severed(_)) => "severed",
        None => "unknown",
    }
}

fn decision(line: &mut Object, body: &proto::Decision) {
    line.text("effect", &body.effect);
    line.text("reason", &body.reason);
    line.texts("warnings", &body.warnings);
    line.text("listener", &body.listener);
    line.text("door", &body.door);
    line.text("tenant", &body.tenant);
    line.text("resource", &body.resource);
    line.text("route", &body.route);
    line.text("method", &body.method);
    line.text("identity", &body.identity);
    line.number("generation", body.generation);
    line.text("owner", &body.owner);
    line.texts("on_behalf_of", &body.on_behalf_of);
    line.text("credential_kind", &body.credential_kind);
    line.hex("credential_fingerprint", &body.credential_fingerprint);
    line.text("issuer", &body.issuer);
    line.text("key_id", &body.key_id);
    line.number("credential_expires_us", body.credential_expires_us);
    line.hex("epoch", &body.epoch);
    line.number("revision", body.revision);
    line.number("state_age_us", body.state_age_us);
    line.flag("state_age_known", body.state_age_known);
    line.flag("state_warn", body.state_warn);
    line.hex("policy_digest", &body.policy_digest);
    line.texts("policies", &body.policies);
    line.texts("policy_errors", &body.policy_errors);
    line.texts("exceptions", &body.exceptions);
    line.texts("lifted", &body.lifted);
    line.text("evidence_mode", &body.evidence_mode);
    line.text("trace_id", &body.trace_id);
    line.text("span_id", &body.span_id);
    line.text("peer", &body.peer);
    line.flag("verification_cached", body.verification_cached);
    line.number("decide_ns", body.decide_ns);
    line.list("shadow", &body.shadow, |inner, outcome| {
        inner.text("policy_set", &outcome.policy_set);
        inner.text("effect", &outcome.effect);
        inner.hex("policy_digest", &outcome.policy_digest);
    });
    line.number("lease_hub_us", body.lease_hub_us);
    line.text("token_id", &body.token_id);
}

fn rolled_up(line: &mut Object, body: &proto::RolledUp) {
    line.number("first", body.first);
    line.number("count", body.count);
    line.number("from_us", body.from_us);
    line.number("to_us", body.to_us);
    line.list("groups", &body.groups, |inner, group| {
        inner.text("listener", &group.listener);
        inner.text("resource", &group.resource);
        inner.text("route", &group.route);
        inner.text("reason", &group.reason);
        inner.number("count", group.count);
    });
}

fn log_open(line: &mut Object, body: &proto::LogOpen) {
    line.text("spoke_id", &body.spoke_id);
    line.hex("incarnation", &body.incarnation);
    line.text("predecessor", &log_name(&body.predecessor));
    line.number("predecessor_size", body.predecessor_size);
    line.flag("predecessor_closed", body.predecessor_closed);
    line.number("torn_bytes", body.torn_bytes);
    line.text("build", &body.build);
}

/// A log's name as it stands in ids; empty for none.
fn log_name(bytes: &[u8]) -> String {
    <[u8; 16]>::try_from(bytes).map_or_else(|_| String::new(), |it| LogId::from_bytes(it).to_string())
}

/// An object under way. Writing to a string does not fail, so results of `write!` are dropped.
struct Object {
    out: String,
}

impl Object {
    fn begin(log: LogId, sequence: u64, kind: &str) -> Self {
        let mut this = Self { out: String::with_capacity(1024) };
        this.out.push('{');
        this.text("id", &DecisionId { log, place: Place::Recorded(sequence) }.to_string());
        this.text("kind", kind);
        this
    }

    fn end(mut self) -> String {
        self.out.push_str("}\n");
        self.out
    }

    fn key(&mut self, key: &str) {
        if !self.out.ends_with(['{', '[']) {
            self.out.push(',');
        }
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
    }

    fn raw(&mut self, value: impl std::fmt::Display) {
        _ = write!(self.out, "{value}");
    }

    fn number(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        self.raw(value);
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.push_str(if value { "true" } else { "false" });
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        self.quoted(value);
    }

    fn hex(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        self.out.push('"');
        self.out.extend(
            value.iter().flat_map(|byte| [hex_digit(byte >> 4), hex_digit(byte & 15)]).map(char::from),
        );
        self.out.push('"');
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        self.key(key);
        self.out.push('[');
        for (place, value) in values.iter().enumerate() {
            if place > 0 {
                self.out.push(',');
            }
            self.quoted(value);
        }
        self.out.push(']');
    }

    fn list<T>(&mut self, key: &str, values: &[T], write: impl Fn(&mut Self, &T)) {
        self.key(key);
        self.out.push('[');
        for (place, value) in values.iter().enumerate() {
            self.out.push_str(if place > 0 { ",{" } else { "{" });
            write(self, value);
            self.out.push('}');
        }
        self.out.push(']');
    }

    /// # Standard
    /// RFC 8259 §7, with more escapes than it asks for.
    fn quoted(&mut self, value: &str) {
        self.out.push('"');
        if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            // Nearly every text.
            self.out.push_str(value);
            self.out.push('"');
            return;
        }
        for c in value.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    _ = write!(self.out, "\\u{:04x}", u32::from(c));
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}
