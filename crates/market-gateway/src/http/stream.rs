//! Answers as server-sent events: `data: {chunk}` lines and `data: [DONE]`.

use super::answer::{Head, receipt, with};
use super::envelope::ApiError;
use crate::jobs::{FailureKind, JobEvent, JobFailure, JobStream};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::{self, Stream};
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;

/// A comment is sent after so many seconds without a token, so that proxies keep the connection.
const KEEP_ALIVE_SECONDS: u64 = 15;

struct Running {
    head: Head,
    job: JobStream,
    first: bool,
    include_usage: bool,
    ended: bool,
}

/// The response; dropping it, as a client that goes away does, drops the job.
pub(crate) fn response(head: Head, job: JobStream, include_usage: bool) -> Response {
    let running = Running { head, job, first: true, include_usage, ended: false };
    let events = events(running).map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(KEEP_ALIVE_SECONDS))).into_response()
}

fn events(running: Running) -> impl Stream<Item = Event> + Send {
    stream::unfold(running, |mut running| async move {
        if running.ended {
            return None;
        }
        let event = running.job.next().await;
        let events = running.write(event);
        Some((stream::iter(events), running))
    })
    .flatten()
}

impl Running {
    fn write(&mut self, event: Option<JobEvent>) -> Vec<Event> {
        let first = std::mem::take(&mut self.first);
        match event {
            Some(JobEvent::Text(text)) => vec![data(&self.head.chunk(Some(&text), first, None))],
            Some(JobEvent::Done(summary)) => {
                self.ended = true;
                let last = self.head.chunk(None, first, Some(summary.finish));
                let mut events = vec![data(&with(last, "trellis", receipt(&summary)))];
                if self.include_usage {
                    events.push(data(&self.head.usage_chunk(&summary)));
                }
                events.push(Event::default().data("[DONE]"));
                events
            }
            Some(JobEvent::Failed(failure)) => self.failed(failure),
            None => self.failed(JobFailure::new(FailureKind::Internal, "the job ended without a word; try again")),
        }
    }

    fn failed(&mut self, failure: JobFailure) -> Vec<Event> {
        self.ended = true;
        vec![data(&ApiError::from(failure).to_json())]
    }
}

fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}
