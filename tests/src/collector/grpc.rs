//! OTLP over gRPC.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{MetricsService, MetricsServiceServer};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic_types::{ErrorDetails, StatusExt};

use super::state::{Answer, Call, CollectorState, Protocol};
use crate::watched::Watched;

/// Has tonic's server answer a request.
pub(super) async fn answer(request: Request<Incoming>, call: Call, shared: &Arc<Watched<CollectorState>>) -> Response<Body> {
    let (limited, plain_replies) = {
        let state = shared.get();
        (state.limit.is_some(), state.plain_replies)
    };
    let (mut head, incoming) = request.into_parts();
    head.extensions.insert(call);
    let mut metrics = MetricsServiceServer::new(Service(shared.clone())).accept_compressed(CompressionEncoding::Gzip);
    let mut logs = LogsServiceServer::new(Service(shared.clone())).accept_compressed(CompressionEncoding::Gzip);
    if limited {
        metrics = metrics.max_decoding_message_size(usize::MAX);
        logs = logs.max_decoding_message_size(usize::MAX);
    }
    if !plain_replies {
        metrics = metrics.send_compressed(CompressionEncoding::Gzip);
        logs = logs.send_compressed(CompressionEncoding::Gzip);
    }
    let traces = TraceServiceServer::new(Service(shared.clone())).accept_compressed(CompressionEncoding::Gzip);
    let mut routes = tonic::service::Routes::new(metrics).add_service(logs).add_service(traces);
    let Ok(response) = tonic::codegen::Service::call(&mut routes, Request::from_parts(head, incoming)).await;
    response
}

/// The gRPC service.
struct Service(Arc<Watched<CollectorState>>);

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let call = request.extensions().get::<Call>().cloned();
        let call = call.ok_or_else(|| tonic::Status::internal("the fake collector lost the call"))?;
        if let Answer::Grpc { code, retry_info } = &call.answer {
            let message = "the fake collector refuses";
            return Err(match retry_info {
                Some(delay) => tonic::Status::with_error_details(*code, message, ErrorDetails::with_retry_info(Some(*delay))),
                None => tonic::Status::new(*code, message),
            });
        }
        self.0.get().limited(request.get_ref())?;
        let reply = self.0.change(|state| state.take(call, request.into_inner(), Protocol::Grpc));
        Ok(tonic::Response::new(reply))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        let answer = request.extensions().get::<Call>().map(|call| call.answer.clone());
        if let Some(Answer::Grpc { code, .. }) = answer {
            return Err(tonic::Status::new(code, "the fake collector refuses"));
        }
        self.0.get().limited(request.get_ref())?;
        self.0.change(|state| state.logs.push(request.into_inner()));
        Ok(tonic::Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.change(|state| state.traces.push(request.into_inner()));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}
