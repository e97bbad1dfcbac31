//! OpenTelemetry's variables: what they set, and that what cannot be used is warned of and sets nothing.

use std::path::Path;
use std::time::Duration;

use portreeve::config::{Environment, Loaded, Traces, parse_proxy};

use super::sample;

/// Variables with their values.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// What is traced, and what is warned of.
fn traces(variables: Variables<'_>) -> (Option<Traces>, Vec<String>) {
    let found = |name: &str| {
        let mut values = variables.iter().filter(|(held, _)| *held == name);
        values.next().map(|(_, value)| (*value).to_owned())
    };
    let environment = Environment { host_name: "h", cores: 1, variables: &found };
    let path = Path::new("/etc/portreeve/proxy.yaml");
    let Loaded { config, warnings } =
        parse_proxy(&sample("minimal-proxy.yaml"), path, &environment).expect("accepted all the same");
    (config.traces, warnings)
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

#[test]
fn without_an_endpoint_nothing_is_traced() {
    let rows: [Variables<'_>; 5] = [
        &[],
        &[("OTEL_SERVICE_NAME", "edge"), ("OTEL_TRACES_SAMPLER", "always_on")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
        &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
        &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
    ];
    for row in rows {
        assert_eq!(traces(row), (None, Vec::new()), "{row:?}");
    }
    assert!(traces(&[ENDPOINT, ("OTEL_SDK_DISABLED", "false")]).0.is_some());
}

#[test]
fn the_defaults_are_the_specifications() {
    let (found, warnings) = traces(&[ENDPOINT]);
    let expected = Traces {
        endpoint: "http://collector:4317".into(),
        ca: None,
        resource: [("service.name".into(), "portreeve".into())].into(),
        parent_based: true,
        share: 1 << 63,
        queue_max: 2048,
        batch_max: 512,
        delay: Duration::from_secs(5),
    };
    assert_eq!((found, warnings), (Some(expected), Vec::new()));
}

#[test]
fn what_is_said_of_traces_goes_before_what_is_said_of_all() {
    let (found, _) = traces(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317/"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
        ("OTEL_SERVICE_NAME", "edge"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other, team = a%2Cb ,broken,=x,odd=%zz"),
    ]);
    let found = found.unwrap();
    assert_eq!(
        (&*found.endpoint, found.ca.as_deref()),
        ("https://traces:4317", Some(Path::new("/etc/ca.pem")))
    );
    let resource: Vec<_> = found.resource.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(resource, [("service.name", "edge"), ("team", "a,b"), ("odd", "%zz")]);
}

#[test]
fn samplers() {
    let whole = 1u64 << 63;
    let rows: [(&str, Option<&str>, bool, u64); 7] = [
        ("always_on", None, false, whole),
        ("always_off", None, false, 0),
        ("traceidratio", None, false, whole),
        ("traceidratio", Some("0.5"), false, whole / 2),
        ("parentbased_always_on", Some("0.1"), true, whole),
        ("parentbased_always_off", None, true, 0),
        ("parentbased_traceidratio", Some("0"), true, 0),
    ];
    for (name, argument, parent_based, share) in rows {
        let mut variables = vec![ENDPOINT, ("OTEL_TRACES_SAMPLER", name)];
        variables.extend(argument.map(|argument| ("OTEL_TRACES_SAMPLER_ARG", argument)));
        let found = traces(&variables).0.unwrap();
        assert_eq!((found.parent_based, found.share), (parent_based, share), "{name} {argument:?}");
    }
}

#[test]
fn what_cannot_be_used_is_warned_of_and_exports_nothing() {
    let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
    let rows: [(Variables<'_>, &str); 11] = [
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")],
            "found `collector:4317`, expected `http://host:port`",
        ),
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://")], "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:pw@host:4317")], "found `a URL with a user`"),
        (&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], "expected `grpc`"),
        (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")], "found `zipkin`"),
        (&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "jaeger_remote")], "found `jaeger_remote`"),
        (&[ENDPOINT, ratio, ("OTEL_TRACES_SAMPLER_ARG", "1.01")], "expected 0.0 to 1.0"),
        (&[ENDPOINT, ratio, ("OTEL_TRACES_SAMPLER_ARG", "NaN")], "OTEL_TRACES_SAMPLER_ARG"),
        (&[ENDPOINT, ("OTEL_BSP_MAX_QUEUE_SIZE", "0")], "expected 1 to 1000000"),
        (&[ENDPOINT, ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many")], "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        (&[ENDPOINT, ("OTEL_BSP_SCHEDULE_DELAY", "60001")], "expected 0 to 60000"),
    ];
    for (variables, told) in rows {
        let (found, warnings) = traces(variables);
        assert_eq!((found, warnings.len()), (None, 1), "{variables:?}");
        assert!(warnings[0].contains(told) && warnings[0].ends_with("no spans are exported"), "{warnings:?}");
        assert!(!warnings[0].contains("pw"), "{warnings:?}");
    }
}
