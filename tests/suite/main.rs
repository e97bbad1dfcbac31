//! The one integration-test binary: a line a module says what belongs there.

/// Configuration files: samples, refusals with their exact messages, bounds, schema.
mod config;
/// A row per clause: section, input, expected reason.
mod conformance;
/// Envoy's external authorization on real sockets; few.
mod ext_authz;
/// The decision path over a hand-made state: data rows through one check.
mod pipeline;
/// The reverse proxy on real sockets; few.
mod reverse_proxy;
/// Fakes and makers: issuer, clock, decision log, state, upstream, caller.
mod support;
/// Layers, sizes, words: what a machine can check of the house rules.
mod tidy;
