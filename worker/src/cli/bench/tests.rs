//! A run against a server that keeps counters, and one that fails some calls.

use std::{collections::BTreeMap, net::SocketAddr};

use parking_lot::{Mutex, RwLock};
use shoal_proto::shoal::v1::{
    WatchRoutesRequest, WatchRoutesResponse, WhereIsPeerRequest, WhereIsPeerResponse,
    shoal_server::{Shoal, ShoalServer},
};
use tonic::{Request, Response};

use super::*;
use crate::env::net;

#[derive(Default)]
struct Fake {
    values: Mutex<BTreeMap<Bytes, i64>>,
    calls: AtomicU64,
    /// Every so many calls one is refused; 0 = none.
    refuse_every: u64,
    /// Every so many calls one is acknowledged and forgotten; 0 = none.
    forget_every: u64,
}

#[tonic::async_trait]
impl Shoal for Fake {
    type WatchRoutesStream = tokio_stream::Empty<Result<WatchRoutesResponse, Status>>;

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let call = request.into_inner();
        let read = &call.payload[..] == b"0";
        let number = self.calls.fetch_add(u64::from(!read), Ordering::Relaxed) + 1;
        let hit = |every: u64| every > 0 && !read && number.is_multiple_of(every);
        if hit(self.refuse_every) {
            return Err(Status::unavailable("refused"));
        }
        let mut values = self.values.lock();
        let value = values.entry(call.key).or_default();
        let after = *value + i64::from(!read);
        if !hit(self.forget_every) {
            *value = after;
        }
        let forwarded = number.is_multiple_of(2);
        let payload = Bytes::from(after.to_string());
        let owner = "node-a".to_owned();
        Ok(Response::new(CallResponse { payload, shard: 0, epoch: 1, owner, forwarded }))
    }

    async fn watch_routes(
        &self,
        _: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn where_is_peer(
        &self,
        _: Request<WhereIsPeerRequest>,
    ) -> Result<Response<WhereIsPeerResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn report(fake: Fake, load: Load) -> Report {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = net::listen(loopback).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(ShoalServer::new(fake));
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    let config = Config {
        entries: Arc::new(RwLock::new(vec![address])),
        tls: crate::tls::Tls::default(),
        load,
        bound: Bound::Calls(2_000),
        connections: 4,
        keys: 100,
        deadline: Duration::from_secs(5),
        phase: Arc::default(),
        in_flight: Arc::default(),
        stop: CancellationToken::new(),
    };
    let report = run(config, watch::channel(Progress::default()).0).await;
    serving.abort();
    report
}

#[tokio::test]
async fn a_sound_server_is_flawless_in_both_loops() {
    for load in [Load::Closed { callers: 8 }, Load::Open { rate: 4_000.0 }] {
        let report = report(Fake::default(), load).await;
        assert_eq!((report.whole.calls, report.whole.failed), (2_000, 0));
        assert!(report.flawless(), "{report:?}");
        assert_eq!(report.forwarded_percent(), 50.0);
        assert!(report.whole.p50_ms > 0.0 && report.whole.p50_ms <= report.whole.longest_ms);
    }
}

#[tokio::test]
async fn failures_are_counted_by_status() {
    let fake = Fake { refuse_every: 100, ..Fake::default() };
    let report = report(fake, Load::Closed { callers: 4 }).await;
    assert_eq!(report.whole.failures, BTreeMap::from([("Unavailable: refused".to_owned(), 20)]));
    assert_eq!(report.judgement, Judgement::default(), "none of them ran");
    assert!(!report.flawless());
}

#[tokio::test]
async fn an_acknowledged_increment_that_is_forgotten_shows() {
    let fake = Fake { forget_every: 150, ..Fake::default() };
    let report = report(fake, Load::Closed { callers: 4 }).await;
    assert_eq!(report.whole.failed, 0);
    assert_eq!(report.judgement.doubled + report.judgement.lost, 13);
}
