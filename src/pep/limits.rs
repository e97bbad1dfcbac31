//! Bounds of connections and of requests. docs/limits.md has the table.

use std::time::Duration;

/// Bounds of a listener and its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Open connections, over all workers.
    pub connections_max: usize,
    /// Longest time for a head: the first from the accepting on, the TLS handshake included, others from their
    /// first byte.
    pub head_timeout: Duration,
    /// Longest time without a request.
    pub idle_timeout: Duration,
    /// Longest time in which a caller takes nothing of the answers that are there for it.
    pub send_timeout: Duration,
    /// Largest head over HTTP/1, in bytes.
    pub head_bytes_max: usize,
    /// Most header lines of a request.
    pub headers_max: usize,
    /// Largest header list over HTTP/2, in bytes.
    pub header_list_bytes_max: u32,
    /// Streams open at once on an HTTP/2 connection.
    pub streams_max: u32,
    /// Streams of an HTTP/2 connection that the caller may reset in 30 s.
    pub resets_max: u32,
    /// Frames of an HTTP/2 connection that carry nothing, in 30 s, beside ten for each frame of an answer.
    pub control_frames_max: u32,
    /// How long exchanges under way may take to end when the listener stops.
    pub drain_timeout: Duration,
    /// How long a caller may take to take the end of an exchange that is allowed no more.
    pub end_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            send_timeout: Duration::from_secs(30),
            head_bytes_max: 64 * 1024,
            headers_max: HEADERS_MAX,
            header_list_bytes_max: 32 * 1024,
            streams_max: 200,
            resets_max: 200,
            control_frames_max: 1000,
            drain_timeout: Duration::from_secs(20),
            end_timeout: Duration::from_millis(500),
        }
    }
}

/// Most header lines of a request, unless configured. The parser of HTTP/1 needs no memory for as many.
pub(crate) const HEADERS_MAX: usize = 100;

/// Bounds of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestLimits {
    /// Largest head, in bytes: target, names and values.
    pub head_bytes_max: usize,
    /// Most header lines.
    pub headers_max: usize,
    /// Longest target, in bytes. A path is never longer than 8192.
    pub target_bytes_max: usize,
    /// Largest body, in bytes; `None`: any.
    pub body_bytes_max: Option<u64>,
    /// Longest silence within a body.
    pub body_timeout: Duration,
    /// Least bytes a second of a body that is waited for; 0: any.
    pub body_rate_min: u64,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            headers_max: HEADERS_MAX,
            target_bytes_max: 8192,
            body_bytes_max: None,
            body_timeout: Duration::from_secs(15),
            body_rate_min: 240,
        }
    }
}
