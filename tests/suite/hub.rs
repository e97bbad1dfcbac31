//! The hub: its store, model, HTTP API, state stream and receipts.

mod api;
mod client;
mod lab;
mod model;
mod store;
mod stream;
