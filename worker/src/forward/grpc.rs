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
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use tonic::Status;

use super::{pipe::Answers, watch::Watch};
use crate::wire::status;

/// Flag and length before each message.
const PREFIX: usize = 5;
/// How long the rest of a refused request is waited for.
const LINGER: Duration = Duration::from_secs(10);

/// Every response of the data port.
#[derive(Default)]
pub(super) enum Body {
    #[default]
    Empty,
    /// One message, then the trailers of success.
    Message(Bytes),
    /// What precedes the payload of one message, then that.
    Large(Bytes, Bytes),
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
            Self::Large(head, payload) => {
                let (head, payload) = (std::mem::take(head), std::mem::take(payload));
                *self = Self::Message(payload);
                Poll::Ready(Some(Ok(Frame::data(head))))
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
            Self::Message(_)
            | Self::Large(..)
            | Self::Trailers(_)
            | Self::Answers(_)
            | Self::Watch(_) => false,
        }
    }
}

/// Reads the one message of a request, of at most `limit` bytes. `claim` is asked for the memory
/// of it once its length is known, before more than the first piece was read.
pub(super) async fn read<M: Message + Default>(
    body: &mut Incoming,
    limit: usize,
    mut claim: impl FnMut(usize) -> Result<(), Status>,
) -> Result<M, Status> {
    let mut whole = Bytes::new();
    let mut more = BytesMut::new();
    let mut declared = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Status::cancelled(format!("the request ended before its message: {error}"))
        })?;
        let Ok(bytes) = frame.into_data() else { continue };
        if whole.is_empty() && more.is_empty() {
            whole = bytes;
        } else {
            if more.is_empty() {
                // All of it at once: what grows leaves twice as much behind.
                more.reserve(PREFIX + declared.unwrap_or(0));
                more.extend_from_slice(&std::mem::take(&mut whole));
            }
            more.extend_from_slice(&bytes);
        }
        let start = if more.is_empty() { &whole[..] } else { &more[..] };
        judge(start, limit)?;
        if declared.is_none()
            && let Some(length) = length(start)
        {
            claim(length)?;
            declared = Some(length);
            if start.len() < PREFIX + length && whole.is_empty() {
                more.reserve(PREFIX + length - more.len());
            }
        }
        if declared.is_some_and(|length| whole.len().max(more.len()) > PREFIX + length) {
            return Err(not_one());
        }
    }
    message(if more.is_empty() { whole } else { more.freeze() })
}

/// Lets the rest of a refused request come without keeping it, for a while. Were the stream reset
/// at once, HTTP/2 would count each frame that is under way against the connection, and end it
/// with all of its calls after a thousand.
pub(super) fn discard(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(async move {
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    });
}

/// The one message that a whole body holds.
pub(crate) fn message<M: Message + Default>(mut message: Bytes) -> Result<M, Status> {
    let Some(length) = length(&message) else {
        return Err(Status::invalid_argument("the request holds no message"));
    };
    message.advance(PREFIX);
    if message.len() != length {
        return Err(not_one());
    }
    M::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn not_one() -> Status {
    Status::invalid_argument("the request does not hold one whole message")
}

/// Length of the message that begins here, once its prefix is there.
fn length(start: &[u8]) -> Option<usize> {
    let (prefix, _) = start.split_first_chunk::<PREFIX>()?;
    let [_, length @ ..] = *prefix;
    Some(u32::from_be_bytes(length) as usize)
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

/// A message whose field `tag`, `payload`, is not copied: it comes last, after all other fields.
pub(super) fn around(tag: u32, payload: Bytes, others: &impl Message) -> Body {
    let mut head = BytesMut::with_capacity(PREFIX + others.encoded_len() + 16);
    head.put_bytes(0, PREFIX);
    others.encode_raw(&mut head);
    encode_key(tag, WireType::LengthDelimited, &mut head);
    encode_varint(payload.len() as u64, &mut head);
    let length = (head.len() - PREFIX + payload.len()) as u32;
    head[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Body::Large(head.freeze(), payload)
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
