//! What forwarded calls are compared with: a stock tonic server with default options that
//! keeps the same values in a map and answers the same message.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use shoal_proto::shoal::v1::{
    CallRequest, CallResponse, WatchRoutesRequest, WatchRoutesResponse, WhereIsPeerRequest,
    WhereIsPeerResponse,
    shoal_server::{Shoal, ShoalServer},
};
use tonic::{Request, Response, Status, transport::Server};

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(long)]
    pub listen: SocketAddr,
}

#[derive(Default)]
struct Values(Mutex<BTreeMap<Bytes, Bytes>>);

#[tonic::async_trait]
impl Shoal for Values {
    type WatchRoutesStream = tokio_stream::Empty<Result<WatchRoutesResponse, Status>>;

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let CallRequest { key, method, payload } = request.into_inner();
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let payload = match method.as_str() {
            "put" => {
                values.insert(key, payload);
                Bytes::new()
            }
            "get" => values.get(&key).cloned().ok_or_else(|| Status::not_found("no value"))?,
            other => return Err(Status::unimplemented(format!("no method {other:?}"))),
        };
        let owner = "node-a".to_owned();
        Ok(Response::new(CallResponse { payload, shard: 1, epoch: 1, owner, forwarded: false }))
    }

    async fn watch_routes(
        &self,
        _: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        Err(Status::unimplemented("only calls are compared"))
    }

    async fn where_is_peer(
        &self,
        _: Request<WhereIsPeerRequest>,
    ) -> Result<Response<WhereIsPeerResponse>, Status> {
        Err(Status::unimplemented("only calls are compared"))
    }
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let service = ShoalServer::new(Values::default());
    Ok(Server::builder().add_service(service).serve(args.listen).await?)
}
