//! The hub: its store, model, HTTP API, state stream and receipts.

mod api;
mod client;
mod lab;
mod lanes;
mod model;
mod restore;
mod store;
mod stream;
