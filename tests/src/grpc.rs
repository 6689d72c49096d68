//! A unary gRPC call to any path, for methods that no generated client has.

use bytes::{Buf, BufMut};
use tokio::runtime;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::tls::Door;

/// Calls `path` at `address` with an empty message.
pub fn unary(address: &str, path: &str) -> Result<Vec<u8>, Status> {
    unary_over(&Door::plain(address), path)
}

pub fn unary_over(door: &Door, path: &str) -> Result<Vec<u8>, Status> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        let mut client = Grpc::new(door.channel());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = path.parse().expect("a path");
        client.unary(Request::new(()), path, Raw).await.map(tonic::Response::into_inner)
    })
}

/// Sends nothing, hands back the bytes.
struct Raw;

impl Codec for Raw {
    type Encode = ();
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(b"");
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        Ok(Some(bytes.into()))
    }
}
