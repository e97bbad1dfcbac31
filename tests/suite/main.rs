//! The one integration-test binary: a line a module says what belongs there.

/// What strangers send, byte for byte, beside what is allowed; where each threat of the list is shown.
mod attack;
/// What cannot work: message, exit code, and that nothing is lost by it.
mod bad_input;
/// The command line: arguments, tables, documents, the client's errors.
mod cli;
/// Clients that others wrote, through the proxy: curl, nghttp, h2load, grpcio, websockets, Chromium.
mod clients;
/// Configuration files: samples, refusals with their exact messages, bounds, schema.
mod config;
/// A row per clause: section, input, expected reason.
mod conformance;
/// Documents that must say what the code says.
mod docs;
/// The whole product as processes of their own, through the proxy and through a real Envoy.
mod end_to_end;
/// Envoy's external authorization on real sockets; few.
mod ext_authz;
/// What the fuzz targets do, over rows of seeds.
mod fuzzed;
/// The hub: store conformance, model rows, HTTP API, state stream over real channels.
mod hub;
/// Hub and enforcement points in virtual time, under faults drawn from seeds.
mod hub_sim;
/// Opaque tokens: an issuer that is asked on real sockets, its faults, and what is remembered.
mod introspection;
/// Keys that an enforcement point fetches itself, over real sockets.
mod key_sources;
/// Asking servers that others run, on real sockets: what is refused.
mod outbound;
/// The decision path over a hand-made state: data rows through one check.
mod pipeline;
/// The reverse proxy on real sockets; few.
mod reverse_proxy;
/// Hub and enforcement point as two processes, apart and together again; a real issuer beside them.
mod roles;
/// The decision log from outside: modes, crashes, faults of the disk, sinks.
mod spool;
/// Fakes and makers: issuer, clock, decision log, state, upstream, caller.
mod support;
/// Layers, sizes, words: what a machine can check of the house rules.
mod tidy;
/// The SPIFFE Workload API over a real Unix socket, and what rests on it.
mod workload;
