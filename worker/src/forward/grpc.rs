//! gRPC on hyper: one message in, one or many out, a status in the trailers.
//!
//! The generated servers box every call several times and answer a message that is too
//! large with a code of their own; the data port has one hot method and knows its errors.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;

use super::{pipe::Answers, watch::Watch};
use crate::wire::status;

/// Flag and length before each message.
const PREFIX: usize = 5;

/// Every response of the data port.
#[derive(Default)]
pub(super) enum Body {
    #[default]
    Empty,
    /// One message, then the trailers of success.
    Message(Bytes),
    /// Nothing but these trailers are left.
    Trailers(HeaderMap),
    Answers(Box<Answers>),
    Watch(Box<Watch>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Message(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Trailers(trailers(&Status::ok("")));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Trailers(trailers) => {
                let trailers = std::mem::take(trailers);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Self::Answers(answers) => answers.poll(cx).map(|frame| frame.map(Ok)),
            Self::Watch(watch) => watch.poll(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Message(_) | Self::Trailers(_) | Self::Answers(_) | Self::Watch(_) => false,
        }
    }
}

/// Reads the one message of a request, of at most `limit` bytes.
pub(super) async fn read<M: Message + Default>(
    mut body: Incoming,
    limit: usize,
) -> Result<M, Status> {
    let mut whole = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Status::cancelled(format!("the request ended before its message: {error}"))
        })?;
        let Ok(bytes) = frame.into_data() else { continue };
        if whole.is_empty() && more.is_empty() {
            whole = bytes;
        } else {
            more.extend_from_slice(&std::mem::take(&mut whole));
            more.extend_from_slice(&bytes);
        }
        let start = if more.is_empty() { &whole[..] } else { &more[..] };
        judge(start, limit)?;
    }
    message(if more.is_empty() { whole } else { more.freeze() })
}

/// The one message that a whole body holds.
pub(crate) fn message<M: Message + Default>(mut message: Bytes) -> Result<M, Status> {
    if message.len() < PREFIX {
        return Err(Status::invalid_argument("the request holds no message"));
    }
    let length = message.slice(1..PREFIX).get_u32() as usize;
    message.advance(PREFIX);
    if message.len() != length {
        return Err(Status::invalid_argument("the request does not hold one whole message"));
    }
    M::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Refuses by the prefix what need not be read to its end.
pub(crate) fn judge(start: &[u8], limit: usize) -> Result<(), Status> {
    let Some((prefix, _)) = start.split_first_chunk::<PREFIX>() else { return Ok(()) };
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(Status::unimplemented("compressed messages are not read here"));
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > limit || start.len() > limit + PREFIX {
        return Err(status::too_large("message", length.max(start.len() - PREFIX), limit));
    }
    Ok(())
}

/// A message as it stands in a body.
pub fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// A response of success with `body`.
pub(super) fn respond(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

pub(super) fn trailers(status: &Status) -> HeaderMap {
    if status.code() == tonic::Code::Ok {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        return headers;
    }
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // Its text or metadata does not fit into a header: the code still does.
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    headers
}

/// The time that the client gives the call, if it names one.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    /// Digits that the protocol allows.
    const DIGITS: usize = 8;
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let malformed = || Status::invalid_argument("grpc-timeout is malformed");
    let value = value.to_str().map_err(|_| malformed())?;
    let (digits, unit) =
        value.split_at_checked(value.len().wrapping_sub(1)).ok_or_else(malformed)?;
    if digits.len() > DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(malformed());
    }
    let count: u64 = digits.parse().map_err(|_| malformed())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(malformed()),
    }))
}

/// The server proves that it never looked at the stream: clients send such a call again.
pub fn is_unprocessed(error: &hyper::Error) -> bool {
    let cause =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let reason = cause.reason();
        cause.is_remote()
            && (reason == Some(h2::Reason::REFUSED_STREAM)
                || cause.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}
