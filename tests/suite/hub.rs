//! The hub: its store, model, HTTP API, state stream and receipts.

mod access;
mod api;
mod api_keys;
mod client;
mod guard;
mod introspection;
mod issuers;
mod lab;
mod lanes;
mod model;
mod replicas;
mod restore;
mod retention;
mod revoked;
mod scope;
mod status_lists;
mod store;
mod stream;
mod terms;
