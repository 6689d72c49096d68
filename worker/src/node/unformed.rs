//! What a node answers on its admin port while it is no member of anything: its Status.
//!
//! A member that is about to enter its cluster answers nothing yet: the cluster's state is soon
//! known to it.

use std::sync::{Arc, OnceLock};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use shoal_proto::shoal::admin::v1::{StatusRequest, StatusResponse};
use tokio::sync::watch;
use tonic::{
    Status,
    body::Body,
    server::{Grpc, UnaryService},
};
use tonic_prost::ProstCodec;

use crate::{found, wire::admin as wire};

const STATUS: &str = "/shoal.admin.v1.Admin/Status";

#[derive(Clone)]
pub(crate) struct Unformed {
    founding: Arc<OnceLock<watch::Receiver<found::State>>>,
    /// What the node waits for.
    waiting: watch::Receiver<String>,
    pod_uid: Option<String>,
}

impl Unformed {
    pub fn new(waiting: watch::Receiver<String>, pod_uid: Option<String>) -> Self {
        Self { founding: Arc::default(), waiting, pod_uid }
    }

    pub fn bind(&self, founding: watch::Receiver<found::State>) {
        // Founding begins once in a life, so that nothing was there.
        let _ = self.founding.set(founding);
    }

    pub fn answer(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        if request.uri().path() == STATUS
            && let Some(status) = self.status()
        {
            return async move {
                let codec = ProstCodec::<StatusResponse, StatusRequest>::default();
                Grpc::new(codec).unary(Known(status), request).await
            }
            .boxed();
        }
        let waiting = self.waiting.borrow();
        let text = format!("this node is not a member of a cluster yet: {}", *waiting);
        futures::future::ready(Status::unavailable(text).into_http()).boxed()
    }

    fn status(&self) -> Option<StatusResponse> {
        let state = self.founding.get()?.borrow();
        let enters = state.directory.formed && !state.strays;
        let cluster = state.directory.cluster();
        (!enters).then(|| StatusResponse {
            cluster_id: cluster.map_or_else(String::new, |id| id.to_string()),
            waiting: self.waiting.borrow().clone(),
            version: crate::VERSION.to_owned(),
            standing: Some(wire::standing(&state, self.pod_uid.as_deref())),
            ..StatusResponse::default()
        })
    }
}

struct Known(StatusResponse);

impl UnaryService<StatusRequest> for Known {
    type Response = StatusResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<StatusResponse>, Status>>;

    fn call(&mut self, _: tonic::Request<StatusRequest>) -> Self::Future {
        futures::future::ready(Ok(tonic::Response::new(self.0.clone()))).boxed()
    }
}
