//! Shares requests out between pools by weight, exactly.

use super::Pool;
use super::balance::round_robin::Rotation;
use portcullis_plugin::ConfigError;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Several pools, each with its share. A share whose pool is down is refused, not given to another: a split compares
/// versions or moves traffic, and must not do so in silence.
pub struct Split {
    pools: Vec<Arc<Pool>>,
    rotation: Rotation,
    position: AtomicU64,
}

impl Split {
    /// A pool of weight 0 gets nothing.
    ///
    /// # Errors
    /// If there is no pool, or no weight.
    pub fn compile(shares: Vec<(Arc<Pool>, u32)>) -> Result<Self, ConfigError> {
        if shares.is_empty() {
            return Err(ConfigError::new("a split needs at least one pool"));
        }
        if shares.iter().all(|(_, weight)| *weight == 0) {
            return Err(ConfigError::new("every weight is 0: no pool would get a request").at("weight").at(0));
        }
        let weights: Vec<u32> = shares.iter().map(|(_, weight)| *weight).collect();
        let pools = shares.into_iter().map(|(pool, _)| pool).collect();
        Ok(Self { pools, rotation: Rotation::new(&weights), position: AtomicU64::new(0) })
    }

    /// The pool of the next request.
    pub fn choose(&self) -> &Arc<Pool> {
        let index = self.rotation.next(&self.position).unwrap_or(0);
        // The rotation has exactly the indexes of `pools`, and `compile` refuses an empty list.
        self.pools.get(index).unwrap_or_else(|| unreachable!("the rotation is made from these pools"))
    }

    /// All of them, those of weight 0 too.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }
}
