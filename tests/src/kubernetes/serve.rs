//! The server's side: connections, requests, watches.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::state::{ApiRequest, ApiState, Fault};
use crate::watched::Watched;

/// A body that is sent as it comes into being; an error breaks the connection.
struct Stream(mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>);

impl Body for Stream {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| part.map(Frame::data)))
    }
}

type Out = mpsc::UnboundedSender<Result<Bytes, std::io::Error>>;

/// Serves until it is stopped; then all connections are dropped.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Watched<ApiState>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        let due = shared.change(|state| state.arrive());
        let wait = due.map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()));
        let mut version = shared.changes();
        tokio::select! {
            _ = &mut stopped => return,
            () = tokio::time::sleep(wait) => {}
            // A new event may be due before those that were known.
            _ = version.changed() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Watched<ApiState>>) -> Result<Response<Stream>, Infallible> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let authorization = header(AUTHORIZATION);
    let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let received = ApiRequest { path, authorization: authorization.clone(), accept: header(ACCEPT), at: Instant::now() };
    let (fault, token) = shared.change(|state| {
        state.requests.push(received);
        let fault = state.script.pop_front().or_else(|| state.standing.clone());
        (fault, format!("Bearer {}", state.options.token))
    });
    let query = parse_query(request.uri().query().unwrap_or_default());
    let mut cut = false;
    match fault {
        Some(Fault::Status { code, retry_after }) => {
            let mut response = status(code, &query, request.uri().path(), retry_after);
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
            }
            return Ok(response);
        }
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::Garbage) => return Ok(whole(200, "<html>a proxy's page</html>\n".to_owned())),
        Some(Fault::Cut) => cut = true,
        None => {}
    }
    if authorization.as_deref() != Some(&token) {
        return Ok(status(401, &query, request.uri().path(), None));
    }
    let response = match request.uri().path() {
        "/pods" => list(&shared, "pods", &query, cut),
        path => match path.strip_prefix("/api/v1/") {
            Some(resource @ ("pods" | "nodes" | "namespaces")) if query.contains_key("watch") => {
                watch(&shared, resource, query, cut)
            }
            Some(resource @ ("pods" | "nodes" | "namespaces")) => list(&shared, resource, &query, cut),
            _ => status(404, &query, path, None),
        },
    };
    Ok(response)
}

fn parse_query(query: &str) -> HashMap<String, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key.to_owned(), decoded(value))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits: Option<u8> = (byte == b'%').then(|| {
            let hex = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
            u8::from_str_radix(&String::from_utf8_lossy(&hex), 16).unwrap_or(b'?')
        });
        bytes.push(digits.unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A whole body of JSON.
fn whole(code: u16, text: String) -> Response<Stream> {
    let (out, stream) = mpsc::unbounded_channel();
    let _ = out.send(Ok(text.into()));
    response(code, stream)
}

fn response(code: u16, stream: mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>) -> Response<Stream> {
    let mut response = Response::new(Stream(stream));
    *response.status_mut() = code.try_into().unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// The API server's `Status` object with a code.
fn status(code: u16, query: &HashMap<String, String>, path: &str, retry_after: Option<u64>) -> Response<Stream> {
    let (verb, resource) =
        (if query.contains_key("watch") { "watch" } else { "list" }, path.rsplit('/').next().unwrap_or_default());
    let (reason, message) = match code {
        401 => ("Unauthorized", "Unauthorized".to_owned()),
        403 => (
            "Forbidden",
            format!(
                "{resource} is forbidden: User \"system:serviceaccount:podmeter:podmeter\" cannot {verb} resource \"{resource}\" in \
                 API group \"\" at the cluster scope"
            ),
        ),
        410 => ("Expired", "too old resource version: 1 (100)".to_owned()),
        429 => ("TooManyRequests", "Too many requests, please try again later.".to_owned()),
        _ => ("InternalError", "an error on the server".to_owned()),
    };
    let mut object = status_object(code, reason, &message);
    if let Some(seconds) = retry_after {
        // The API server has it in both places.
        object["details"] = json!({"retryAfterSeconds": seconds});
    }
    whole(code, object.to_string())
}

fn status_object(code: u16, reason: &str, message: &str) -> Json {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code})
}

/// Whether a field selector leaves this object.
fn selected(object: &Json, query: &HashMap<String, String>) -> bool {
    query.get("fieldSelector").is_none_or(|selector| {
        selector.split(',').all(|term| match term.split_once('=') {
            Some(("spec.nodeName", name)) => object["spec"]["nodeName"] == name,
            Some(("metadata.name", name)) => object["metadata"]["name"] == name,
            _ => false,
        })
    })
}

fn list(shared: &Watched<ApiState>, resource: &str, query: &HashMap<String, String>, cut: bool) -> Response<Stream> {
    let state = shared.get();
    // An item has no kind: it is that of the list.
    let bare = |object: &Json| {
        let fields = object.as_object().into_iter().flatten().filter(|(key, _)| *key != "kind" && *key != "apiVersion");
        fields.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>()
    };
    let items: Vec<_> = state
        .objects
        .iter()
        .filter(|((known, _), object)| known == resource && selected(object, query))
        .map(|(_, object)| bare(object))
        .collect();
    let kind = match resource {
        "pods" => "PodList",
        "nodes" => "NodeList",
        _ => "NamespaceList",
    };
    let metadata = json!({"resourceVersion": state.visible.to_string()});
    // In the order in which the real one writes them.
    let items = serde_json::to_string(&items).unwrap_or_default();
    let text = format!(r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{metadata},"items":{items}}}"#) + "\n";
    if !cut {
        return whole(200, text);
    }
    let (out, stream) = mpsc::unbounded_channel();
    send_half(&out, &text);
    response(200, stream)
}

fn send_half(out: &Out, text: &str) {
    let _ = out.send(Ok(Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2])));
    let _ = out.send(Err(std::io::Error::other("cut")));
}

fn watch(shared: &Arc<Watched<ApiState>>, resource: &str, query: HashMap<String, String>, cut: bool) -> Response<Stream> {
    let (out, stream) = mpsc::unbounded_channel();
    let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let timeout = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(1800);
    let number = shared.change(|state| {
        state.watches += 1;
        state.open += 1;
        state.watches
    });
    let watch = Watch {
        out,
        shared: Arc::clone(shared),
        resource: resource.to_owned(),
        query,
        number,
        end: Instant::now() + Duration::from_secs(timeout),
        cut,
    };
    tokio::spawn(watch.run(from));
    response(200, stream)
}

struct Watch {
    out: Out,
    shared: Arc<Watched<ApiState>>,
    resource: String,
    query: HashMap<String, String>,
    number: u64,
    end: Instant,
    cut: bool,
}

impl Watch {
    async fn run(self, from: u64) {
        let mut version = self.shared.changes();
        let mut at = match self.begin(from) {
            Some(at) => at,
            None => return,
        };
        let mut next_bookmark = Instant::now() + self.shared.get().options.bookmarks;
        loop {
            let (due, closed) = {
                let state = self.shared.get();
                let due: Vec<_> = state.history.iter().filter(|event| event.version > at).cloned().collect();
                at = at.max(state.visible);
                (due, (state.closed.0 >= self.number).then_some(state.closed.1))
            };
            for event in due.iter().filter(|h| h.resource == self.resource && selected(&h.object, &self.query)) {
                if !self.send(event.kind, &event.object) {
                    return;
                }
            }
            let now = Instant::now();
            if now >= next_bookmark {
                next_bookmark = now + self.shared.get().options.bookmarks;
                self.send("BOOKMARK", &bookmark(&self.resource, at));
            }
            match closed {
                Some(true) => return,
                Some(false) => {
                    send_half(&self.out, &json!({"type": "MODIFIED", "object": {"metadata": {"name": "half"}}}).to_string());
                    return;
                }
                None => {}
            }
            tokio::select! {
                _ = version.changed() => {}
                () = tokio::time::sleep_until(next_bookmark.into()) => {}
                () = tokio::time::sleep_until(self.end.into()) => return,
                () = self.out.closed() => return,
            }
        }
    }

    /// Sends what there is at the begin; the version that was reached, or `None` when the watch is over.
    fn begin(&self, from: u64) -> Option<u64> {
        let state = self.shared.get();
        if from != 0 && from < state.oldest {
            let gone = status_object(410, "Expired", &format!("too old resource version: {from} ({})", state.oldest));
            self.send("ERROR", &gone);
            return None;
        }
        if from != 0 {
            return Some(from);
        }
        let at = state.visible;
        let objects: Vec<Json> = state
            .objects
            .iter()
            .filter(|((resource, _), _)| *resource == self.resource)
            .map(|(_, object)| object.clone())
            .collect();
        drop(state);
        for object in objects.iter().filter(|object| selected(object, &self.query)) {
            if !self.send("ADDED", object) {
                return None;
            }
        }
        Some(at)
    }

    /// False when the watch is over.
    fn send(&self, kind: &str, object: &Json) -> bool {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        if self.cut {
            send_half(&self.out, &line);
            return false;
        }
        self.out.send(Ok(line.into())).is_ok()
    }
}

/// An object of which only the version means anything.
fn bookmark(resource: &str, version: u64) -> Json {
    let kind = match resource {
        "pods" => "Pod",
        "nodes" => "Node",
        _ => "Namespace",
    };
    let metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    json!({"kind": kind, "apiVersion": "v1", "metadata": metadata, "spec": {"containers": null}, "status": {}})
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.change(|state| state.open -= 1);
    }
}
