//! Fakes and makers shared by the suite.

pub(crate) mod caller;
pub(crate) mod clock;
pub(crate) mod collector;
pub(crate) mod dev;
pub(crate) mod evidence;
pub(crate) mod frames;
pub(crate) mod front;
pub(crate) mod http;
pub(crate) mod idp;
pub(crate) mod issuer;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod port;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod site;
pub(crate) mod spiffe;
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod world;

/// Longest wait for something that must happen. It is long, since a machine may be slow and a wait that
/// ends well costs nothing.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Looks again and again until something holds that nothing else tells of.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
