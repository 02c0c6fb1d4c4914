//! Which driver carries a request: the one function that says so.

use crate::config::raw;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Direct,
    Pingora,
}

/// What is asked of a request after it was judged, whichever version its client speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// The listener's `driver`.
    pub driver: raw::Driver,
    /// A WebSocket handshake.
    pub upgrade: bool,
    /// A filter of the listener or the route looks at a body.
    pub looks_at_bodies: bool,
    /// Whether the pool's backends speak HTTP/1, as configured or as they have chosen. `None`: the gateway itself answers.
    pub backend_http1: Option<bool>,
}

/// The direct driver carries plain messages. A tunnel, a body that a filter looks at and a backend that may speak HTTP/2 are
/// left to Pingora, whatever else is asked.
pub fn which(asked: Asked) -> Which {
    let Asked { driver, upgrade, looks_at_bodies, backend_http1 } = asked;
    match (driver, upgrade, backend_http1) {
        (raw::Driver::Pingora, _, _) | (_, true, _) => Which::Pingora,
        // The response stage of a filter that reads bodies sees no body of ours either way.
        (raw::Driver::Auto, false, None) => Which::Direct,
        (raw::Driver::Auto, false, Some(true)) if !looks_at_bodies => Which::Direct,
        (raw::Driver::Auto, false, Some(_)) => Which::Pingora,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_its_driver() {
        use raw::Driver::{Auto, Pingora};
        for (driver, upgrade, looks_at_bodies, backend_http1, expected) in [
            (Auto, false, false, Some(true), Which::Direct),
            (Auto, false, false, None, Which::Direct),
            (Auto, false, true, None, Which::Direct),
            (Auto, false, false, Some(false), Which::Pingora),
            (Auto, false, true, Some(true), Which::Pingora),
            (Auto, true, false, Some(true), Which::Pingora),
            (Auto, true, false, None, Which::Pingora),
            (Pingora, false, false, Some(true), Which::Pingora),
            (Pingora, false, false, None, Which::Pingora),
        ] {
            let asked = Asked { driver, upgrade, looks_at_bodies, backend_http1 };
            assert_eq!(which(asked), expected, "{asked:?}");
        }
    }
}
