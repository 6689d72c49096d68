//! Calls to the built-in kv host as any client sends them, and counters that remember what
//! was acknowledged.

use std::{collections::BTreeMap, time::Duration};

use shoal_proto::{
    hash::key_shard,
    shoal::v1::{CallRequest, CallResponse, shoal_client::ShoalClient},
};
use tokio::runtime::{self, Runtime};
use tonic::{Request, Status, transport::Channel};

use crate::tls::Door;

const DEADLINE: Duration = Duration::from_secs(5);
/// Above any limit of a node: what is too large is to be refused there.
const MAX_MESSAGE: usize = 128 << 20;

/// One connection to one entry node; blocks.
pub struct Client {
    runtime: Runtime,
    shoal: ShoalClient<Channel>,
    pub deadline: Duration,
}

impl Client {
    pub fn to(address: &str) -> Self {
        Self::over(&Door::plain(address))
    }

    pub fn over(door: &Door) -> Self {
        // A thread of its own answers the pings of the node also while no call is made.
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let channel = runtime.block_on(async { door.channel() });
        let shoal = ShoalClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self { runtime, shoal, deadline: DEADLINE }
    }

    pub fn call(
        &mut self,
        method: &str,
        key: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<CallResponse, Status> {
        let mut request = Request::new(CallRequest {
            key: key.as_ref().to_vec().into(),
            method: method.to_owned(),
            payload: payload.as_ref().to_vec().into(),
        });
        request.set_timeout(self.deadline);
        self.runtime.block_on(self.shoal.call(request)).map(tonic::Response::into_inner)
    }

    /// The counter after one more.
    pub fn increment(&mut self, key: &str) -> Result<i64, Status> {
        self.call("incr", key, "").map(|answer| number(&answer))
    }

    /// Where the counter stands, with the epoch and the owner that tell.
    pub fn read(&mut self, key: &str) -> Result<(i64, CallResponse), Status> {
        self.call("incr", key, "0").map(|answer| (number(&answer), answer))
    }
}

fn number(answer: &CallResponse) -> i64 {
    let text = std::str::from_utf8(&answer.payload).ok();
    text.and_then(|text| text.parse().ok()).expect("a counter answers with a number")
}

/// A key of that shard, one of `shards`, that begins so.
pub fn key_in(shard: u32, shards: u32, prefix: &str) -> String {
    let keys = (0_u64..).map(|at| format!("{prefix}-{at}"));
    let mut keys = keys.filter(|key| key_shard(key.as_bytes(), shards) == shard);
    keys.next().expect("every shard has keys")
}

/// Counters and what each must hold.
#[derive(Debug)]
pub struct Counters {
    expected: BTreeMap<String, i64>,
}

impl Counters {
    pub fn new(count: usize) -> Self {
        Self { expected: (0..count).map(|at| (format!("counter-{at}"), 0)).collect() }
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.expected.keys().map(String::as_str)
    }

    /// One more on each, through `client`; each answer must be right.
    #[track_caller]
    pub fn add(&mut self, client: &mut Client) {
        for (key, value) in &mut self.expected {
            *value += 1;
            let answer = client.increment(key);
            assert_eq!(answer.as_ref().ok(), Some(&*value), "{key}: {answer:?}");
        }
    }

    /// Every counter holds what was acknowledged.
    #[track_caller]
    pub fn check(&self, client: &mut Client) {
        for (key, value) in &self.expected {
            let answer = client.read(key);
            let stands = answer.as_ref().map(|(value, _)| *value).ok();
            assert_eq!(stands, Some(*value), "{key}: {answer:?}");
        }
    }

    /// A killed owner took these with it: they begin at nothing again.
    pub fn lost(&mut self, key: &str) {
        *self.expected.get_mut(key).expect("a counter of this set") = 0;
    }
}
