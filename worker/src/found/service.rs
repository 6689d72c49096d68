//! The gRPC face of founding: one question in, one answer out.

use shoal_proto::shoal::peer::v1::{
    FoundingAnswer, FoundingQuestion,
    founding_server::{Founding, FoundingServer},
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::{Handle, Input};
use crate::{
    tls::{self, Caller},
    wire,
};

/// Longest question: two names, two addresses, two nonces and a cluster id.
const MAX_QUESTION: usize = 4_096;

#[derive(Clone, Debug)]
pub struct Service {
    inbox: mpsc::Sender<Input>,
}

impl Handle {
    /// Belongs on RAFT_ADDRESS.
    pub fn service(&self) -> FoundingServer<Service> {
        let service = Service { inbox: self.inbox.clone() };
        FoundingServer::new(service).max_decoding_message_size(MAX_QUESTION)
    }
}

#[tonic::async_trait]
impl Founding for Service {
    async fn ask(
        &self,
        request: Request<FoundingQuestion>,
    ) -> Result<Response<FoundingAnswer>, Status> {
        let caller = Caller::of(&request);
        let question = wire::found::question_in(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        // With PEER_ADDRESSES the name in the founding set is an address.
        caller.must_be(Some(&tls::host(&question.from.name)))?;
        let (asker, answer) = oneshot::channel();
        let busy = || Status::unavailable("too many questions wait here; ask again");
        self.inbox.try_send(Input::Question(question, asker)).map_err(|_| busy())?;
        let answer = answer.await.map_err(|_| busy())?;
        Ok(Response::new(wire::found::answer_out(&answer)))
    }
}
