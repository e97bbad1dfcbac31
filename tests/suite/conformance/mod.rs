//! A row per clause: section, input, expected reason.

mod jwt;
