//! Connections that have waited for a while, parked: without a task, a timer or a place in the runtime.
//!
//! Those take more than a kilobyte and a half; most open connections wait most of the time. Their sockets are watched all
//! together here, by a readiness queue of our own that the runtime watches as one.

use super::gate::Gate;
use crate::connection::Client;
use crate::listen::Permit;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::Mutex;
use prometheus::IntGauge;
use slab::Slab;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long a connection waits with a task, where nobody says otherwise. One that has a request more often is not worth the way
/// here and back.
pub const PARK_AFTER: Duration = Duration::from_secs(1);

/// Where more connections than this have a task, each waits with one for a [`HURRY`]th of that time only: what a rush of new ones
/// takes, allocators are slow to give back.
const CROWD: usize = 500;
const HURRY: u32 = 16;

/// Between two looks for connections that have waited for long enough: they may wait that much longer.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Places that are looked at with the lock held.
const LOOK_AT: usize = 4096;

/// News that are taken at once.
const EVENTS: usize = 256;

/// An HTTP/1 connection of which nothing is on its way. Its permit goes last.
pub struct Waiting {
    pub gate: Box<Gate>,
    pub client: Arc<Client>,
    /// When it has waited for long enough.
    pub due: Instant,
    pub permit: Permit,
}

struct Parked {
    /// Closed before the permit goes.
    socket: TcpStream,
    waiting: Waiting,
}

#[derive(Default)]
struct Places {
    parked: Slab<Parked>,
    /// No connection is due before.
    earliest: Option<Instant>,
    closed: bool,
}

/// Where connections are parked.
pub struct Lot {
    after: Duration,
    registry: Registry,
    places: Mutex<Places>,
    /// There is a first one.
    begun: Notify,
    count: IntGauge,
}

/// What watches a lot.
pub struct Attendant {
    lot: Arc<Lot>,
    poll: AsyncFd<Poll>,
}

impl Lot {
    /// For connections that have waited for `after`; `count` always says how many there are.
    ///
    /// # Errors
    /// If the system has no room for it, or there is no runtime.
    pub fn new(after: Duration, count: IntGauge) -> io::Result<(Arc<Self>, Attendant)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let lot = Arc::new(Self { after, registry, places: Mutex::default(), begun: Notify::new(), count });
        #[expect(
            deprecated,
            reason = "for values that might swap their descriptor, which this one never does; the way that replaces it is unsafe"
        )]
        let poll = AsyncFd::new(poll)?;
        let attendant = Attendant { lot: Arc::clone(&lot), poll };
        Ok((lot, attendant))
    }

    /// How long a connection waits with a task, while there are so many.
    pub fn after(&self, tasks: usize) -> Duration {
        if tasks > CROWD { self.after / HURRY } else { self.after }
    }

    /// Parks a connection, or gives it back: to be closed if its gate has no socket any more, which the next read tells.
    pub fn park(&self, mut waiting: Waiting) -> Result<(), Waiting> {
        let Some(socket) = waiting.gate.park() else { return Err(waiting) };
        let mut places = self.places.lock();
        let refused = {
            let entry = places.parked.vacant_key();
            places.closed || self.registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(entry), Interest::READABLE).is_err()
        };
        if refused {
            drop(places);
            // If this fails, the next read does too.
            let _ = waiting.gate.resume(socket);
            return Err(waiting);
        }
        if places.parked.is_empty() {
            self.begun.notify_one();
        }
        places.earliest = Some(places.earliest.map_or(waiting.due, |earliest| earliest.min(waiting.due)));
        places.parked.insert(Parked { socket, waiting });
        self.count.inc();
        Ok(())
    }

    /// Gives a connection back to the runtime. `None` if it is not parked, or the runtime does not take it.
    fn leave(&self, place: usize) -> Option<Waiting> {
        let Parked { socket, mut waiting } = self.places.lock().parked.try_remove(place)?;
        self.count.dec();
        let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
        waiting.gate.resume(socket).ok()?;
        Some(waiting)
    }

    /// Those that have waited for long enough. Only the attendant takes connections out, so the places stay theirs.
    fn due(&self, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        let mut places = self.places.lock();
        if places.earliest.is_none_or(|earliest| earliest > now) {
            return due;
        }
        // What is parked from here on says so itself.
        places.earliest = None;
        let mut start = 0;
        while start < places.parked.capacity() {
            let end = (start + LOOK_AT).min(places.parked.capacity());
            for place in start..end {
                match places.parked.get(place) {
                    Some(parked) if parked.waiting.due <= now => due.push(place),
                    Some(parked) => next = Some(next.map_or(parked.waiting.due, |next| next.min(parked.waiting.due))),
                    None => {}
                }
            }
            start = end;
            parking_lot::MutexGuard::bump(&mut places);
        }
        places.earliest = match (places.earliest, next) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        due
    }

    fn is_empty(&self) -> bool {
        self.places.lock().parked.is_empty()
    }

    fn close(&self) {
        let parked = {
            let mut places = self.places.lock();
            places.closed = true;
            std::mem::take(&mut places.parked)
        };
        self.count.sub(i64::try_from(parked.len()).unwrap_or(i64::MAX));
    }
}

impl Attendant {
    /// Gives connections to `resume` that a client sends something on, or that have waited for long enough, until the gateway
    /// stops. Those that wait then are closed.
    pub async fn attend(mut self, mut shutdown: watch::Receiver<bool>, resume: impl Fn(Waiting)) {
        let stop = async move {
            let _ = shutdown.wait_for(|stop| *stop).await;
        };
        tokio::pin!(stop);
        let mut events = Events::with_capacity(EVENTS);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_empty = self.lot.is_empty();
            tokio::select! {
                biased;
                () = &mut stop => break,
                now = look.tick(), if !is_empty => {
                    for place in self.lot.due(now) {
                        if let Some(waiting) = self.lot.leave(place) {
                            resume(waiting);
                        }
                    }
                }
                ready = self.poll.readable_mut() => match ready {
                    Ok(mut ready) => {
                        match ready.get_inner_mut().poll(&mut events, Some(Duration::ZERO)) {
                            // There may be news that nobody would tell again.
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                            Ok(()) if !events.is_empty() => {}
                            _ => ready.clear_ready(),
                        }
                        for event in &events {
                            if let Some(waiting) = self.lot.leave(event.token().0) {
                                resume(waiting);
                            }
                        }
                    }
                    // The runtime ends.
                    Err(_) => break,
                },
                () = self.lot.begun.notified(), if is_empty => {}
            }
        }
    }
}

/// Also if the runtime ends in the middle of it.
impl Drop for Attendant {
    fn drop(&mut self) {
        self.lot.close();
    }
}
