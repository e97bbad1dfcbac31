//! Random bytes from the operating system, by way of the cryptographic library.

use aws_lc_rs::rand;

/// The source of random bytes failed: nothing can be started safely.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct NoRandom;

/// `N` random bytes.
///
/// # Errors
/// [`NoRandom`] when the operating system gives none.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}
