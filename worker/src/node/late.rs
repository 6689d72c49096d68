//! Services whose ports open before there is anything behind them.
//!
//! A node listens before it is a member of anything: peers must reach its founding. What
//! only a member can answer is UNAVAILABLE until then.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use arc_swap::ArcSwapOption;
use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use shoal_core::admit::Nack;
use shoal_core::id::LogIndex;
use tonic::{Status, body::Body, server::NamedService, service::Routes};
use tower_service::Service;

use super::unformed::Unformed;
use crate::{
    call::{Call, Outcome},
    forward::Owner,
    host::shards::{Owned, Shards},
};

/// Filled once this node is a member, emptied when it is none any more.
#[derive(Clone, Default)]
pub(crate) struct Late {
    pub session: LateService<names::Session>,
    pub handover: LateService<names::Handover>,
    pub map: LateService<names::Map>,
    pub admin: LateService<names::Admin>,
}

/// Names of the services, as their paths spell them.
pub(crate) mod names {
    use super::NamedService;

    #[derive(Clone, Default)]
    pub struct Session;
    #[derive(Clone, Default)]
    pub struct Handover;
    #[derive(Clone, Default)]
    pub struct Map;
    #[derive(Clone, Default)]
    pub struct Admin;

    impl NamedService for Session {
        const NAME: &'static str = "shoal.peer.v1.Session";
    }
    impl NamedService for Handover {
        const NAME: &'static str = "shoal.peer.v1.Handover";
    }
    impl NamedService for Map {
        const NAME: &'static str = "shoal.peer.v1.Map";
    }
    impl NamedService for Admin {
        const NAME: &'static str = "shoal.admin.v1.Admin";
    }
}

#[derive(Clone, Default)]
pub(crate) struct LateService<N> {
    routes: Arc<ArcSwapOption<Routes>>,
    /// Answers until then, where somebody who asks should know what the node waits for.
    unformed: Option<Unformed>,
    name: std::marker::PhantomData<N>,
}

impl<N> LateService<N> {
    pub fn fill(&self, routes: Routes) {
        self.routes.store(Some(Arc::new(routes)));
    }

    pub fn until_then(&mut self, unformed: Unformed) {
        self.unformed = Some(unformed);
    }

    pub fn clear(&self) {
        self.routes.store(None);
    }
}

impl<N: NamedService> NamedService for LateService<N> {
    const NAME: &'static str = N::NAME;
}

impl<N> Service<Request<Body>> for LateService<N> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.routes.load_full() {
            Some(routes) => {
                let mut routes = Routes::clone(&routes);
                async move { Ok(routes.call(request).await.unwrap_or_else(|never| match never {})) }
                    .boxed()
            }
            None => match &self.unformed {
                Some(unformed) => unformed.answer(request).map(Ok).boxed(),
                None => {
                    let status = Status::unavailable("this node is not a member of a cluster yet");
                    futures::future::ready(Ok(status.into_http())).boxed()
                }
            },
        }
    }
}

/// The shards of this node, once it is a member.
#[derive(Clone, Default)]
pub(crate) struct LateOwner {
    shards: Arc<OnceLock<Shards>>,
}

impl LateOwner {
    pub fn fill(&self, shards: Shards) {
        // Raft runs once in a life, so that nothing was there.
        let _ = self.shards.set(shards);
    }

    /// What they hold; nothing before.
    pub fn owned(&self) -> Owned {
        self.shards.get().map(Shards::owned).unwrap_or_default()
    }
}

impl Owner for LateOwner {
    fn call(&self, call: Call) -> BoxFuture<'static, Outcome> {
        match self.shards.get() {
            Some(shards) => Owner::call(shards, call),
            None => {
                let nack = Nack::Moving { row: LogIndex::default() };
                futures::future::ready(Outcome::Nack(nack)).boxed()
            }
        }
    }

    fn idempotent(&self, method: &str) -> bool {
        self.shards.get().is_some_and(|shards| Owner::idempotent(shards, method))
    }
}
