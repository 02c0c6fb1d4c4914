//! Waiting for a condition instead of sleeping and hoping.

use crate::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything here waits before it gives up. Long, because only a failing test ever waits that long.
pub const PATIENCE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(5);

/// Returns once `condition` holds.
///
/// # Errors
/// If it does not within [`PATIENCE`]; `what` is then what did not happen.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Error> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return Err(Error::Timeout(what.to_owned()));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The future's value, if it comes within [`PATIENCE`].
///
/// # Errors
/// If it does not; `what` is then what did not happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, future).await.map_err(|_| Error::Timeout(what.to_owned()))
}
