//! What both drivers begin with: the exchange judges the request, and says what is to be done.

use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::connection::Client;
use crate::exchange::{Next, Run};
use crate::normalise::{BodyLength, Framing};
use crate::rescue::Cause;
use portcullis_plugin::RequestHead;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::SystemTime;

/// A request that was judged.
pub struct Judged {
    pub run: Boxed,
    pub next: Next,
    /// Of a reply: the body that was announced will not come, or is not wanted, so that the connection ends.
    pub closes: bool,
}

/// Places that a thread keeps.
const SPARE: usize = 64;

thread_local! {
    #[allow(clippy::vec_box)] // The place itself is what is kept.
    static SPARES: RefCell<Vec<Box<Option<Run>>>> = const { RefCell::new(Vec::new()) };
}

/// A [`Run`] in a place of its own, which its thread keeps for the next one.
pub struct Boxed(Option<Box<Option<Run>>>);

impl Boxed {
    /// Made in its place: it is large.
    #[inline]
    fn new(run: impl FnOnce() -> Run) -> Self {
        let mut place = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
        *place = Some(run());
        Self(Some(place))
    }
}

impl Deref for Boxed {
    type Target = Run;

    fn deref(&self) -> &Run {
        match self.0.as_deref() {
            Some(Some(run)) => run,
            _ => unreachable!("it is there until it is dropped"),
        }
    }
}

impl DerefMut for Boxed {
    fn deref_mut(&mut self) -> &mut Run {
        match self.0.as_deref_mut() {
            Some(Some(run)) => run,
            _ => unreachable!("it is there until it is dropped"),
        }
    }
}

impl Drop for Boxed {
    fn drop(&mut self) {
        let Some(mut place) = self.0.take() else { return };
        // Told as broken off here, if it was not finished.
        *place = None;
        // A thread that ends keeps nothing.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(place);
            }
        });
    }
}

pub async fn judge(
    client: &Client,
    snapshot: Arc<Snapshot>,
    plan: Arc<ListenerPlan>,
    request: RequestHead,
    framing: Framing,
) -> Judged {
    let now = SystemTime::now();
    let certificate = client.certificate_status(&plan, now);
    let connection = Arc::clone(&client.connection);
    let too_large = matches!((plan.body_limit, &framing.body), (Some(limit), BodyLength::Exact(len)) if *len > limit);
    let closes = framing.expect_continue || too_large;
    let mut run = Boxed::new(|| Run::new(snapshot, plan, connection, certificate, request, framing, now));
    let next = match run.judge().await {
        Next::Forward(_) if too_large => Next::Reply(run.fail(Cause::BodyTooLarge)),
        next => next,
    };
    Judged { run, next, closes }
}
