//! Where requests go: a gRPC or HTTP client of an OTLP receiver, or stdout.

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::client::Client;
use super::failure::{Accepted, Retry, SendError, SendErrorKind, chain};
use super::request::Form;
use super::{Destination, ExportError, Exporter, OtlpService, Protocol, grpc, http};

/// Where requests go.
pub(super) enum Sink {
    Receiver(Box<Client>),
    Lines(Box<dyn AsyncWrite + Send + Unpin>),
}

impl Sink {
    /// A client of an OTLP receiver.
    pub(super) fn new(destination: &Destination, service: OtlpService) -> Result<Self, ExportError> {
        if destination.timeout.is_zero() {
            return Err(ExportError::Timeout);
        }
        let wire = match destination.protocol {
            Protocol::Grpc => &grpc::WIRE,
            Protocol::HttpProtobuf => &http::WIRE,
        };
        Ok(Self::Receiver(Box::new(Client::new(destination, service, wire)?)))
    }

    /// Sends a request without anything in it.
    pub(super) async fn send_nothing(&mut self, destination: &Destination) -> Result<Accepted, SendError> {
        self.send(Form::of(Exporter::Otlp, destination).nothing()).await
    }

    /// For messages: where requests go.
    pub(super) fn target(&self) -> String {
        match self {
            Self::Receiver(client) => client.target().into(),
            Self::Lines(_) => "stdout".into(),
        }
    }

    pub(super) async fn send(&mut self, body: Bytes) -> Result<Accepted, SendError> {
        match self {
            Self::Receiver(client) => client.send(body).await,
            Self::Lines(out) => {
                let failed = |e| SendError { kind: SendErrorKind::Stdout, reason: chain(&e), retry: Retry::Never };
                out.write_all(&body).await.map_err(failed)?;
                out.flush().await.map_err(failed)?;
                Ok(Accepted::default())
            }
        }
    }
}
