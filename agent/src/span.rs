//! Spans of podmeter's own work, for who has `telemetry.traces` on: what a collection consists of, and what each part took.
//!
//! Until [`switch_on`] nothing is made, and a span costs one load.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use opentelemetry::{
    Context, ContextGuard, KeyValue, Value, global,
    global::BoxedSpan,
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _},
};

/// The instrumentation scope.
const SCOPE: &str = "podmeter";

static ON: AtomicBool = AtomicBool::new(false);

/// From now on spans are made, by the global provider.
pub fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

/// Work of this thread, until it is dropped. What begins on this thread meanwhile is part of it.
#[must_use = "the span ends when this is dropped"]
pub struct Work(Option<ContextGuard>);

/// Begins a span with this name.
pub fn work(name: &'static str) -> Work {
    if !ON.load(Ordering::Relaxed) {
        return Work(None);
    }
    let span = global::tracer(SCOPE).start(name);
    Work(Some(Context::current_with_span(span).attach()))
}

impl Work {
    /// Adds an attribute: to the innermost span of this thread, which this must be.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if self.0.is_some() {
            Context::map_current(|now| now.span().set_attribute(KeyValue::new(key, value)));
        }
    }

    /// Notes why it failed, as [`Work::set`] does.
    pub fn failed(&self, reason: &str) {
        if self.0.is_some() {
            Context::map_current(|now| now.span().set_status(Status::error(reason.to_owned())));
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.0.is_some() {
            Context::map_current(|now| now.span().end());
        }
    }
}

/// The span that this thread is in, for what follows from it elsewhere; `None` where there is none.
pub fn current() -> Option<SpanContext> {
    if !ON.load(Ordering::Relaxed) {
        return None;
    }
    let of = Context::map_current(|now| now.span().span_context().clone());
    of.is_valid().then_some(of)
}

/// Notes work that took from `began` until now, where what it was part of is known only at its end. Nothing where that is not known.
pub fn done(name: &'static str, began: SystemTime, bytes: usize, of: Option<SpanContext>) {
    let Some(of) = of.filter(|_| ON.load(Ordering::Relaxed)) else { return };
    let tracer = global::tracer(SCOPE);
    let builder = tracer.span_builder(name).with_start_time(began).with_attributes([bytes_of(bytes)]);
    tracer.build_with_context(builder, &Context::new().with_remote_span_context(of)).end();
}

fn bytes_of(bytes: usize) -> KeyValue {
    KeyValue::new("podmeter.bytes", i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// A request that is sent, wherever the task that sends it runs.
pub struct Sending(Option<BoxedSpan>);

/// Begins one, as part of the work that it came of.
pub fn sending(payload: &'static str, bytes: usize, target: &str, of: Option<SpanContext>) -> Sending {
    if !ON.load(Ordering::Relaxed) {
        return Sending(None);
    }
    let parent = of.map_or_else(Context::new, |of| Context::new().with_remote_span_context(of));
    let tracer = global::tracer(SCOPE);
    let attributes =
        [KeyValue::new("podmeter.payload", payload), KeyValue::new("podmeter.target", target.to_owned()), bytes_of(bytes)];
    let builder = tracer.span_builder("send").with_kind(SpanKind::Client).with_attributes(attributes);
    Sending(Some(tracer.build_with_context(builder, &parent)))
}

impl Sending {
    /// It was taken, or not: with the reason.
    pub fn ended(mut self, failure: Option<&str>) {
        let Some(span) = &mut self.0 else { return };
        if let Some(reason) = failure {
            span.set_status(Status::error(reason.to_owned()));
        }
        span.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_until_spans_are_switched_on() {
        let work = work("collection");
        work.set("podmeter.points", 1);
        assert!(work.0.is_none() && current().is_none());
        assert!(sending("metrics", 1, "x", None).0.is_none());
    }
}
