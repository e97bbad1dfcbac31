//! The hub: its store, model, HTTP API, state stream and receipts.

mod access;
mod api;
mod client;
mod lab;
mod lanes;
mod model;
mod restore;
mod scope;
mod store;
mod stream;
