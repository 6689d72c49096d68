//! An API server for tests, without a network: it answers lists, watches and gets of pods.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response, StatusCode};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_service::Service;

/// What the server says at the moment.
#[derive(Clone, Default)]
struct State {
    pods: Vec<Value>,
    /// Counts the changes of them.
    version: u64,
    /// Every request is refused.
    fails: bool,
}

/// Each list and get shows what it holds; a watch ends as soon as that has changed since.
#[derive(Clone, Default)]
pub struct Api {
    state: watch::Sender<State>,
    asked: Arc<Mutex<Vec<String>>>,
}

pub fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": { "name": name, "uid": format!("uid of {name}"), "resourceVersion": "1" },
        "status": { "phase": "Running", "podIP": ip },
    })
}

impl Api {
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    pub fn set(&self, pods: Vec<Value>) {
        self.state.send_modify(|state| {
            state.pods = pods;
            state.version += 1;
        });
    }

    pub fn fail(&self, fails: bool) {
        self.state.send_modify(|state| state.fails = fails);
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let name = request.uri().path().split("/pods/").nth(1).map(str::to_owned);
        self.asked.lock().push(request.uri().to_string());
        let mut state = self.state.subscribe();
        let now = state.borrow().clone();
        if now.fails {
            return said(StatusCode::FORBIDDEN, &refusal(403, "pods is forbidden"));
        }
        if query.contains("watch=true") {
            // It cannot be resumed: a new list follows.
            let seen = query.split('&').find_map(|field| field.strip_prefix("resourceVersion="));
            let _ = state.wait_for(|state| seen != Some(&state.version.to_string())).await;
            let gone = json!({ "type": "ERROR", "object": refusal(410, "too old") });
            return said(StatusCode::OK, &gone);
        }
        let called = |pod: &&Value| name.as_deref() == pod["metadata"]["name"].as_str();
        match (&name, now.pods.iter().find(called)) {
            (Some(_), Some(pod)) => said(StatusCode::OK, pod),
            (Some(_), None) => said(StatusCode::NOT_FOUND, &refusal(404, "not found")),
            (None, _) => {
                let metadata = json!({ "resourceVersion": now.version.to_string() });
                said(StatusCode::OK, &json!({ "metadata": metadata, "items": now.pods }))
            }
        }
    }
}

fn refusal(code: u16, message: &str) -> Value {
    json!({ "kind": "Status", "status": "Failure", "code": code, "message": message, "reason": "" })
}

fn said(code: StatusCode, body: &Value) -> Response<Body> {
    let body = Body::from(format!("{body}\n").into_bytes());
    Response::builder().status(code).body(body).unwrap()
}

impl Service<Request<Body>> for Api {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().answer(request).map(Ok).boxed()
    }
}
