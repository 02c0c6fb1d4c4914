//! What both drivers begin with: the exchange judges the request, and says what is to be done.

use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::connection::Client;
use crate::exchange::{Next, Run};
use crate::normalise::{BodyLength, Framing};
use crate::rescue::Cause;
use portcullis_plugin::RequestHead;
use std::sync::Arc;
use std::time::SystemTime;

/// A request that was judged.
pub struct Judged {
    pub run: Box<Run>,
    pub next: Next,
    /// Of a reply: the body that was announced will not come, or is not wanted, so that the connection ends.
    pub closes: bool,
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
    let mut run = Box::new(Run::new(snapshot, plan, connection, certificate, request, framing, now));
    let next = match run.judge().await {
        Next::Forward(_) if too_large => Next::Reply(run.fail(Cause::BodyTooLarge)),
        next => next,
    };
    Judged { run, next, closes }
}
