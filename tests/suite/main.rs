//! The one integration-test binary: a line a module says what belongs there.

/// Layers, sizes, words: what a machine can check of the house rules.
mod tidy;
