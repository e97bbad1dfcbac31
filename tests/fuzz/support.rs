//! What the suite's tests make, as far as a proxy needs it.

#[path = "../suite/support/caller.rs"]
pub(crate) mod caller;
#[path = "../suite/support/clock.rs"]
pub(crate) mod clock;
#[path = "../suite/support/evidence.rs"]
pub(crate) mod evidence;
#[path = "../suite/support/front.rs"]
pub(crate) mod front;
#[path = "../suite/support/issuer.rs"]
pub(crate) mod issuer;
#[path = "../suite/support/world.rs"]
pub(crate) mod world;

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
