//! Traces of a running enforcement point, set up by OpenTelemetry's variables, and what they lead to.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::limits::metric;
use super::{Role, Site};
use crate::support::collector::Collector;
use crate::support::http::call;
use crate::support::port::free;
use crate::support::process::end_of;
use crate::support::until;
use crate::support::upstream::Upstream;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

#[test]
fn metrics_traces_and_evidence_lead_to_each_other() {
    let (upstream, collector) = (Upstream::hello(), Collector::new());
    let site = Site::new(upstream.address());
    let (file, admin) = (site.folder.path().join("proxy.yaml"), free());
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("admin: { address: \"127.0.0.1:0\"", &format!("admin: {{ address: \"{admin}\""));
    fs::write(&file, text).unwrap();
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.apply_records();
    site.let_join();
    let endpoint = format!("http://{}", collector.address);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=ledger"),
        ("OTEL_SERVICE_NAME", "edge"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=a%20b"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ("OTEL_BSP_SCHEDULE_DELAY", "60000"),
    ];
    let mut proxy = Role::start_with("proxy", &file, &variables);
    proxy.says("the enforcement point is running");
    until("ready", || site.ready() == 200);

    let parent = format!("00-{TRACE}-{CALLER}-01");
    let bearer = site.bearer("ledger");
    let known = call(site.proxy, "GET", "/", &[("authorization", &bearer), ("traceparent", &parent)]);
    let stranger = call(site.proxy, "GET", "/", &[("traceparent", &parent)]);
    assert_eq!((known.status.as_u16(), stranger.status.as_u16()), (200, 401));
    let told = upstream.next().one("traceparent").unwrap().to_owned();
    let log = || fs::read_to_string(site.folder.path().join("decisions.jsonl")).unwrap_or_default();
    until("both are in the log", || log().matches("\"kind\":\"decision\"").count() >= 2);
    let live = call(admin, "GET", "/decisions?count=100", &[]).body;
    let live = String::from_utf8(live.to_vec()).unwrap();
    for (answer, effect, reason) in [(known, "allow", "allowed"), (stranger, "deny", "credential.missing")] {
        let span = collector.next();
        let (trace, own, parent) = span.ids();
        assert_eq!((trace.as_str(), parent.as_str()), (TRACE, CALLER));
        assert_eq!(told == format!("00-{TRACE}-{own}-01"), effect == "allow", "the upstream knows our span");
        let decision = answer.headers["x-portreeve-decision"].to_str().unwrap();
        assert_eq!(span.attribute("portreeve.decision").as_deref(), Some(decision));
        for lines in [&log(), &live] {
            let record = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let record = record.into_iter().find(|record| record["id"] == decision).expect("a record");
            assert_eq!((&record["effect"], &record["reason"]), (&effect.into(), &reason.into()));
            assert_eq!((&record["trace_id"], &record["span_id"]), (&TRACE.into(), &own.as_str().into()));
        }
        let labels = format!("door=\"proxy\",effect=\"{effect}\",listener=\"inbound\",reason=\"{reason}\"");
        assert_eq!(metric(&site, &format!("portreeve_decisions_total{{{labels}}}")), 1);
        assert_eq!(span.attribute("portreeve.reason").as_deref(), Some(reason));
        assert_eq!(span.team.as_deref(), Some("ledger"), "headers of the variables");
        for (key, value) in [
            ("service.name", "edge"),
            ("deployment.environment.name", "a b"),
            ("service.instance.id", "p1"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("telemetry.sdk.language", "rust"),
        ] {
            assert_eq!(span.said_by(key).as_deref(), Some(value), "{key}");
        }
    }
    until("both are counted", || metric(&site, "portreeve_trace_spans_total{outcome=\"exported\"}") == 2);

    // One more waits for a second, until the end.
    assert_eq!(site.call_as("ledger"), 200);
    assert!(collector.is_untouched());
    kill_process(Pid::from_child(&proxy.child), Signal::TERM).unwrap();
    let last = collector.next();
    assert_eq!(last.ids().2, "", "it began here");
    assert!(end_of(&mut proxy.child).success());
}

#[test]
fn an_authority_that_cannot_be_read_keeps_no_door_shut() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let missing = site.folder.path().join("missing.pem");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:1"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", missing.to_str().unwrap()),
    ];
    let mut proxy = Role::start_with("proxy", &site.folder.path().join("proxy.yaml"), &variables);
    proxy.says("`OTEL_EXPORTER_OTLP_CERTIFICATE` cannot be read");
    proxy.says("the enforcement point is running");
    proxy.stop();
}
